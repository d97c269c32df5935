"""Dropout that needs fewer random numbers and saves one byte per element instead of a float.

On a CPU ``torch.nn.functional.dropout`` draws one random number per element, which is 15 % of a
training step. Here one draw of 64 bits decides four elements (16 bits each), so a rate is rounded
to a multiple of 1 / 65536, but neither to 0 nor to 1.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

_STEPS = 2**16
# Elements of the mask that one thread samples at a time, in a fifth of a millisecond.
_BLOCK = 2**18


class Dropout(nn.Dropout):
    """``nn.Dropout`` computed by :func:`dropout`."""

    def forward(self, x: Tensor) -> Tensor:
        """Zero random elements of ``x``, of any shape, in training mode."""
        return dropout(x, self.p) if self.training else x

    def add(self, residual: Tensor, x: Tensor) -> Tensor:
        """Return ``residual`` plus the module's result for ``x`` of the same shape."""
        return add_dropout(residual, x, self.p) if self.training else residual + x


def dropout(x: Tensor, rate: float) -> Tensor:
    """Return ``x / (1 - rate)`` where an element is kept and 0 elsewhere.

    The random bits come from the global generator.
    """
    return _Dropout.apply(x, rate) if _is_own(x, rate) else F.dropout(x, rate)


def add_dropout(residual: Tensor, x: Tensor, rate: float) -> Tensor:
    """Return ``residual + dropout(x, rate)``, two tensors of one shape, in one pass on a CPU."""
    if not _is_own(x, rate) or residual.shape != x.shape or residual.dtype != x.dtype:
        return residual + dropout(x, rate)
    return _AddDropout.apply(residual, x, rate)


def sample_keep_mask(shape: Sequence[int], rate: float) -> Tensor:
    """Sample a uint8 tensor on the CPU that is 1 with probability ``1 - rate``, else 0.

    Blocks have generators of their own, so that the result does not depend on the number of
    threads. They are NumPy's, which takes half the time of PyTorch's; that one, whose state a run
    saves, provides the seed.
    """
    keep = np.empty(torch.Size(shape).numel(), dtype=np.bool_)
    number = torch.empty((), dtype=torch.int64, device="cpu").random_(-(2**63), None)
    seed = int(number.item()) % 2**64
    steps = min(max(round(rate * _STEPS), 1), _STEPS - 1)
    sample = partial(_sample_block, keep, seed, np.int16(steps - _STEPS // 2))
    blocks, threads = range(-(-len(keep) // _BLOCK)), torch.get_num_threads()
    if min(len(blocks), threads) > 1:
        list(_pool(threads).map(sample, blocks))
    else:
        for block in blocks:
            sample(block)
    return torch.from_numpy(keep.view(np.uint8)).view(shape)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="dropout")


# A forked process has the pool without its threads, and would wait for them for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)


def _sample_block(keep: np.ndarray, seed: int, threshold: np.int16, block: int) -> None:
    part = keep[block * _BLOCK : (block + 1) * _BLOCK]
    # Numbers of 64 bits, read as four independent int16 numbers each.
    words = np.random.SFC64([seed, block]).random_raw((len(part) + 3) // 4)
    np.greater_equal(words.view(np.int16)[: len(part)], threshold, out=part)


def apply_mask(x: Tensor, keep: Tensor, out: Tensor | None = None) -> Tensor:
    """Return ``x`` where the uint8 tensor ``keep`` is 1 and 0 elsewhere.

    A product of two floats is so much faster than one of a float and an integer that the
    conversion is worth a pass of its own.
    """
    mask = keep.to(x.dtype) if out is None else out.copy_(keep)
    return mask.mul_(x)


def _is_own(x: Tensor, rate: float) -> bool:
    is_traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return 0 < rate < 1 and x.device.type == "cpu" and not is_traced


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        keep = sample_keep_mask(x.shape, rate)
        ctx.scale = 1 / (1 - rate)
        ctx.save_for_backward(keep)
        return apply_mask(x, keep).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (keep,) = ctx.saved_tensors
        return _scaled(grad, keep, ctx.scale), None


class _AddDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, residual: Tensor, x: Tensor, rate: float) -> Tensor:
        keep = sample_keep_mask(x.shape, rate)
        ctx.scale = 1 / (1 - rate)
        ctx.save_for_backward(keep)
        return torch.addcmul(residual, x, keep.to(x.dtype), value=ctx.scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        (keep,) = ctx.saved_tensors
        return grad, _scaled(grad, keep, ctx.scale), None


def _scaled(grad: Tensor, keep: Tensor, scale: float) -> Tensor:
    """Return the gradient by what was dropped out; differentiable where it has to be."""
    if torch.is_grad_enabled():
        return grad * keep * scale
    return apply_mask(grad, keep).mul_(scale)
