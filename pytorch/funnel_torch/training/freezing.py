"""Freezing of parts of a model: their parameters get no gradient and no optimizer state."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from torch import nn

from funnel.config.training.freezing import EMBEDDINGS, Part, frozen_names
from funnel_torch.training.optimizer import _EMBEDDING, _LAYER

logger = logging.getLogger(__name__)


def parameter_parts(names: Iterable[str]) -> dict[str, Part | None]:
    """Return the part that every parameter belongs to; None for heads and other parts."""
    parts: dict[str, Part | None] = {}
    for name in names:
        match = _LAYER.match(name)
        if match:
            parts[name] = (match[1], int(match[2]))
        else:
            parts[name] = EMBEDDINGS if _EMBEDDING.match(name) else None
    return parts


def freeze(model: nn.Module, parts: str) -> None:
    """Freeze parts of a model, see :func:`funnel.config.training.freezing.frozen_names`.

    Raises:
        ConfigError: the model has no such part.
    """
    named = dict(model.named_parameters())
    for name in frozen_names(parts, parameter_parts(named)):
        named[name].requires_grad_(False)


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Return the number of parameters: ``total``, and ``trained`` without the frozen ones."""
    parameters = list(model.parameters())
    return {
        "total": sum(parameter.numel() for parameter in parameters),
        "trained": sum(p.numel() for p in parameters if p.requires_grad),
    }


def log_frozen(model: nn.Module) -> None:
    """Log how many parameters are frozen, if any are."""
    count = count_parameters(model)
    total, frozen = count["total"], count["total"] - count["trained"]
    if frozen:
        logger.info(
            "%s of %s parameters are frozen (%.1f %%): no gradient, no optimizer state",
            *(f"{frozen:,}", f"{total:,}", 100.0 * frozen / total),
        )
