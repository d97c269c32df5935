"""Triton kernels of relative attention: forward, and one backward kernel per kind of gradient.

No kernel holds or writes anything of size Tq x Tk: every tile of scores is computed again where it
is needed (as in FlashAttention), so memory grows linearly with the lengths.

A tile of BLOCK_M queries and BLOCK_N keys meets ``BLOCK_N + RATIO * (BLOCK_M - 1)`` distances
(RATIO keys per query). The queries are multiplied with the projected embeddings of these distances
(one [BLOCK_M, WIDTH] product), and a gather along each row aligns them by key: the relative shift.
Distance t of the table belongs to query i and key j where ``t = j - RATIO * i + offset``; this is
one-to-one for a given i, so the backward pass shifts back by another gather and needs no atomic
additions. All sums are therefore made in a fixed order.

A program serves one block of one pair of head and sequence. Names: see ``triton_tiles``.
"""

from __future__ import annotations

import triton
import triton.language as tl

from funnel_torch.kernels import triton_tiles as tiles


@triton.jit
def forward(
    inputs, strides, sizes, out, log_sum,
    SIZE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, WIDTH: tl.constexpr,
    RATIO: tl.constexpr, SEPARATE_CLS: tl.constexpr, DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute ``out`` and ``log_sum``. Grid: blocks of queries, N * B."""
    i0, pair = tl.program_id(0) * BLOCK_M, tl.program_id(1)
    i = i0 + tl.arange(0, BLOCK_M)
    q = tiles.load_head(inputs.q, strides.q, sizes, pair, i, sizes.queries, SIZE)
    position_query = tiles.load_head(
        inputs.position_query, strides.position_query, sizes, pair, i, sizes.queries, SIZE
    )
    highest = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    result = tl.zeros([BLOCK_M, SIZE], tl.float32)
    for j0 in range(0, sizes.keys, BLOCK_N):
        j = j0 + tl.arange(0, BLOCK_N)
        k = tiles.load_head(inputs.k, strides.k, sizes, pair, j, sizes.keys, SIZE)
        table = tiles.load_tile_distances(inputs, sizes, pair, i0, j0, SIZE, BLOCK_M, WIDTH, RATIO)
        scores = tiles.tile_scores(
            (q, position_query), k, table, inputs, sizes, pair, i, j,
            RATIO, SEPARATE_CLS, PRECISION,
        )  # fmt: skip
        new_highest = tl.maximum(highest, tl.max(scores, 1))
        p = tl.exp(scores - new_highest[:, None])
        rescale = tl.exp(highest - new_highest)
        total = total * rescale + tl.sum(p, 1)
        if DROPOUT:
            p = tl.where(tiles.is_kept(sizes, pair, i[:, None], j[None, :]), p, 0.0)
        v = tiles.load_head(inputs.v, strides.v, sizes, pair, j, sizes.keys, SIZE)
        part = tl.dot(p.to(v.dtype), v, input_precision=PRECISION)
        result = result * rescale[:, None] + part
        highest = new_highest
    if DROPOUT:
        result = result / (1 - sizes.dropout)
    n, b = pair // sizes.batch, pair % sizes.batch
    matrix = out + n.to(tl.int64) * strides.out[0] + b.to(tl.int64) * strides.out[1]
    values = result / total[:, None]
    tiles.store_rows(matrix, strides.out[2], i, sizes.queries, values, SIZE)
    tiles.store_query_values(log_sum, sizes, pair, i, highest + tl.log(total))


@triton.jit
def backward_queries(
    inputs, strides, sizes, saved, dq, d_position_query, d_bonus, d_cls_column,
    SIZE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, WIDTH: tl.constexpr,
    RATIO: tl.constexpr, SEPARATE_CLS: tl.constexpr, DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute the gradients that belong to a query. Grid: blocks of queries, N * B.

    ``dq`` and ``d_position_query`` are contiguous [N, B, Tq, d]; ``d_bonus`` and ``d_cls_column``
    float32 [N, B, Tq], or None.
    """
    i0, pair = tl.program_id(0) * BLOCK_M, tl.program_id(1)
    i = i0 + tl.arange(0, BLOCK_M)
    q = tiles.load_head(inputs.q, strides.q, sizes, pair, i, sizes.queries, SIZE)
    position_query = tiles.load_head(
        inputs.position_query, strides.position_query, sizes, pair, i, sizes.queries, SIZE
    )
    d_out, log_sum, delta = tiles.load_saved(saved, strides, sizes, pair, i, SIZE)
    content = tl.zeros([BLOCK_M, SIZE], tl.float32)
    position = tl.zeros([BLOCK_M, SIZE], tl.float32)
    bonus = tl.zeros([BLOCK_M], tl.float32)
    column = tl.zeros([BLOCK_M], tl.float32)
    # Where the gradients of a row of scores belong among the WIDTH distances of the tile.
    back = tl.arange(0, WIDTH)[None, :] - tiles.first_column(BLOCK_M, RATIO)[:, None]
    is_met = (back >= 0) & (back < BLOCK_N)
    back = tl.where(is_met, back, 0)
    for j0 in range(0, sizes.keys, BLOCK_N):
        j = j0 + tl.arange(0, BLOCK_N)
        k = tiles.load_head(inputs.k, strides.k, sizes, pair, j, sizes.keys, SIZE)
        table = tiles.load_tile_distances(inputs, sizes, pair, i0, j0, SIZE, BLOCK_M, WIDTH, RATIO)
        scores = tiles.tile_scores(
            (q, position_query), k, table, inputs, sizes, pair, i, j,
            RATIO, SEPARATE_CLS, PRECISION,
        )  # fmt: skip
        v = tiles.load_head(inputs.v, strides.v, sizes, pair, j, sizes.keys, SIZE)
        dp = tl.dot(d_out, tl.trans(v), input_precision=PRECISION)
        p = tl.exp(scores - log_sum[:, None])
        ds, _ = tiles.score_gradients(p, dp, delta, sizes, pair, i[:, None], j[None, :], DROPOUT)
        content += tl.dot(ds.to(k.dtype), k, input_precision=PRECISION)
        if SEPARATE_CLS:
            column += tl.sum(tl.where((j == 0)[None, :], ds, 0.0), 1)
            ds = tl.where((j == 0)[None, :], 0.0, ds)
        if inputs.bonus is not None:
            same = tiles.is_same_segment(inputs, sizes, pair, i, j)
            bonus += tl.sum(tl.where(same, ds, 0.0), 1)
        shifted = tl.where(is_met, tl.gather(ds, back, 1), 0.0).to(table.dtype)
        position += tl.dot(shifted, table, input_precision=PRECISION)
    start = pair.to(tl.int64) * sizes.queries * SIZE
    tiles.store_rows(dq + start, SIZE, i, sizes.queries, content * sizes.scale, SIZE)
    tiles.store_rows(d_position_query + start, SIZE, i, sizes.queries, position, SIZE)
    if d_bonus is not None:
        tiles.store_query_values(d_bonus, sizes, pair, i, bonus)
    if d_cls_column is not None:
        tiles.store_query_values(d_cls_column, sizes, pair, i, column)


@triton.jit
def backward_keys(
    inputs, strides, sizes, saved, dk, dv,
    SIZE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, WIDTH: tl.constexpr,
    RATIO: tl.constexpr, SEPARATE_CLS: tl.constexpr, DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute ``dk`` and ``dv``, contiguous [N, B, Tk, d]. Grid: blocks of keys, N * B."""
    j0, pair = tl.program_id(0) * BLOCK_N, tl.program_id(1)
    j = j0 + tl.arange(0, BLOCK_N)
    k = tiles.load_head(inputs.k, strides.k, sizes, pair, j, sizes.keys, SIZE)
    v = tiles.load_head(inputs.v, strides.v, sizes, pair, j, sizes.keys, SIZE)
    key_sum = tl.zeros([BLOCK_N, SIZE], tl.float32)
    value_sum = tl.zeros([BLOCK_N, SIZE], tl.float32)
    for i0 in range(0, sizes.queries, BLOCK_M):
        i = i0 + tl.arange(0, BLOCK_M)
        q = tiles.load_head(inputs.q, strides.q, sizes, pair, i, sizes.queries, SIZE)
        position_query = tiles.load_head(
            inputs.position_query, strides.position_query, sizes, pair, i, sizes.queries, SIZE
        )
        d_out, log_sum, delta = tiles.load_saved(saved, strides, sizes, pair, i, SIZE)
        table = tiles.load_tile_distances(inputs, sizes, pair, i0, j0, SIZE, BLOCK_M, WIDTH, RATIO)
        scores = tiles.tile_scores(
            (q, position_query), k, table, inputs, sizes, pair, i, j,
            RATIO, SEPARATE_CLS, PRECISION,
        )  # fmt: skip
        p = tl.exp(scores - log_sum[:, None])
        dp = tl.dot(d_out, tl.trans(v), input_precision=PRECISION)
        ds, dropped = tiles.score_gradients(
            p, dp, delta, sizes, pair, i[:, None], j[None, :], DROPOUT
        )
        value_sum += tl.dot(tl.trans(dropped.to(d_out.dtype)), d_out, input_precision=PRECISION)
        key_sum += tl.dot(tl.trans(ds.to(q.dtype)), q, input_precision=PRECISION)
    start = pair.to(tl.int64) * sizes.keys * SIZE
    tiles.store_rows(dk + start, SIZE, j, sizes.keys, key_sum * sizes.scale, SIZE)
    tiles.store_rows(dv + start, SIZE, j, sizes.keys, value_sum, SIZE)


@triton.jit
def backward_positions(
    inputs, strides, sizes, saved, partial, share,
    SIZE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, WIDTH: tl.constexpr,
    RATIO: tl.constexpr, SEPARATE_CLS: tl.constexpr, DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute the gradient of the projected embeddings, which all sequences of a head share.

    ``partial`` is float32 [shares, N, R, d], contiguous: each the sum over ``share`` sequences.
    Grid: blocks of BLOCK_N distances, N, shares of the batch.
    """
    t0, n, index = tl.program_id(0) * BLOCK_N, tl.program_id(1), tl.program_id(2)
    t = t0 + tl.arange(0, BLOCK_N)
    table = tiles.load_distances(inputs, sizes, n, t, SIZE)
    result = tl.zeros([BLOCK_N, SIZE], tl.float32)
    # Queries that meet a key at one of these distances: 0 <= t - offset + RATIO * i < Tk.
    first = tl.maximum((sizes.offset - t0 - BLOCK_N + RATIO) // RATIO, 0) // BLOCK_M * BLOCK_M
    last = tl.minimum((sizes.offset - t0 + sizes.keys + RATIO - 1) // RATIO, sizes.queries)
    for b in range(index * share, tl.minimum((index + 1) * share, sizes.batch)):
        pair = n * sizes.batch + b
        for i0 in range(first, last, BLOCK_M):
            position_query = tiles.load_head(
                inputs.position_query, strides.position_query, sizes, pair,
                i0 + tl.arange(0, BLOCK_M), sizes.queries, SIZE,
            )  # fmt: skip
            ds = tiles.distance_gradients(
                position_query, table, inputs, strides, sizes, saved, pair, i0, t0,
                WIDTH, RATIO, SEPARATE_CLS, DROPOUT, PRECISION,
            )  # fmt: skip
            ds = tl.trans(ds.to(position_query.dtype))
            result += tl.dot(ds, position_query, input_precision=PRECISION)
    start = (index * tl.num_programs(1) + n).to(tl.int64) * sizes.distances * SIZE
    tiles.store_rows(partial + start, SIZE, t, sizes.distances, result, SIZE)
