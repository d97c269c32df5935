"""Triton functions for one tile of relative attention; ``triton_attention`` has the kernels.

Names: q, k, v and out as usual; p the attention weights; d in front of a name its gradient; i, j
and t index queries, keys and distances; ``pair`` is ``n * B + b`` of head n and sequence b.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

# Rows of a tile beyond the last query get this logarithm of the sum: all their weights are 0.
_NO_ROW = tl.constexpr(1e30)
# Segment id of [CLS]: funnel_torch.models.attention_inputs.SEGMENT_CLS.
_SEGMENT_CLS = tl.constexpr(2)


class Inputs(NamedTuple):
    """Pointers of what all kernels read; None where an input is left out.

    Attributes:
        q, k, v: [N, B, T, d].
        position_query: [N, B, Tq, d].
        position_keys: [N, R, d], contiguous.
        bonus, cls_column: float32 [N, B, Tq], contiguous.
        query_segments, key_segments: int32 [B, Tq] and [B, Tk], contiguous.
        key_bias: float32 [B, Tk], contiguous.
    """

    q: Any
    k: Any
    v: Any
    position_query: Any
    position_keys: Any
    bonus: Any
    cls_column: Any
    query_segments: Any
    key_segments: Any
    key_bias: Any


class Strides(NamedTuple):
    """Strides of the dimensions N, B and T of the tensors of shape [N, B, T, d]."""

    q: tuple[int, int, int]
    k: tuple[int, int, int]
    v: tuple[int, int, int]
    position_query: tuple[int, int, int]
    out: tuple[int, int, int]


class Sizes(NamedTuple):
    """Lengths and numbers of one call.

    Attributes:
        batch: B.
        queries, keys, distances: Tq, Tk and R.
        offset: index of the distance of query 0 and key 0.
        scale: factor of the content scores.
        dropout: rate at which attention weights are dropped.
        seed: of the dropout.
    """

    batch: int
    queries: int
    keys: int
    distances: int
    offset: int
    scale: float
    dropout: float
    seed: int


class Saved(NamedTuple):
    """Pointers of what the backward kernels read besides the inputs.

    Attributes:
        d_out: [N, B, Tq, d], with the strides of out.
        log_sum: logarithm of each row's sum of exponentials, float32 [N, B, Tq].
        delta: sum of ``out * d_out`` of each row, float32 [N, B, Tq].
    """

    d_out: Any
    log_sum: Any
    delta: Any


@triton.jit
def load_rows(matrix, stride, rows, length, SIZE: tl.constexpr):
    """Load rows [len(rows), SIZE] of a matrix; rows outside it are 0."""
    inside = ((rows >= 0) & (rows < length))[:, None]
    return tl.load(matrix + rows[:, None] * stride + tl.arange(0, SIZE)[None, :], inside, 0.0)


@triton.jit
def load_head(tensor, strides, sizes, pair, rows, length, SIZE: tl.constexpr):
    """Load rows of one head and sequence of a tensor [N, B, T, SIZE]."""
    n, b = pair // sizes.batch, pair % sizes.batch
    matrix = tensor + n.to(tl.int64) * strides[0] + b.to(tl.int64) * strides[1]
    return load_rows(matrix, strides[2], rows, length, SIZE)


@triton.jit
def load_distances(inputs, sizes, n, t, SIZE: tl.constexpr):
    """Load the projected embeddings [len(t), SIZE] of head ``n``."""
    matrix = inputs.position_keys + n.to(tl.int64) * SIZE * sizes.distances
    return load_rows(matrix, SIZE, t, sizes.distances, SIZE)


@triton.jit
def store_rows(matrix, stride, rows, length, values, SIZE: tl.constexpr):
    """Store ``values`` [len(rows), SIZE] in the dtype of ``matrix``."""
    pointers = matrix + rows[:, None] * stride + tl.arange(0, SIZE)[None, :]
    tl.store(pointers, values.to(matrix.dtype.element_ty), (rows < length)[:, None])


@triton.jit
def load_query_values(pointer, sizes, pair, i, other):
    """Load one number per query of a contiguous [N, B, Tq]; ``other`` beyond the last query."""
    return tl.load(pointer + pair.to(tl.int64) * sizes.queries + i, i < sizes.queries, other)


@triton.jit
def store_query_values(pointer, sizes, pair, i, values):
    """Store one number per query of a contiguous [N, B, Tq]."""
    tl.store(pointer + pair.to(tl.int64) * sizes.queries + i, values, i < sizes.queries)


@triton.jit
def load_saved(saved, strides, sizes, pair, i, SIZE: tl.constexpr):
    """Load d_out, log_sum and delta of queries ``i``."""
    d_out = load_head(saved.d_out, strides.out, sizes, pair, i, sizes.queries, SIZE)
    log_sum = load_query_values(saved.log_sum, sizes, pair, i, _NO_ROW)
    return d_out, log_sum, load_query_values(saved.delta, sizes, pair, i, 0.0)


@triton.jit
def is_same_segment(inputs, sizes, pair, i, j):
    """Return whether queries i and keys j count as one segment; [CLS] is in every segment."""
    b = pair % sizes.batch
    row = tl.load(inputs.query_segments + b * sizes.queries + i, i < sizes.queries, 0)
    inside = (j >= 0) & (j < sizes.keys)
    column = tl.load(inputs.key_segments + b * sizes.keys + j, inside, 0)
    same = row[:, None] == column[None, :]
    return same | (row == _SEGMENT_CLS)[:, None] | (column == _SEGMENT_CLS)[None, :]


@triton.jit
def add_segment_scores(scores, inputs, sizes, pair, i, j):
    """Add the segment scores of queries i and keys j."""
    if inputs.bonus is not None:
        bonus = load_query_values(inputs.bonus, sizes, pair, i, 0.0)
        same = is_same_segment(inputs, sizes, pair, i, j)
        scores += tl.where(same, bonus[:, None], 0.0)
    return scores


@triton.jit
def replace_cls_column(scores, inputs, sizes, pair, i, j):
    """Give the separate [CLS] key its position and segment score."""
    column = tl.zeros_like(i).to(tl.float32)
    if inputs.cls_column is not None:
        column = load_query_values(inputs.cls_column, sizes, pair, i, 0.0)
    return tl.where((j == 0)[None, :], column[:, None], scores)


@triton.jit
def hide_keys(scores, inputs, sizes, pair, j):
    """Add the padding bias; keys outside the sequence get a score of minus infinity."""
    inside = (j >= 0) & (j < sizes.keys)
    if inputs.key_bias is not None:
        b = pair % sizes.batch
        scores += tl.load(inputs.key_bias + b * sizes.keys + j, inside, 0.0)[None, :]
    return tl.where(inside[None, :], scores, float("-inf"))


@triton.jit
def first_column(BLOCK_M: tl.constexpr, RATIO: tl.constexpr):
    """Return where key 0 of a tile stands in each row of its [BLOCK_M, WIDTH] distances."""
    return RATIO * (BLOCK_M - 1 - tl.arange(0, BLOCK_M))


@triton.jit
def load_tile_distances(
    inputs, sizes, pair, i0, j0,
    SIZE: tl.constexpr, BLOCK_M: tl.constexpr, WIDTH: tl.constexpr, RATIO: tl.constexpr,
):  # fmt: skip
    """Load the embeddings [WIDTH, SIZE] that queries from i0 and keys from j0 on meet."""
    first = sizes.offset + j0 - RATIO * (i0 + BLOCK_M - 1)
    return load_distances(inputs, sizes, pair // sizes.batch, first + tl.arange(0, WIDTH), SIZE)


@triton.jit
def tile_scores(
    queries, k, table, inputs, sizes, pair, i, j,
    RATIO: tl.constexpr, SEPARATE_CLS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute the scores [BLOCK_M, BLOCK_N] of queries i and keys j in float32.

    Args:
        queries: content and position queries, each [BLOCK_M, d].
        k: [BLOCK_N, d].
        table: see :func:`load_tile_distances`.
        inputs, sizes, pair, i, j: as in the other functions.
    """
    distances = tl.dot(queries[1], tl.trans(table), input_precision=PRECISION)
    first = first_column(queries[1].shape[0], RATIO)
    bias = tl.gather(distances, tl.arange(0, k.shape[0])[None, :] + first[:, None], 1)
    bias = add_segment_scores(bias, inputs, sizes, pair, i, j)
    if SEPARATE_CLS:
        bias = replace_cls_column(bias, inputs, sizes, pair, i, j)
    bias = hide_keys(bias, inputs, sizes, pair, j)
    return tl.dot(queries[0], tl.trans(k), input_precision=PRECISION) * sizes.scale + bias


