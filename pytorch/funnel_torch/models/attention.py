"""Multi-head attention with relative positions, segments and pooled queries.

Tensors inside a layer are head-major, ``[N, B, T, d]``: the position scores of all sequences of a
head are then one matrix product with that head's projected distance table. Everything that is
not content (position, segment, [CLS] rule, padding) becomes one additive bias for
``scaled_dot_product_attention`` (Dai et al. 2020, appendix A.2).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from funnel.config.model import ModelConfig
from funnel_torch.kernels.attention import attend
from funnel_torch.kernels.dropout import Dropout
from funnel_torch.kernels.linear import Dense, linear
from funnel_torch.models.attention_inputs import AttentionContext

# A shared layer at the entrance of a block alternates between two tables.
_KEPT_PROJECTIONS = 2
# Queries attended with at a time; see _query_chunks.
_CHUNK = 128
_CHUNK_ON_GPU = 1024


class _BiasTerms(NamedTuple):
    """Parts of the additive bias of one layer.

    Attributes:
        position_query: [N, B, Tq, d].
        table: projected distances [N, d, R], None in the factorized form.
        segment_gain: what a key of the query's own segment has more [N, B, Tq, 1], or None.
        cls_column: column 0 of the bias [N, B, Tq, 1], or None for zeros.
    """

    position_query: Tensor
    table: Tensor | None
    segment_gain: Tensor | None = None
    cls_column: Tensor | None = None


class RelativeAttention(nn.Module):
    """One attention sub-layer: ``LayerNorm(query + dropout(attention @ Wo + bo))``.

    With ``rel_attn_type`` ``null`` only the content term remains and no position or segment
    parameters exist.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        heads, size, width = config.n_head, config.d_head, config.d_model
        self.scale = 1 / math.sqrt(size)
        # Rows: query, key, value. One matrix, so that one product serves all three.
        self.qkv_weight = nn.Parameter(torch.empty(3 * heads * size, width))
        self.r_w_bias = nn.Parameter(torch.empty(heads, size))
        self.k_bias = nn.Parameter(torch.empty(heads, size))
        self.v_bias = nn.Parameter(torch.empty(heads, size))
        if config.rel_attn_type != "null":
            self.r_r_bias = nn.Parameter(torch.empty(heads, size))
            self.r_s_bias = nn.Parameter(torch.empty(heads, size))
            self.seg_embed = nn.Parameter(torch.empty(2, heads, size))
            self.r_kernel = nn.Parameter(torch.empty(width, heads, size))
        self.out_proj = Dense(heads * size, width)
        self.layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.dropout)
        self._projections: dict[tuple, Tensor] = {}

    def train(self, mode: bool = True) -> RelativeAttention:
        """Switch modes, and forget the kept tables: fused optimizers raise no tensor's version."""
        self._projections = {}
        return super().train(mode)

    def forward(self, query: Tensor, key: Tensor, context: AttentionContext) -> Tensor:
        """Attend from ``query`` [B, Tq, D] to ``key`` [B, Tk, D] (the same tensor in most layers).

        Returns:
            [B, Tq, D].
        """
        q, k, v = self._project(query, key)
        attended = self._attend(q, k, v, context)
        merged = attended.permute(1, 2, 0, 3).flatten(2)
        return self.layer_norm(query + self.dropout(self.out_proj(merged)))

    def _project(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (r_w_bias added), keys and values, each [N, B, T, d]."""
        heads, size = self.config.n_head, self.config.d_head
        if query is key:
            parts = self._product(query, slice(0, 3)).unflatten(-1, (3, heads, size))
            q, k, v = parts.permute(2, 3, 0, 1, 4).unbind(0)
            return q, k, v
        q = self._product(query, slice(0, 1)).unflatten(-1, (heads, size))
        pair = self._product(key, slice(1, 3)).unflatten(-1, (2, heads, size))
        k, v = pair.permute(2, 3, 0, 1, 4).unbind(0)
        return q.permute(2, 0, 1, 3), k, v

    def _product(self, x: Tensor, parts: slice) -> Tensor:
        """``x`` times some of query, key and value matrix, with biases: [B, T, parts * N * d]."""
        bias = torch.cat([self.r_w_bias, self.k_bias, self.v_bias][parts]).view(-1)
        weight = self.qkv_weight.unflatten(0, (3, -1))[parts].flatten(0, 1)
        return linear(x, weight, bias)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, context: AttentionContext) -> Tensor:
        """Softmax attention, [N, B, Tq, d], some queries at a time."""
        dropout = self.config.dropatt if self.training else 0.0
        if self.config.rel_attn_type == "null":
            bias = None if context.key_bias is None else context.key_bias.to(q.dtype)
            return attend(q, k, v, bias, self.scale, dropout)
        terms = self._bias_terms(q, context)
        parts = [
            attend(q[:, :, rows], k, v, self._bias(terms, rows, context), self.scale, dropout)
            for rows in _query_chunks(context.query_length, q)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)

    def _bias_terms(self, q: Tensor, context: AttentionContext) -> _BiasTerms:
        """What the bias is made of, once for all queries; ``q`` carries r_w_bias."""

        def query_with(bias: Tensor) -> Tensor:
            # The other two biases are reached by their difference.
            result = q + (bias - self.r_w_bias)[:, None, None].to(q.dtype)
            separate = self.config.separate_cls
            return result * context.row_mask(q.dtype) if separate else result

        table = None
        if context.factorized is None:
            table = self._projected_table(context).to(q.dtype)
        if context.same_segment is None:
            return _BiasTerms(query_with(self.r_r_bias), table)
        # A row's scores may be shifted by a constant without changing its softmax. The segment
        # term ``different + same_ij * (same - different)`` is therefore added without its first
        # part, which comes back, negated, only in the [CLS] column that has no segment term.
        embed = (self.seg_embed * self.scale).to(q.dtype)
        vectors = torch.stack([embed[1] - embed[0], -embed[0]], -1)[:, None]
        gain, cls_column = torch.matmul(query_with(self.r_s_bias), vectors).split(1, -1)
        return _BiasTerms(query_with(self.r_r_bias), table, gain, cls_column)

    def _bias(self, terms: _BiasTerms, rows: slice, context: AttentionContext) -> Tensor:
        """Everything added to the content scores of some queries, [N, B, rows, Tk]."""
        position_query = terms.position_query[:, :, rows]
        if terms.table is None:
            bias = self._factorized_scores(position_query, rows, context)
        else:
            bias = _shifted_scores(position_query, terms.table, rows.start, context)
        # Without a gradient to keep, the score buffer is this function's own to write into.
        needs_grad = torch.is_grad_enabled() and bias.requires_grad
        in_place = not (needs_grad or torch.jit.is_tracing())
        cls_column = None
        if terms.segment_gain is not None:
            gain, cls_column = terms.segment_gain[:, :, rows], terms.cls_column[:, :, rows]
            same = context.same_segment[:, rows].to(bias.dtype)
            bias = bias.addcmul_(gain, same) if in_place else torch.addcmul(bias, gain, same)
        if self.config.separate_cls:
            bias = _set_first_column(bias, cls_column, in_place)
        if context.key_bias is not None:
            key_bias = context.key_bias.to(bias.dtype)
            bias = bias.add_(key_bias) if in_place else bias + key_bias
        return bias

    def _projected_table(self, context: AttentionContext) -> Tensor:
        """``scale * Wr R(x)`` for every distance of the table, [N, d, R].

        It depends on weights alone, so evaluation keeps the last one, until a weight changes
        (seen by the tensor's version) or the lengths do.
        """
        kernel = self.r_kernel
        tracing = torch.compiler.is_compiling() or torch.jit.is_tracing()
        # An inference tensor has no version to see a change by.
        if self.training or torch.is_grad_enabled() or tracing or kernel.is_inference():
            return self._project_table(context.table)
        key = (context.shift, kernel._version, kernel.data_ptr(), context.table.dtype)
        if torch.is_autocast_enabled(kernel.device.type):
            key += (torch.get_autocast_dtype(kernel.device.type),)
        if key not in self._projections:
            while len(self._projections) >= _KEPT_PROJECTIONS:
                self._projections.pop(next(iter(self._projections)))
            self._projections[key] = self._project_table(context.table)
        return self._projections[key]

    def _project_table(self, table: Tensor) -> Tensor:
        projected = torch.matmul(self.r_kernel.permute(1, 2, 0), table.t())
        return projected * self.scale

    def _factorized_scores(
        self, position_query: Tensor, rows: slice, context: AttentionContext
    ) -> Tensor:
        """The same scores through the sine and cosine of differences, [N, B, rows, Tk]."""
        waves = context.factorized
        # [N, B, rows, d] x [N, d, D]: the query side of the table's projection.
        kernel = (self.r_kernel * self.scale).permute(1, 2, 0)[:, None].to(position_query.dtype)
        projected = torch.matmul(position_query, kernel)
        sine, cosine = waves.query_sine[rows], waves.query_cosine[rows]
        from_sine = torch.matmul(projected * sine, waves.key_cosine_sine.t())
        from_cosine = torch.matmul(projected * cosine, waves.key_sine_cosine.t())
        return from_sine + from_cosine

    def __getstate__(self) -> dict:
        """Pickle and copy without the cached table."""
        return {**self.__dict__, "_projections": {}}


def _query_chunks(length: int, q: Tensor) -> list[slice]:
    """Ranges of queries to attend with at a time.

    A chunk of c queries meets Tk + s c distances instead of Tk + s Tq, and its scores stay in a
    CPU's cache; memory grows with Tk instead of its square.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return [slice(0, length)]
    size = _CHUNK_ON_GPU if q.is_cuda else _CHUNK
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _shifted_scores(
    position_query: Tensor, table: Tensor, start: int, context: AttentionContext
) -> Tensor:
    """Position scores by distance, read as [N, B, rows, Tk] through a shifted view.

    Args:
        position_query: [N, B, rows, d], the queries from ``start`` on.
        table: [N, d, R], see ``RelativeRange`` for how it meets queries and keys.
        start: index of the first query.
        context: of the layer.
    """
    ratio, length = context.shift.ratio, position_query.shape[2]
    offset = ratio * (length - 1)
    count = ratio * length + context.key_length
    table = table.narrow(-1, context.shift.offset - offset - ratio * start, count)
    scores = torch.matmul(position_query.flatten(1, 2), table)
    flat = scores.view(len(table), -1, length * count)
    aligned = flat.narrow(-1, offset, length * (count - ratio))
    return aligned.unflatten(-1, (length, count - ratio)).narrow(-1, 0, context.key_length)


def _set_first_column(bias: Tensor, column: Tensor | None, in_place: bool) -> Tensor:
    """Replace column 0 (the [CLS] key) by ``column`` [.., Tq, 1], or by zeros."""
    if in_place:
        bias[..., :1] = 0 if column is None else column
        return bias
    first = torch.zeros_like(bias[..., :1]) if column is None else column
    return torch.cat([first, bias[..., 1:]], -1)
