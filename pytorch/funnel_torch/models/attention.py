"""Multi-head attention with relative positions, segments and pooled queries.

Score of query i and key j, with ``s = 1 / sqrt(d)`` and ``Q = s q Wq`` (Dai et al. 2020, section
2.2 and appendix A.2; the terms are those of Transformer-XL):

    (Q + s r_w_bias) . K_j                    content
    + (Q + s r_r_bias) . (Wr R(i - j))        position
    + (Q + s r_s_bias) . seg_embed[same_ij]   segment

Position and segment terms are 0 if i or j is the separate [CLS]. Padded keys get a large negative
score. Everything but the content term becomes one additive bias for the attention kernel.

Tensors inside a layer are head-major, ``[N, B, T, d]``: the position scores of all sequences of a
head are then one matrix product with that head's projected relative embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from funnel.config.model import ModelConfig
from funnel.config.model_settings import ATTENTION_KERNELS
from funnel.utils.errors import ConfigError
from funnel_torch.kernels.attention import attention
from funnel_torch.kernels.dropout import Dropout
from funnel_torch.kernels.fused_attention import (
    FusedInputs,
    FusedSettings,
    fused_attention,
    log_fallback,
    why_not_fused,
)
from funnel_torch.kernels.linear import Linear, add_residual, is_autocast_enabled, linear
from funnel_torch.kernels.query_chunks import query_chunks
from funnel_torch.kernels.relative_shift import (
    PositionTable,
    ProjectedPositions,
    set_first_column,
    shifted_scores,
    table_bias,
)
from funnel_torch.kernels.shifted_attention import (
    ShiftedInputs,
    ShiftedSettings,
    shifted_attention,
    split_heads,
    writes_gradients,
)
from funnel_torch.models.attention_inputs import AttentionContext, RelativePositions, Sinusoids
from funnel_torch.models.first_position import reads_no_gradient
from funnel_torch.models.projection_cache import ProjectionCache

# Row blocks of the packed query, key and value matrix that are multiplied together.
_PARTS = {"qkv": slice(0, 3), "q": slice(0, 1), "kv": slice(1, 3)}


class _SegmentTerms(NamedTuple):
    """Segment scores as a rank-1 update of the bias.

    Attributes:
        bonus: extra score of keys of the query's own segment [N, B, Tq, 1].
        cls_column: bias of the separate [CLS] key [N, B, Tq, 1].
    """

    bonus: Tensor
    cls_column: Tensor


class _BiasTerms(NamedTuple):
    """Parts of the additive bias of one layer.

    Attributes:
        position_query: ``q Wq + r_r_bias`` [N, B, Tq, d], 0 for a separate [CLS].
        positions: keys that it is multiplied with.
        segment: None without segment ids.
    """

    position_query: Tensor
    positions: ProjectedPositions | Sinusoids
    segment: _SegmentTerms | None


class RelativeAttention(nn.Module):
    """Attention sub-layer: ``LayerNorm(query + dropout(attention @ Wo + bo))``.

    With ``rel_attn_type`` "null" only the content term remains and there are no position or
    segment parameters.
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
        self.out_proj = Linear(heads * size, width)
        self.layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.dropout)
        # "auto", "fused" or "sdpa"; see choose_attention.
        self.attention_kernel = ATTENTION_KERNELS[0]
        # Replacements of qkv_weight, by part; see convert_linears.
        self.converted: nn.ModuleDict | None = None
        self._cache = ProjectionCache()

    def train(self, mode: bool = True) -> RelativeAttention:
        """Switch modes and clear cached projections."""
        self._cache.clear()
        return super().train(mode)

    def forward(self, query: Tensor, key: Tensor, context: AttentionContext) -> Tensor:
        """Attend from ``query`` [B, Tq, D] to ``key`` [B, Tk, D] (the same tensor in most layers).

        Returns:
            [B, Tq, D].
        """
        q, k, v = self._project(query, key)
        attended = self._attend(q, k, v, context)
        merged = attended.permute(1, 2, 0, 3).flatten(2)
        return self.layer_norm(add_residual(self.out_proj, merged, query, self.dropout))

    def _project(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (with r_w_bias), keys and values, each [N, B, T, d]."""
        heads, size = self.config.n_head, self.config.d_head
        if query is key:
            q, k, v = split_heads(self._linear(query, "qkv"), heads, size)
            return q, k, v
        (q,) = split_heads(self._linear(query, "q"), heads, size)
        k, v = split_heads(self._linear(key, "kv"), heads, size)
        return q, k, v

    def _linear(self, x: Tensor, part: str) -> Tensor:
        """Apply some of the query, key and value projections: [B, T, parts * N * d]."""
        if self.converted is not None:
            return self.converted[part](x)
        return linear(x, *self._packed(part))

    def _packed(self, part: str) -> tuple[Tensor, Tensor]:
        """Return weight [parts * N * d, D] and bias of some of the projections.

        ``Q + s r_w_bias`` is ``s (q Wq + r_w_bias)``: r_w_bias is the bias of the query projection.
        """
        biases: list[Tensor] = [self.r_w_bias, self.k_bias, self.v_bias]
        bias = torch.cat(biases[_PARTS[part]]).view(-1)
        if part == "qkv":  # the gradient of a slice would be a copy
            return self.qkv_weight, bias
        weight = self.qkv_weight.unflatten(0, (3, -1))[_PARTS[part]].flatten(0, 1)
        return weight, bias

    def convert_linears(self, convert: Callable[[Tensor, Tensor], nn.Module]) -> None:
        """Replace ``qkv_weight`` by linear layers of another kind (:class:`PackedLinears`)."""
        self.converted = nn.ModuleDict({part: convert(*self._packed(part)) for part in _PARTS})
        del self.qkv_weight

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, context: AttentionContext) -> Tensor:
        """Attend with some queries at a time, [N, B, Tq, d]."""
        dropout = self.config.dropatt if self.training else 0.0
        if context.positions is None:
            bias = None if context.key_bias is None else context.key_bias.to(q.dtype)
            return attention(q, k, v, bias, self.scale, dropout)
        if isinstance(context.positions, RelativePositions) and self._reads_table(q, context):
            bias = self._table_bias(q, context.positions, context)
            return attention(q, k, v, bias, self.scale, dropout, owns_bias=True)
        is_fused = self._is_fused(q, context.positions)
        is_shifted = isinstance(context.positions, RelativePositions) and writes_gradients(q)
        if is_shifted and not is_fused and self._is_uniform(q):
            return self._attend_shifted((q, k, v), context, dropout)
        terms = self._bias_terms(q, context, context.positions)
        if is_fused:
            return self._attend_fused((q, k, v), terms, context, dropout)
        parts = [
            attention(q[:, :, rows], k, v, self._bias(terms, rows, context), self.scale, dropout)
            for rows in query_chunks(context.query_length, q, self.training)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)

    def _is_fused(self, q: Tensor, positions: RelativePositions | Sinusoids) -> bool:
        """Return whether the fused kernel computes this call.

        Raises:
            ConfigError: it was asked for and cannot.
        """
        if self.attention_kernel == "sdpa":
            return False
        if isinstance(positions, RelativePositions):
            reason = why_not_fused(q, positions.range.ratio)
        else:
            reason = 'rel_attn_type is "factorized"; use "rel_shift"'
        if reason is not None and self.attention_kernel == "fused":
            raise ConfigError(f"fused attention: {reason}; choose auto or sdpa")
        if reason is not None and q.is_cuda:
            log_fallback(reason)
        return reason is None

    def _attend_fused(
        self,
        qkv: tuple[Tensor, Tensor, Tensor],
        terms: _BiasTerms,
        context: AttentionContext,
        dropout: float,
    ) -> Tensor:
        """Attend by one kernel that holds no matrix of scores, [N, B, Tq, d]."""
        assert isinstance(terms.positions, ProjectedPositions)
        bonus = cls_column = None
        if terms.segment is not None:
            bonus, cls_column = (x.squeeze(-1) for x in terms.segment)
        separate_cls = self.config.separate_cls
        distances = terms.positions.range
        query_segments, key_segments = context.segments or (None, None)
        inputs = FusedInputs(
            *qkv,
            terms.position_query,
            terms.positions.keys.transpose(1, 2),
            bonus,
            cls_column if separate_cls else None,
            query_segments,
            key_segments,
            None if context.key_bias is None else context.key_bias[:, 0],
        )
        ratio, offset = distances.ratio, distances.offset
        return fused_attention(
            inputs, FusedSettings(self.scale, ratio, offset, separate_cls, dropout)
        )

    def _reads_table(self, q: Tensor, context: AttentionContext) -> bool:
        """Return whether :meth:`_table_bias` serves: evaluation on a CPU, with few queries."""
        is_short = len(query_chunks(context.query_length, q, self.training)) == 1
        return is_short and reads_no_gradient(q) and self._is_uniform(q)

    def _is_uniform(self, q: Tensor) -> bool:
        """Return whether PyTorch's operators compute the scores in the precision of the weights."""
        is_cast = q.dtype != self.r_kernel.dtype or is_autocast_enabled(q.device)
        return self.attention_kernel != "fused" and not is_cast

    def _attend_shifted(
        self, qkv: tuple[Tensor, Tensor, Tensor], context: AttentionContext, dropout: float
    ) -> Tensor:
        """Attend in a training step on a CPU, [N, B, Tq, d]."""
        assert isinstance(context.positions, RelativePositions)
        q, separate_cls, bonus, cls_column = qkv[0], self.config.separate_cls, None, None
        # Without the column of a separate [CLS] the parameters would be left without a gradient.
        is_one = separate_cls and context.is_one_segment
        if context.segments is not None:
            vectors = self._segment_vectors(is_one)
            own = ((self.r_s_bias - self.r_w_bias)[..., None] * vectors).sum(1, keepdim=True)
            scores = torch.baddbmm(own, q.flatten(1, 2), vectors).unflatten(1, q.shape[1:3])
            bonus, cls_column = scores[..., :1], scores[..., -1:]
        inputs = ShiftedInputs(
            *qkv,
            self.r_r_bias - self.r_w_bias,
            self._project_embeddings(context.positions.embeddings),
            None if is_one else bonus,
            cls_column if separate_cls else None,
            context.same_segment,
            context.key_bias,
        )
        chunks = query_chunks(context.query_length, q)
        settings = (self.scale, context.positions.range, separate_cls, dropout, chunks)
        return shifted_attention(inputs, ShiftedSettings(*settings))

    def _table_bias(
        self, q: Tensor, positions: RelativePositions, context: AttentionContext
    ) -> Tensor:
        """Return what :meth:`_bias` does for all queries, in fewer passes, [N, B, Tq, Tk]."""
        table = self._position_table(positions, context)
        same = None if context.is_one_segment else context.same_segment
        return table_bias(q, table, context.key_bias, same, self.config.separate_cls)

    def _position_table(
        self, positions: RelativePositions, context: AttentionContext
    ) -> PositionTable:
        """Return what queries with r_w_bias are multiplied with for :meth:`_table_bias`."""

        def build() -> PositionTable:
            keys = self._project_embeddings(positions.embeddings)
            constants = torch.matmul((self.r_r_bias - self.r_w_bias)[:, None], keys)
            if has_segments:
                vectors = self._segment_vectors(is_one)
                own = torch.matmul((self.r_s_bias - self.r_w_bias)[:, None], vectors)
                keys, constants = torch.cat([keys, vectors], -1), torch.cat([constants, own], -1)
            return PositionTable(positions.range, context.key_length, keys, constants)

        has_segments, is_one = context.segments is not None, context.is_one_segment
        parameters = (self.r_w_bias, self.r_r_bias, self.r_s_bias, self.seg_embed, self.r_kernel)
        if self.training or positions.is_dropped:
            return build()
        return self._cache.get((positions.range, has_segments, is_one), parameters, build)

    def _bias_terms(
        self, q: Tensor, context: AttentionContext, positions: RelativePositions | Sinusoids
    ) -> _BiasTerms:
        """Compute the parts of the bias that do not depend on the chunk of queries."""
        projected: ProjectedPositions | Sinusoids
        if isinstance(positions, RelativePositions):
            keys = self._projected_embeddings(positions).to(q.dtype)
            projected = ProjectedPositions(positions.range, keys)
        else:
            projected = positions
        segment = None
        if context.segments is not None:
            vectors = self._segment_vectors().to(q.dtype)[:, None]
            query = self._biased_query(q, self.r_s_bias, context)
            segment = _SegmentTerms(*torch.matmul(query, vectors).split(1, -1))
        position_query = self._biased_query(q, self.r_r_bias, context)
        return _BiasTerms(position_query, projected, segment)

    def _segment_vectors(self, is_one_segment: bool = False) -> Tensor:
        """Return vectors whose products with a query are its segment scores, [N, d, 2 or 1].

        The softmax of a row does not change if a constant is added to it. The segment score
        ``different + same_ij * (same - different)`` is therefore used without its first part. Only
        the [CLS] column, which has no segment score at all, then needs ``-different``. If all pairs
        are of one segment, their score is a constant too, and that column needs ``-same`` alone.
        """
        embed = self.seg_embed * self.scale
        parts = [-embed[1]] if is_one_segment else [embed[1] - embed[0], -embed[0]]
        return torch.stack(parts, -1)

    def _biased_query(self, q: Tensor, bias: Tensor, context: AttentionContext) -> Tensor:
        """Return the query with ``bias`` in place of r_w_bias, 0 for a separate [CLS]."""
        query = q + (bias - self.r_w_bias)[:, None, None].to(q.dtype)
        # A zero query makes row 0 of position and segment scores zero, in O(T).
        return query * context.row_mask(q.dtype) if self.config.separate_cls else query

    def _bias(self, terms: _BiasTerms, rows: slice, context: AttentionContext) -> Tensor:
        """Return everything added to the content scores of some queries, [N, B, rows, Tk]."""
        position_query = terms.position_query[:, :, rows]
        if isinstance(terms.positions, Sinusoids):
            # [N, B, rows, d] x [N, 1, d, D]: Wr is applied to the queries, not to the embeddings.
            kernel = (self.r_kernel * self.scale).permute(1, 2, 0)[:, None]
            projected = torch.matmul(position_query, kernel.to(position_query.dtype))
            bias = terms.positions.scores(projected, rows)
        else:
            bias = shifted_scores(position_query, terms.positions, rows.start, context.key_length)
        # Without a gradient the score buffer is not needed again and can be written into.
        needs_grad = torch.is_grad_enabled() and bias.requires_grad
        in_place = not (needs_grad or torch.jit.is_tracing())
        cls_column = None
        if terms.segment is not None and context.same_segment is not None:
            bonus = terms.segment.bonus[:, :, rows]
            cls_column = terms.segment.cls_column[:, :, rows]
            same = context.same_segment[:, rows].to(bias.dtype)
            bias = bias.addcmul_(bonus, same) if in_place else torch.addcmul(bias, bonus, same)
        if self.config.separate_cls:
            bias = set_first_column(bias, cls_column, in_place)
        if context.key_bias is not None:
            key_bias = context.key_bias.to(bias.dtype)
            bias = bias.add_(key_bias) if in_place else bias + key_bias
        return bias

    def _projected_embeddings(self, positions: RelativePositions) -> Tensor:
        """Return ``s Wr R(x)`` for every distance x, [N, d, R].

        It depends on weights and lengths only: evaluation keeps it until one of them changes.
        """
        is_traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
        if self.training or positions.is_dropped or torch.is_grad_enabled() or is_traced:
            return self._project_embeddings(positions.embeddings)
        key: tuple = (positions.range, positions.embeddings.dtype)
        if is_autocast_enabled(self.r_kernel.device):
            key += (torch.get_autocast_dtype(self.r_kernel.device.type),)
        build = partial(self._project_embeddings, positions.embeddings)
        return self._cache.get(key, (self.r_kernel,), build)

    def _project_embeddings(self, relative_embeddings: Tensor) -> Tensor:
        projected = torch.matmul(self.r_kernel.permute(1, 2, 0), relative_embeddings.t())
        return projected * self.scale


def choose_attention(model: nn.Module, kernel: str) -> None:
    """Choose how the attention layers of ``model`` compute their scores.

    Args:
        model: any model of this package.
        kernel: "fused" holds no matrix of scores (NVIDIA GPUs, half precision); "sdpa" gives
            PyTorch's kernels a matrix of position and segment scores; "auto" uses the fused
            kernel where it can.

    Raises:
        ConfigError: ``kernel`` is none of these.
    """
    if kernel not in ATTENTION_KERNELS:
        raise ConfigError(f"attention {kernel!r}: choose from {', '.join(ATTENTION_KERNELS)}")
    for module in model.modules():
        if isinstance(module, RelativeAttention):
            module.attention_kernel = kernel
