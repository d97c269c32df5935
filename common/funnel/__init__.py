"""Funnel-Transformer without a deep-learning framework: configs, data, checkpoints, metrics.

The names in ``__all__`` are imported on first use, so that ``import funnel`` is fast and needs no
third-party package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from funnel.config.model import ModelConfig
    from funnel.tokenization import get_tokenizer
    from funnel.tokenization.choice import load_tokenizer

__version__ = "0.1.0"
__all__ = ["ModelConfig", "get_tokenizer", "load_tokenizer"]

_MODULES = {
    "ModelConfig": "funnel.config.model",
    "get_tokenizer": "funnel.tokenization",
    "load_tokenizer": "funnel.tokenization.choice",
}


def __getattr__(name: str) -> Any:
    """Import an exported name from its module on first access (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module 'funnel' has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value
