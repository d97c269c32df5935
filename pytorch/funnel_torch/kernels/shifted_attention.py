"""Relative attention of a training step on a CPU, in few passes over the matrices of scores.

Automatic differentiation of the relative shift (:mod:`funnel_torch.kernels.relative_shift`) would
write a matrix of zeros and a copy of the gradients for each view. Here forward and backward pass
work on some queries at a time, in memory that is used again for the next ones. For the backward
pass one matrix of attention weights is kept, and one byte per weight for the dropout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from funnel.config.geometry import RelativeRange
from funnel_torch.kernels.dropout import apply_mask, sample_keep_mask
from funnel_torch.kernels.relative_shift import (
    ChunkShift,
    align,
    chunk_shift,
    write_bias,
    write_cls,
)


class ShiftedInputs(NamedTuple):
    """The tensors of one call; all but the last two may need a gradient.

    Attributes:
        q: queries, r_w_bias included, [N, B, Tq, d].
        k, v: keys and values [N, B, Tk, d].
        position_bias: ``r_r_bias - r_w_bias`` [N, d].
        position_keys: projected embeddings of R distances [N, d, R].
        bonus: extra score of keys of the query's own segment [N, B, Tq, 1], or None.
        cls_column: score of the separate [CLS] key [N, B, Tq, 1]; None is 0.
        same_segment: which pairs get the bonus [B, Tq, Tk], or None.
        key_bias: added to all scores of a key [B, 1, Tk], or None.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    position_bias: Tensor
    position_keys: Tensor
    bonus: Tensor | None = None
    cls_column: Tensor | None = None
    same_segment: Tensor | None = None
    key_bias: Tensor | None = None


class ShiftedSettings(NamedTuple):
    """What is not a tensor.

    Attributes:
        scale: factor of the content scores.
        range: the R distances.
        separate_cls: row 0 has no position and no segment scores, nor has column 0.
        dropout: rate at which attention weights are dropped.
        chunks: ranges of queries to attend with at a time.
    """

    scale: float
    range: RelativeRange
    separate_cls: bool
    dropout: float
    chunks: Sequence[slice]


def shifted_attention(inputs: ShiftedInputs, settings: ShiftedSettings) -> Tensor:
    """Attend with relative positions; differentiable once.

    Returns:
        [N, B, Tq, d].
    """
    return _ShiftedAttention.apply(*inputs, settings)


def writes_gradients(x: Tensor) -> bool:
    """Return whether a call on a CPU needs gradients, and is not part of a traced graph."""
    is_traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    needs_grad = torch.is_grad_enabled() and x.requires_grad
    return x.device.type == "cpu" and needs_grad and not is_traced


def split_heads(packed: Tensor, heads: int, size: int) -> tuple[Tensor, ...]:
    """Split projections of any number of parts [B, T, parts * N * d] into [N, B, T, d] each.

    In a training step on a CPU they are contiguous, and their gradients are written next to each
    other at once; else they are views.
    """
    if writes_gradients(packed):
        return _SplitHeads.apply(packed, heads, size)
    return _view_heads(packed, heads, size).unbind(0)


def _view_heads(packed: Tensor, heads: int, size: int) -> Tensor:
    return packed.unflatten(-1, (-1, heads, size)).permute(2, 3, 0, 1, 4)


