"""Everything about Funnel-Transformer that needs neither PyTorch nor TensorFlow.

The two names most programs start with can be imported from here; they are looked up on first use,
so ``import funnel`` alone stays cheap and pulls in no third-party package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from funnel.config.model import ModelConfig
    from funnel.tokenization import get_tokenizer

__version__ = "0.1.0"
__all__ = ["ModelConfig", "get_tokenizer"]

_HOME = {"ModelConfig": "funnel.config.model", "get_tokenizer": "funnel.tokenization"}


def __getattr__(name: str) -> Any:
    """Import an exported name from its module the first time it is asked for (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'funnel' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value
