"""Model configuration, pooling geometry, and the settings of heads, optimizers and programs."""

from funnel.config.model import ModelConfig

__all__ = ["ModelConfig"]