class _SplitHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, packed: Tensor, heads: int, size: int) -> tuple[Tensor, ...]:
        return _view_heads(packed, heads, size).contiguous().unbind(0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        # [N, B, T, d] each.
        stacked = torch.stack([grad.permute(1, 2, 0, 3) for grad in grads], 2)
        return stacked.flatten(2), None, None


class _ShiftedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        inputs, settings = ShiftedInputs(*arguments[:-1]), arguments[-1]
        forward = _Forward(inputs, settings)
        outputs, weights, masks = [], [], []
        for rows in settings.chunks:
            scores = forward.scores(rows)
            weights.append(torch.softmax(scores, -1))
            kept = weights[-1]
            if settings.dropout:
                masks.append(sample_keep_mask(kept.shape, settings.dropout))
                kept = apply_mask(kept, masks[-1], out=scores)
            outputs.append(torch.matmul(kept, inputs.v))
        ctx.settings = settings
        ctx.save_for_backward(*inputs[:_SAVED], *weights, *masks)
        # Dropout's factor goes onto the result, which is smaller than the matrix of weights.
        return _join(outputs).mul_(1 / (1 - settings.dropout))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        settings, count = ctx.settings, len(ctx.settings.chunks)
        # Read once: with recomputed layers each access would compute them again.
        saved = ctx.saved_tensors
        inputs, (weights, masks) = ShiftedInputs(*saved[:_SAVED]), _halve(saved[_SAVED:], count)
        grad = torch.mul(grad, 1 / (1 - settings.dropout)).contiguous()
        backward = _Backward(inputs, settings)
        for rows, chunk_weights, keep in zip(settings.chunks, weights, masks, strict=True):
            backward.add(grad[:, :, rows].flatten(0, 1), rows, chunk_weights, keep)
        return *backward.gradients(), None, None, None


def _halve(tensors: Sequence[Tensor], count: int) -> tuple[Sequence[Tensor], Sequence[Any]]:
    """Return the attention weights and dropout masks of ``count`` chunks; None without dropout."""
    return tensors[:count], tensors[count:] or (None,) * count


# Without key_bias, which the gradients do not depend on.
_SAVED = len(ShiftedInputs._fields) - 1


class _Scratch:
    """Memory that is used for one chunk of queries after the other."""

    def __init__(self, like: Tensor, elements: int) -> None:
        self._memory = like.new_empty(elements)

    def view(self, shape: Sequence[int]) -> Tensor:
        """Return a contiguous tensor that shares the memory."""
        return self._memory[: math.prod(shape)].view(shape)


class _Forward:
    """The scores of some queries after the other."""

    def __init__(self, inputs: ShiftedInputs, settings: ShiftedSettings) -> None:
        self._inputs, self._settings = inputs, settings
        self._queries = _position_queries(inputs)
        self._key_length = inputs.k.shape[2]
        rows, pairs = settings.chunks[0], inputs.q.shape[0] * inputs.q.shape[1]
        longest = chunk_shift(settings.range, rows, self._key_length)
        pairs *= rows.stop - rows.start
        self._products = _Scratch(inputs.q, pairs * longest.count)
        self._scores = _Scratch(inputs.q, pairs * self._key_length)

    def scores(self, rows: slice) -> Tensor:
        """Return the scores of some queries [N, B, rows, Tk], valid until the next call."""
        inputs = self._inputs
        scores = self._position_scores(self._queries[:, :, rows], rows)
        if self._settings.separate_cls:
            column = None if inputs.cls_column is None else inputs.cls_column[:, :, rows, 0]
            write_cls(scores, column, inputs.key_bias, rows.start == 0)
        queries, keys = inputs.q[:, :, rows].flatten(0, 1), inputs.k.flatten(0, 1)
        _add_product(scores, queries, keys.mT, self._settings.scale)
        return scores

    def _position_scores(self, queries: Tensor, rows: slice) -> Tensor:
        """Return everything but the content scores, without regard to [CLS]."""
        inputs, shape = self._inputs, queries.shape[:3]
        chunk = chunk_shift(self._settings.range, rows, self._key_length)
        products = self._products.view((*shape, chunk.count))
        keys = inputs.position_keys.narrow(-1, chunk.first, chunk.count)
        torch.bmm(queries.flatten(1, 2), keys, out=products.flatten(1, 2))
        scores = self._scores.view((*shape, self._key_length))
        segment = None
        if inputs.bonus is not None and inputs.same_segment is not None:
            segment = inputs.bonus[:, :, rows], inputs.same_segment[:, rows]
        aligned = align(products, chunk.offset, chunk.ratio, self._key_length)
        write_bias(scores, aligned, inputs.key_bias, segment)
        return scores


class _Backward:
    """The gradients, of some queries after the other."""

    def __init__(self, inputs: ShiftedInputs, settings: ShiftedSettings) -> None:
        self._inputs, self._settings = inputs, settings
        self._queries = _position_queries(inputs)
        rows = settings.chunks[0]
        pairs = math.prod(inputs.q.shape[:2]) * (rows.stop - rows.start) * inputs.k.shape[2]
        self._scratch = _Scratch(inputs.q, pairs), _Scratch(inputs.q, pairs)
        self._shifted: Tensor | None = None
        self._k, self._v = torch.zeros_like(inputs.k), torch.zeros_like(inputs.v)
        self._keys = torch.zeros_like(inputs.position_keys)
        self._position_bias = torch.zeros_like(inputs.position_bias)
        self._q: list[Tensor] = []
        self._bonus: list[Tensor] = []
        self._columns: list[Tensor] = []

    def add(self, grad: Tensor, rows: slice, weights: Tensor, keep: Tensor | None) -> None:
        """Add the gradients of some queries.

        Args:
            grad: of their results [N * B, rows, d], dropout's factor included.
            rows: which queries these are.
            weights: their attention weights [N, B, rows, Tk].
            keep: which of them dropout kept.
        """
        inputs, scale = self._inputs, self._settings.scale
        kept, grad_weights = (scratch.view(weights.shape) for scratch in self._scratch)
        dropped = weights if keep is None else apply_mask(weights, keep, kept)
        _add_product(self._v, dropped.flatten(0, 1).mT, grad)
        torch.bmm(grad, inputs.v.flatten(0, 1).mT, out=grad_weights.flatten(0, 1))
        # Each step reads one scratch and writes the other.
        scores = kept
        if keep is not None:
            scores, grad_weights = grad_weights, apply_mask(grad_weights, keep, kept)
        softmax_backward = torch.ops.aten._softmax_backward_data.out
        softmax_backward(grad_weights, weights, -1, weights.dtype, grad_input=scores)
        by_pair, queries = scores.flatten(0, 1), inputs.q[:, :, rows].flatten(0, 1)
        _add_product(self._k, by_pair.mT, queries, scale)
        content = torch.bmm(by_pair, inputs.k.flatten(0, 1)).mul_(scale)
        by_position = self._add_bias(scores, rows)
        self._q.append(by_position.add_(content.view_as(by_position)))

    def _add_bias(self, scores: Tensor, rows: slice) -> Tensor:
        """Add the gradients by everything but the content scores, and overwrite ``scores``.

        Returns:
            The gradient by the queries of position scores [N, B, rows, d].
        """
        inputs = self._inputs
        if self._settings.separate_cls:
            if rows.start == 0:
                scores[:, :, 0] = 0
            if inputs.cls_column is not None:
                self._columns.append(scores[..., :1].clone())
            scores[..., 0] = 0
        if inputs.bonus is not None and inputs.same_segment is not None:
            same = inputs.same_segment[:, rows].to(scores.dtype)
            self._bonus.append(torch.einsum("nbij,bij->nbi", scores, same)[..., None])
        chunk = chunk_shift(self._settings.range, rows, scores.shape[3])
        shifted = self._shift(scores, chunk).flatten(1, 2)
        queries = self._queries[:, :, rows].flatten(1, 2)
        keys, grad_keys = (
            table.narrow(-1, chunk.first, chunk.count)
            for table in (inputs.position_keys, self._keys)
        )
        grad_keys.add_(torch.bmm(queries.mT, shifted))
        grad = torch.bmm(shifted, keys.mT)
        self._position_bias.add_(grad.sum(1))
        return grad.view(*scores.shape[:3], -1)

    def _shift(self, scores: Tensor, chunk: ChunkShift) -> Tensor:
        """Return the gradient by the products with distances [N, B, rows, count]."""
        shape = torch.Size((*scores.shape[:3], chunk.count))
        # Chunks of one size write the same entries; the others stay 0.
        if self._shifted is None or self._shifted.shape != shape:
            self._shifted = scores.new_zeros(shape)
        align(self._shifted, chunk.offset, chunk.ratio, scores.shape[3]).copy_(scores)
        return self._shifted

    def gradients(self) -> tuple[Tensor | None, ...]:
        """Return the gradients by the inputs, up to ``cls_column``."""
        bonus, columns = (_join(x) if x else None for x in (self._bonus, self._columns))
        return _join(self._q), self._k, self._v, self._position_bias, self._keys, bonus, columns


def _position_queries(inputs: ShiftedInputs) -> Tensor:
    return inputs.q + inputs.position_bias[:, None, None]


def _add_product(total: Tensor, first: Tensor, second: Tensor, factor: float = 1.0) -> None:
    """Add ``factor * first @ second`` [N * B, ...] to ``total`` [N, B, ...].

    Not ``baddbmm_``, which PyTorch's counter of FLOPs does not know.
    """
    flat = total.flatten(0, 1)
    torch.baddbmm(flat, first, second, alpha=factor, out=flat)


def _join(chunks: list[Tensor]) -> Tensor:
    return chunks[0] if len(chunks) == 1 else torch.cat(chunks, 2)
