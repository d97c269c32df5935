"""Settings of training: optimizer, losses, economy, several seeds."""
