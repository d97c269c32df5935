"""The number of queries that a CPU attends with at a time."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from funnel_torch.kernels.attention import attention
from funnel_torch.kernels.choices import choices, ones
from funnel_torch.kernels.config import AUTO

_DEFAULT, _DEFAULT_CUDA = 128, 1024
# Chunks to choose from; the caller's default comes first.
_SIZES = (64, 128, 256)
# Multiply-adds of the content scores below which chunks are not compared.
_MIN_MULTIPLY_ADDS = 2**25
# The measured lengths: longer ones behave like the longest.
_MAX_SAMPLE = 512
# Chunks of different sizes took equal times wherever they were compared; one millisecond of noise
# must not make runs differ.
_MARGIN = 0.85


def query_chunks(length: int, q: Tensor, is_training: bool = False) -> list[slice]:
    """Split the queries into ranges to attend with at a time.

    A chunk of c queries meets Tk + s c distances instead of Tk + s Tq (s is the stride of queries
    over keys), and its scores stay in a CPU's cache; memory grows with Tk instead of its square.
    The masks of dropout are sampled by chunk: with ``is_training`` a pass without gradients has
    the chunks of one with gradients, as layers that are computed again need.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return [slice(0, length)]
    size = query_chunk(q, _DEFAULT_CUDA if q.is_cuda else _DEFAULT, is_training)
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def query_chunk(q: Tensor, default: int, is_training: bool = False) -> int:
    """Return how many of the queries [N, B, Tq, d] to attend with at a time.

    Training keeps the default, which bounds its memory.
    """
    wanted = choices.settings.attention_chunk
    if wanted != AUTO:
        return int(wanted)
    heads, batch, length, size = q.shape
    is_large = length > default and heads * batch * length**2 * size >= _MIN_MULTIPLY_ADDS
    is_measured = q.device.type == "cpu" and q.dtype == torch.float32
    is_training = is_training or (torch.is_grad_enabled() and q.requires_grad)
    if is_training or not (is_large and is_measured):
        return default
    length = min(_MAX_SAMPLE, 1 << (length - 1).bit_length())
    threads = torch.get_num_threads()
    name = f"queries at a time, length {length}, heads of {size}, {threads} thread(s)"
    options = [default, *(other for other in _SIZES if other != default)]
    chosen = choices.choose(
        name,
        [str(option) for option in options],
        lambda: [partial(_attend, _sample(length, size, threads), one) for one in options],
        _MARGIN,
    )
    return int(chosen)


def _sample(length: int, size: int, threads: int) -> tuple[Tensor, Tensor]:
    """Return queries, also used as keys and values, and projected positions."""
    pairs = 2 * threads
    return ones(pairs, 1, length, size), ones(pairs, size, 2 * length)


def _attend(sample: tuple[Tensor, Tensor], chunk: int) -> list[Tensor]:
    """Attend in chunks with shifted position scores, as an encoder layer does."""
    q, positions = sample
    length, outputs = q.shape[2], []
    for start in range(0, length, chunk):
        part = q[:, :, start : start + chunk]
        rows = part.shape[2]
        scores = torch.matmul(part.flatten(1, 2), positions[..., : rows + length])
        aligned = scores.flatten(1)[:, rows - 1 :][:, : rows * (rows + length - 1)]
        bias = aligned.unflatten(1, (1, rows, -1))[..., :length]
        outputs.append(attention(part, q, q, bias.add_(1.0), 0.125, 0.0))
    return outputs