@triton.jit
def is_kept(sizes, pair, i, j):
    """Return whether dropout keeps the weights of queries i and keys j, the same in every kernel.

    The generator is counter-based: its key is the seed and the pair, its counter the place in the
    matrix of scores.
    """
    return tl.rand(sizes.seed + pair, i * sizes.keys + j) >= sizes.dropout


@triton.jit
def score_gradients(p, dp, delta, sizes, pair, i, j, DROPOUT: tl.constexpr):
    """Return the gradient of the scores of a tile, and the weights after dropout.

    Args:
        p: attention weights before dropout.
        dp: gradient of the weights after dropout.
        delta: see :class:`Saved`, one per row.
        sizes, pair, i, j: see :func:`is_kept`.
    """
    dropped = p
    if DROPOUT:
        keep = is_kept(sizes, pair, i, j)
        gain = 1 / (1 - sizes.dropout)
        dropped = tl.where(keep, p * gain, 0.0)
        dp = tl.where(keep, dp * gain, 0.0)
    return p * (dp - delta[:, None]), dropped


@triton.jit
def distance_gradients(
    position_query, table, inputs, strides, sizes, saved, pair, i0, t0,
    WIDTH: tl.constexpr, RATIO: tl.constexpr, SEPARATE_CLS: tl.constexpr,
    DROPOUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Return the gradient [BLOCK_M, BLOCK_N] of the position scores of a tile.

    The tile has the queries from i0 and the distances from t0 on, so its row r meets key
    ``j0 + RATIO * r + u`` at distance ``t0 + u``. Everything but the position scores is computed
    for the WIDTH keys from j0 on and gathered.

    Args:
        position_query: [BLOCK_M, d].
        table: [BLOCK_N, d].
        inputs, strides, sizes, saved: see the classes.
        pair, i0, t0: the tile.
    """
    SIZE: tl.constexpr = position_query.shape[1]
    rows = tl.arange(0, position_query.shape[0])
    i = i0 + rows
    j0 = t0 - sizes.offset + RATIO * i0
    j = j0 + tl.arange(0, WIDTH)
    q = load_head(inputs.q, strides.q, sizes, pair, i, sizes.queries, SIZE)
    k = load_head(inputs.k, strides.k, sizes, pair, j, sizes.keys, SIZE)
    v = load_head(inputs.v, strides.v, sizes, pair, j, sizes.keys, SIZE)
    d_out, log_sum, delta = load_saved(saved, strides, sizes, pair, i, SIZE)
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * sizes.scale
    scores = add_segment_scores(scores, inputs, sizes, pair, i, j)
    scores = hide_keys(scores, inputs, sizes, pair, j)
    dp = tl.dot(d_out, tl.trans(v), input_precision=PRECISION)
    columns = tl.arange(0, table.shape[0])[None, :] + RATIO * rows[:, None]
    position = tl.dot(position_query, tl.trans(table), input_precision=PRECISION)
    p = tl.exp(tl.gather(scores, columns, 1) + position - log_sum[:, None])
    keys = j0 + columns
    if SEPARATE_CLS:
        # The [CLS] key has no position score, and so no gradient of one.
        p = tl.where(keys == 0, 0.0, p)
    dp = tl.gather(dp, columns, 1)
    ds, _ = score_gradients(p, dp, delta, sizes, pair, i[:, None], keys, DROPOUT)
    return ds
