"""Model configuration, pooling geometry, and the settings of heads, optimizers and programs."""
