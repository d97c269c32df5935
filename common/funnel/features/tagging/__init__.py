"""Tagged sentences as windows of tokens, and as records."""
