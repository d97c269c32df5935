"""Model configuration, pooling geometry, and the settings of heads and optimizers."""
