"""Multi-head attention with relative positions, segments and pooled queries.

Tensors inside a layer are head-major, ``[N, B, T, d]``: the position scores of all sequences of a
head are then one matrix product with that head's projected distance table. Everything that is
not content (position, segment, [CLS] rule, padding) becomes one additive bias for
``scaled_dot_product_attention`` (Dai et al. 2020, appendix A.2).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from funnel.config import ModelConfig
from funnel_torch.context import AttentionContext

# A shared layer at the entrance of a block alternates between two tables.
_KEPT_PROJECTIONS = 2


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
        self.out_proj = nn.Linear(heads * size, width)
        self.layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)
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
        bias = self._bias(q, context)
        attended = self._attend(q, k, v, bias)
        merged = attended.permute(1, 2, 0, 3).flatten(2)
        return self.layer_norm(query + self.dropout(self.out_proj(merged)))

    def _project(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (r_w_bias added), keys and values, each [N, B, T, d]."""
        heads, size = self.config.n_head, self.config.d_head
        bias = torch.cat([self.r_w_bias, self.k_bias, self.v_bias]).view(-1)
        if query is key:
            parts = F.linear(query, self.qkv_weight, bias).unflatten(-1, (3, heads, size))
            q, k, v = parts.permute(2, 3, 0, 1, 4).unbind(0)
            return q, k, v
        split = heads * size
        q = F.linear(query, self.qkv_weight[:split], bias[:split]).unflatten(-1, (heads, size))
        pair = F.linear(key, self.qkv_weight[split:], bias[split:]).unflatten(-1, (2, heads, size))
        k, v = pair.permute(2, 3, 0, 1, 4).unbind(0)
        return q.permute(2, 0, 1, 3), k, v

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """Softmax attention, [N, B, Tq, d]."""
        dropout = self.config.dropatt if self.training else 0.0
        needs_grad = torch.is_grad_enabled() and bias is not None and bias.requires_grad
        if q.is_cuda or not (dropout or needs_grad):
            return F.scaled_dot_product_attention(q, k, v, bias, dropout, scale=self.scale)
        # On a CPU the fused kernel takes neither dropout nor a bias with a gradient, and its
        # fallback scales queries and keys separately: fewer passes by hand.
        scores = torch.matmul(q * self.scale, k.transpose(-1, -2))
        if bias is not None:
            scores = scores + bias
        weights = F.dropout(torch.softmax(scores, -1), dropout)
        return torch.matmul(weights.to(v.dtype), v)

    def _bias(self, q: Tensor, context: AttentionContext) -> Tensor | None:
        """Everything added to the content scores, [N, B, Tq, Tk] or broadcastable, or None."""
        if self.config.rel_attn_type == "null":
            return None if context.key_bias is None else context.key_bias.to(q.dtype)
        # q carries r_w_bias; the other two biases are reached by their difference.
        position_query = q + (self.r_r_bias - self.r_w_bias)[:, None, None].to(q.dtype)
        if self.config.separate_cls:
            position_query = position_query * context.row_mask(q.dtype)
        if context.factorized is not None:
            bias = self._factorized_scores(position_query, context)
        else:
            bias = self._shifted_scores(position_query, context)
        # Without a gradient to keep, the score buffer is this function's own to write into.
        needs_grad = torch.is_grad_enabled() and bias.requires_grad
        in_place = not (needs_grad or torch.jit.is_tracing())
        return self._add_segments_and_masks(q, bias, context, in_place)

    def _add_segments_and_masks(
        self, q: Tensor, bias: Tensor, context: AttentionContext, in_place: bool
    ) -> Tensor:
        """Segment term, [CLS] column and padding.

        A row's scores may be shifted by a constant without changing its softmax. The segment
        term ``different + same_ij * (same - different)`` is therefore added without its first
        part, which comes back, negated, only in the [CLS] column that has no segment term.
        """
        cls_column = None
        if context.same_segment is not None:
            segment_query = q + (self.r_s_bias - self.r_w_bias)[:, None, None].to(q.dtype)
            if self.config.separate_cls:
                segment_query = segment_query * context.row_mask(q.dtype)
            embed = (self.seg_embed * self.scale).to(q.dtype)
            vectors = torch.stack([embed[1] - embed[0], -embed[0]], -1)[:, None]
            gain, cls_column = torch.matmul(segment_query, vectors).split(1, -1)
            same = context.same_segment.to(q.dtype)
            bias = bias.addcmul_(gain, same) if in_place else torch.addcmul(bias, gain, same)
        if self.config.separate_cls:
            bias = _set_first_column(bias, cls_column, in_place)
        if context.key_bias is not None:
            key_bias = context.key_bias.to(bias.dtype)
            bias = bias.add_(key_bias) if in_place else bias + key_bias
        return bias

    def _shifted_scores(self, position_query: Tensor, context: AttentionContext) -> Tensor:
        """Position scores by distance, read as [N, B, Tq, Tk] through a shifted view."""
        shift, table = context.shift, self._projected_table(context).to(position_query.dtype)
        length = context.query_length
        scores = torch.matmul(position_query.flatten(1, 2), table)
        flat = scores.view(self.config.n_head, -1, length * shift.count)
        rows = shift.count - shift.ratio
        aligned = flat.narrow(-1, shift.offset, length * rows).unflatten(-1, (length, rows))
        return aligned.narrow(-1, 0, context.key_length)

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

    def _factorized_scores(self, position_query: Tensor, context: AttentionContext) -> Tensor:
        """The same scores through the sine and cosine of differences, [N, B, Tq, Tk]."""
        waves = context.factorized
        # [N, B, Tq, d] x [N, d, D]: the query side of the table's projection.
        kernel = (self.r_kernel * self.scale).permute(1, 2, 0)[:, None].to(position_query.dtype)
        projected = torch.matmul(position_query, kernel)
        from_sine = torch.matmul(projected * waves.query_sine, waves.key_cosine_sine.t())
        from_cosine = torch.matmul(projected * waves.query_cosine, waves.key_sine_cosine.t())
        return from_sine + from_cosine

    def __getstate__(self) -> dict:
        """Pickle and copy without the cached table."""
        return {**self.__dict__, "_projections": {}}


def _set_first_column(bias: Tensor, column: Tensor | None, in_place: bool) -> Tensor:
    """Replace column 0 (the [CLS] key) by ``column`` [.., Tq, 1], or by zeros."""
    if in_place:
        bias[..., :1] = 0 if column is None else column
        return bias
    first = torch.zeros_like(bias[..., :1]) if column is None else column
    return torch.cat([first, bias[..., 1:]], -1)
