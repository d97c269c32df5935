"""Attention over few keys in evaluation on a CPU, by matrix products and a softmax of its own.

PyTorch's fused kernel is made for long rows. For short ones its parts are faster: products that
read queries, keys and values where they are, a head at a time, and an exponential of all scores. Up
to how many keys that is so depends on the processor and on the number of sequences; it is measured,
see :mod:`funnel_torch.kernels.choices`.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from funnel_torch.kernels.choices import Run, choices, ones
from funnel_torch.kernels.config import AUTO, PARTS, SDPA

# Keys from which rows are long everywhere; the measured classes end there.
_MAX_KEYS = 256
# Multiply-adds of a measured sample, a millisecond at most: more sequences take as long each.
_SAMPLE_MULTIPLY_ADDS = 2**23
# Sums of exponentials with all digits: no term is infinite, and none that matters is 0.
_MIN_SUM, _MAX_SUM = 1e-20, 1e30


def prefers_parts(q: Tensor, k: Tensor) -> bool:
    """Return whether :func:`attend_in_parts` computes the queries [N, B, Tq, d] of a CPU."""
    wanted = choices.settings.short_attention
    if wanted != AUTO:
        return wanted == PARTS
    heads, batch, _, size = q.shape
    if k.shape[2] > _MAX_KEYS or not (batch and k.shape[2]):
        return False
    keys = 1 << (k.shape[2] - 1).bit_length()
    # The middle of the class, and odd as most lengths are: PyTorch's kernel prefers powers of 2.
    length = 3 * keys // 4 + 1
    most = max(1, _SAMPLE_MULTIPLY_ADDS // (heads * length * length * size))
    batch = min(1 << (batch - 1).bit_length(), 1 << (most.bit_length() - 1))
    threads = torch.get_num_threads()
    name = f"{batch} x {keys} keys, {heads} heads of {size}, {threads} thread(s)"
    options = (SDPA, PARTS)
    return choices.choose(name, options, lambda: _samples(heads, batch, length, size)) == PARTS


def attend_in_parts(q: Tensor, k: Tensor, v: Tensor, scores: Tensor, scale: float) -> Tensor:
    """Compute ``softmax(scale * q @ k.T + scores) @ v``.

    Args:
        q: queries [N, B, Tq, d].
        k: keys [N, B, Tk, d].
        v: values [N, B, Tk, d].
        scores: what is added, [N, B, Tq, Tk], contiguous; overwritten.
        scale: factor of the products.

    Returns:
        [N, B, Tq, d], in memory [B, Tq, N, d].
    """
    heads, batch, length, size = q.shape
    # One product for all heads would need copies of its operands with the heads outside.
    for products, queries, keys in zip(scores, q, k.transpose(2, 3), strict=True):
        products.baddbmm_(queries, keys, alpha=scale)
    weights, sums = _exponentials(scores)
    mixed = scores.new_empty(heads, batch, length, size)
    for mixture, shares, values in zip(mixed, weights, v, strict=True):
        torch.bmm(shares, values, out=mixture)
    merged = mixed.new_empty(batch, length, heads, size).permute(2, 0, 1, 3)
    return torch.div(mixed, sums, out=merged)


def _exponentials(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the exponentials of scores [..., Tk], and their sums [..., 1].

    A softmax subtracts the maximum of a row first, against overflow. To find it costs more than all
    the rest, so it is done only where the sums show that it is needed.
    """
    weights = torch.exp(scores)
    sums = weights.sum(-1, keepdim=True)
    lowest, highest = torch.aminmax(sums)
    if lowest.item() > _MIN_SUM and highest.item() < _MAX_SUM:
        return weights, sums
    return torch.softmax(scores, -1), torch.ones_like(sums)


def _samples(heads: int, batch: int, length: int, size: int) -> list[Run]:
    """Return attention to time: PyTorch's kernel, then its parts."""
    q, k, v = ones(batch, length, 3, heads, size).permute(2, 3, 0, 1, 4)
    bias = ones(heads, batch, length, length)
    # The second adds to the bias each time, next to nothing.
    scale = 1e-6
    return [
        partial(F.scaled_dot_product_attention, q, k, v, bias, scale=scale),
        partial(attend_in_parts, q, k, v, bias, scale),
    ]
