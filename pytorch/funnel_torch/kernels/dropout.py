"""Dropout that spends less on random numbers, and keeps a byte per entry instead of a float.

On a CPU ``torch.nn.functional.dropout`` draws one number per entry, 15 % of a training step. Here
one draw of 64 bits decides four entries, so a rate is rounded to a multiple of 1 / 65536.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

_STEPS = 2**16


class Dropout(nn.Dropout):
    """``nn.Dropout`` with :func:`dropout`."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return dropout(x, self.p) if self.training else x


def dropout(x: Tensor, rate: float) -> Tensor:
    """``x / (1 - rate)`` where an entry is kept, 0 elsewhere; draws from the global generator."""
    if not 0 < rate < 1:
        return F.dropout(x, rate)
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, rate)
    return _Dropout.apply(x, rate)


def draw_kept(shape: Sequence[int], rate: float) -> Tensor:
    """True with probability ``1 - rate``, bool on the CPU."""
    count = torch.Size(shape).numel()
    draws = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    threshold = round(rate * _STEPS) - _STEPS // 2
    return (draws.view(torch.int16)[:count] >= threshold).view(shape)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, rate: float) -> Tensor:
        kept = draw_kept(x.shape, rate)
        ctx.scale = 1 / (1 - rate)
        ctx.save_for_backward(kept)
        return torch.ops.aten.native_dropout_backward(x, kept, ctx.scale)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return torch.ops.aten.native_dropout_backward(grad, kept, ctx.scale), None
