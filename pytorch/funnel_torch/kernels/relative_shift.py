"""Position scores by the relative shift: a product with all distances, read along diagonals.

Scores are computed for all distances of some queries, [rows, count]. Query i meets key j at entry
``t = j - ratio * i + offset`` of row i (``RelativeRange``), which in the flat buffer is
``i * count + t = offset + i * (count - ratio) + j``. Skipping ``offset`` entries and reading rows
of ``count - ratio`` entries therefore aligns the scores by key: the shift is a strided view that
copies nothing. Every (i, j) has an entry of its own, so the backward pass needs no accumulation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from funnel.config.geometry import RelativeRange


class ProjectedPositions(NamedTuple):
    """Relative embeddings projected for one layer.

    Attributes:
        range: the R distances.
        keys: ``s Wr R(x)`` for each distance x, [N, d, R].
    """

    range: RelativeRange
    keys: Tensor


class PositionTable(NamedTuple):
    """Projected distances, and segment vectors that queries are multiplied with as well.

    Attributes:
        range: the R distances.
        key_length: Tk.
        keys: of the distances, then of S segment vectors, [N, d, R + S].
        constants: what is added to the products, [N, 1, R + S].
    """

    range: RelativeRange
    key_length: int
    keys: Tensor
    constants: Tensor


@dataclass(frozen=True)
class ChunkShift:
    """The distances that some of the queries need, and where their scores start.

    Attributes:
        first: row of the table of all distances that is the first one here.
        count: number of distances.
        offset, ratio: query i of these meets key j at distance ``j - ratio * i + offset`` of these.
    """

    first: int
    count: int
    offset: int
    ratio: int


def chunk_shift(distances: RelativeRange, rows: slice, key_length: int) -> ChunkShift:
    """Return what the queries ``rows`` need to meet ``key_length`` keys."""
    ratio, length = distances.ratio, rows.stop - rows.start
    # The last query meets key 0 at the first of the distances.
    offset = ratio * (length - 1)
    first = distances.offset - offset - ratio * rows.start
    return ChunkShift(first, ratio * length + key_length, offset, ratio)


def align(products: Tensor, offset: int, ratio: int, key_length: int) -> Tensor:
    """View products with distances [N, B, Tq, count] as scores of keys [N, B, Tq, Tk]."""
    heads, batch, length, _ = products.shape
    head, sequence, row, _ = products.stride()
    strides = (head, sequence, row - ratio, 1)
    shape = (heads, batch, length, key_length)
    return products.as_strided(shape, strides, products.storage_offset() + offset)


def shifted_scores(
    position_query: Tensor, positions: ProjectedPositions, start: int, key_length: int
) -> Tensor:
    """Compute the position scores of some queries, [N, B, rows, Tk].

    Args:
        position_query: [N, B, rows, d], the queries from ``start`` on.
        positions: of all queries.
        start: index of the first query.
        key_length: Tk.
    """
    length = position_query.shape[2]
    chunk = chunk_shift(positions.range, slice(start, start + length), key_length)
    keys = positions.keys.narrow(-1, chunk.first, chunk.count)
    scores = torch.matmul(position_query.flatten(1, 2), keys)
    flat = scores.view(len(keys), -1, length * chunk.count)
    aligned = flat.narrow(-1, chunk.offset, length * (chunk.count - chunk.ratio))
    return aligned.unflatten(-1, (length, chunk.count - chunk.ratio)).narrow(-1, 0, key_length)


def table_bias(
    query: Tensor,
    table: PositionTable,
    key_bias: Tensor | None,
    same_segment: Tensor | None,
    separate_cls: bool,
) -> Tensor:
    """Compute everything added to the content scores in one buffer, without a gradient.

    Position and segment scores are one product, and the row of a separate [CLS] is cleared instead
    of its query.

    Args:
        query: [N, B, Tq, d].
        table: of these queries; the last segment vector is for the column of [CLS].
        key_bias: of padding, [B, 1, Tk].
        same_segment: which pairs get the product with the first segment vector, [B, Tq, Tk].
        separate_cls: row 0 has no position and no segment scores, nor has column 0.

    Returns:
        [N, B, Tq, Tk], contiguous.
    """
    distances = table.range
    flat = torch.baddbmm(table.constants, query.flatten(1, 2), table.keys)
    products = flat.unflatten(1, query.shape[1:3])
    shifted = align(products, distances.offset, distances.ratio, table.key_length)
    bias = query.new_empty(shifted.shape)
    by_segment = products[..., distances.count :]
    segment = None if same_segment is None else (by_segment[..., :1], same_segment)
    write_bias(bias, shifted, key_bias, segment)
    if separate_cls:
        column = by_segment[..., -1] if by_segment.shape[3] else None
        write_cls(bias, column, key_bias, has_first_row=True)
    return bias


def write_bias(
    bias: Tensor,
    position_scores: Tensor,
    key_bias: Tensor | None,
    segment: tuple[Tensor, Tensor] | None,
) -> None:
    """Write the sum of position scores, padding and segment scores into ``bias`` [N, B, Tq, Tk].

    Args:
        bias: the result.
        position_scores: of the same shape, any strides.
        key_bias: of padding, [B, 1, Tk].
        segment: the extra score of keys of the query's segment, [N, B, Tq, 1], and which they are,
            [B, Tq, Tk].
    """
    if key_bias is None:
        bias.copy_(position_scores)
    else:
        torch.add(position_scores, key_bias, out=bias)
    if segment is not None:
        bonus, same = segment
        bias.addcmul_(bonus, same.to(bias.dtype))


def write_cls(
    bias: Tensor, column: Tensor | None, key_bias: Tensor | None, has_first_row: bool
) -> None:
    """Write the row and the column of a separate [CLS] into ``bias`` [N, B, Tq, Tk].

    Args:
        bias: of some of the queries.
        column: scores of key 0, [N, B, Tq]; None for zeros.
        key_bias: of padding, [B, 1, Tk].
        has_first_row: whether query 0, without position and segment scores, is one of them.
    """
    scores = 0 if column is None else column
    bias[..., 0] = scores if key_bias is None else scores + key_bias[..., 0]
    if has_first_row:
        bias[:, :, 0] = 0 if key_bias is None else key_bias[:, 0]


def set_first_column(bias: Tensor, column: Tensor | None, in_place: bool) -> Tensor:
    """Replace column 0 (the [CLS] key) by ``column`` [..., Tq, 1], or by zeros."""
    if in_place:
        bias[..., :1] = 0 if column is None else column
        return bias
    first = torch.zeros_like(bias[..., :1]) if column is None else column
    return torch.cat([first, bias[..., 1:]], -1)
