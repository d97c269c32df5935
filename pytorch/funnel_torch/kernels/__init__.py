"""Fast linear layers, dropout, attention and 8-bit products behind plain interfaces."""
