"""The same choices of kernels in all processes of a run."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import nn

from funnel_torch.kernels.choices import choices
from funnel_torch.kernels.config import AUTO
from funnel_torch.kernels.linear import choose_linear, has_choice

# Entries of a weight that some batch will meet with enough tokens for a choice.
_MIN_ENTRIES = 2**16


class _World(Protocol):
    """The part of :class:`~funnel_torch.training.distributed.DistributedContext` used here."""

    @property
    def size(self) -> int: ...

    @property
    def is_rank_zero(self) -> bool: ...

    @property
    def device(self) -> torch.device: ...

    def broadcast(self, value: Any) -> Any: ...


def share_choices(model: nn.Module, world: _World) -> None:
    """Let rank 0 choose for all processes, before training; alone, nothing is done in advance.

    Shapes that are met later and are not among the weights of the model take the default.
    """
    if world.size == 1 or world.device.type != "cpu":
        return
    if world.is_rank_zero and choices.settings.linear_backend == AUTO and has_choice():
        for outputs, inputs in sorted(_products(model)):
            choose_linear((inputs, outputs), (False, False))
            choose_linear((outputs, inputs), (False, True))
            choose_linear((outputs, inputs), (True, True))
            choose_linear((inputs, outputs), (False, False), gelu=True)
    choices.fix(world.broadcast(choices.made()))


def _products(model: nn.Module) -> set[tuple[int, int]]:
    """Return outputs and inputs of the weights of linear layers that are large enough."""
    found = set()
    for name, parameter in model.named_parameters():
        if parameter.dim() != 2 or "embeddings" in name:
            continue
        outputs, inputs = parameter.shape
        # The packed projections of attention are also used in parts.
        parts = (1, 2, 3) if name.endswith("qkv_weight") else (1,)
        found |= {(outputs * part // len(parts), inputs) for part in parts}
    return {sizes for sizes in found if sizes[0] * sizes[1] >= _MIN_ENTRIES}
