"""Position scores by the relative shift: a product with all distances, read along diagonals.

Scores are computed for all distances of some queries, [rows, count]. Query i meets key j at entry
``t = j - ratio * i + offset`` of row i (``RelativeRange``), which in the flat buffer is
``i * count + t = offset + i * (count - ratio) + j``. Skipping ``offset`` entries and reading rows
of ``count - ratio`` entries therefore aligns the scores by key: the shift is a strided view that
copies nothing. Every (i, j) has an entry of its own, so the backward pass needs no accumulation.
"""

from __future__ import annotations

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
    ratio, length = positions.range.ratio, position_query.shape[2]
    # The distances of this chunk only: its last query meets key 0 at the first of them.
    offset = ratio * (length - 1)
    count = ratio * length + key_length
    keys = positions.keys.narrow(-1, positions.range.offset - offset - ratio * start, count)
    scores = torch.matmul(position_query.flatten(1, 2), keys)
    flat = scores.view(len(keys), -1, length * count)
    aligned = flat.narrow(-1, offset, length * (count - ratio))
    return aligned.unflatten(-1, (length, count - ratio)).narrow(-1, 0, key_length)


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
    (heads, batch, length, _), distances = query.shape, table.range
    flat = torch.baddbmm(table.constants, query.flatten(1, 2), table.keys)
    products = flat.unflatten(1, (batch, length))
    head, sequence, row, _ = products.stride()
    shape = (heads, batch, length, table.key_length)
    strides = (head, sequence, row - distances.ratio, 1)
    shifted = products.as_strided(shape, strides, distances.offset)
    bias = query.new_empty(shape)
    if key_bias is None:
        bias.copy_(shifted)
    else:
        torch.add(shifted, key_bias, out=bias)
    by_segment = products[..., distances.count :]
    if same_segment is not None:
        bias.addcmul_(by_segment[..., :1], same_segment.to(bias.dtype))
    if separate_cls:
        column = by_segment[..., -1] if by_segment.shape[3] else 0
        bias[..., 0] = column if key_bias is None else column + key_bias[..., 0]
        bias[:, :, 0] = 0 if key_bias is None else key_bias[:, 0]
    return bias


def set_first_column(bias: Tensor, column: Tensor | None, in_place: bool) -> Tensor:
    """Replace column 0 (the [CLS] key) by ``column`` [..., Tq, 1], or by zeros."""
    if in_place:
        bias[..., :1] = 0 if column is None else column
        return bias
    first = torch.zeros_like(bias[..., :1]) if column is None else column
    return torch.cat([first, bias[..., 1:]], -1)
