"""Model configuration, pooling geometry, and the settings of heads, optimizers and programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from funnel.config.model import ModelConfig

__all__ = ["ModelConfig"]


def __getattr__(name: str) -> Any:
    """Import ModelConfig on first access (PEP 562): most modules here need no model."""
    if name != "ModelConfig":
        raise AttributeError(f"module 'funnel.config' has no attribute {name!r}")
    from funnel.config.model import ModelConfig

    return ModelConfig
