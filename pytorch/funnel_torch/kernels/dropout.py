"""Dropout that needs fewer random numbers and saves one byte per element instead of a float.

On a CPU ``torch.nn.functional.dropout`` draws one random number per element, which is 15 % of a
training step. Here one draw of 64 bits decides four elements (16 bits each), so a rate is rounded
to a multiple of 1 / 65536.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_STEPS = 2**16


class Dropout(nn.Dropout):
    """``nn.Dropout`` computed by :func:`dropout`."""

    def forward(self, x: Tensor) -> Tensor:
        """Zero random elements of ``x``, of any shape, in training mode."""
        return dropout(x, self.p) if self.training else x


def dropout(x: Tensor, rate: float) -> Tensor:
    """Return ``x / (1 - rate)`` where an element is kept and 0 elsewhere.

    The random bits come from the global generator.
    """
    if not 0 < rate < 1:
        return F.dropout(x, rate)
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, rate)
    return _Dropout.apply(x, rate)


def sample_keep_mask(shape: Sequence[int], rate: float) -> Tensor:
    """Sample a bool tensor on the CPU that is True with probability ``1 - rate``."""
    count = torch.Size(shape).numel()
    # int64 numbers over their full range, read as four independent int16 numbers each.
    words = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    threshold = round(rate * _STEPS) - _STEPS // 2
    return (words.view(torch.int16)[:count] >= threshold).view(shape)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        keep = sample_keep_mask(x.shape, rate)
        ctx.scale = 1 / (1 - rate)
        ctx.save_for_backward(keep)
        # Scaling by a mask is what the backward pass of native dropout computes, in one pass.
        return torch.ops.aten.native_dropout_backward(x, keep, ctx.scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (keep,) = ctx.saved_tensors
        return torch.ops.aten.native_dropout_backward(grad, keep, ctx.scale), None
