"""Inputs of attention that all layers of a block share: positions, segment relations, padding.

They are built once per forward pass and block (twice where the first layer pools its query), not
once per layer. :class:`AttentionContext` holds them, :class:`ContextBuilder` makes it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from funnel.config.geometry import BlockGeometry, RelativeRange, cut_length, relative_range
from funnel.config.model import ModelConfig

# token_type_ids of [CLS]; 0 and 1 are the first and second text.
SEGMENT_CLS = 2
# Added to the scores of padded keys. Clamped to the range of the dtype in half precision.
MASKED_SCORE = -1e6


@dataclass(frozen=True)
class RelativePositions:
    """Encodings of all distances between queries and keys, for the ``rel_shift`` form.

    Attributes:
        range: the R distances, and how they line up with queries and keys.
        embeddings: relative_embeddings [R, D], ``[sin(x f), cos(x f)]`` of each distance x.
        is_dropped: whether dropout has changed them, for this call only.
    """

    range: RelativeRange
    embeddings: Tensor
    is_dropped: bool = False

    def of_first_query(self) -> RelativePositions:
        """Return the distances of the first query: from its one to the first key downwards."""
        distances = self.range.of_first_query()
        skipped = self.range.offset
        embeddings = self.embeddings[skipped : skipped + distances.count]
        return RelativePositions(distances, embeddings, self.is_dropped)


@dataclass(frozen=True)
class Sinusoids:
    """Encodings of absolute positions for the ``factorized`` form, each [T, D].

    With a the angle of the query and b that of the key, ``sin(a - b) = sin a cos b - cos a sin b``
    and ``cos(a - b) = sin a sin b + cos a cos b``: the encoding of a distance, ``[sin, cos]``, is
    ``[sin a, sin a] * [cos b, sin b] + [cos a, cos a] * [-sin b, cos b]``.

    Attributes:
        query_sine: ``[sin a, sin a]``.
        query_cosine: ``[cos a, cos a]``.
        key_cosine_sine: ``[cos b, sin b]``.
        key_sine_cosine: ``[-sin b, cos b]``.
    """

    query_sine: Tensor
    query_cosine: Tensor
    key_cosine_sine: Tensor
    key_sine_cosine: Tensor

    def of_first_query(self) -> Sinusoids:
        """Return the encodings of the first query and all keys."""
        query = (self.query_sine[:1], self.query_cosine[:1])
        return Sinusoids(*query, self.key_cosine_sine, self.key_sine_cosine)

    def scores(self, projected: Tensor, rows: slice) -> Tensor:
        """Compute the position scores of some queries, [N, B, rows, Tk].

        By the identity above no distance is ever gathered (which TPUs do slowly).

        Args:
            projected: their position queries, multiplied with Wr, [N, B, rows, D].
            rows: which queries these are.
        """
        sine, cosine = self.query_sine[rows], self.query_cosine[rows]
        from_sine = torch.matmul(projected * sine, self.key_cosine_sine.t())
        return from_sine + torch.matmul(projected * cosine, self.key_sine_cosine.t())


@dataclass
class AttentionContext:
    """Everything that an attention layer needs besides the hidden states.

    Attributes:
        query_length: Tq.
        key_length: Tk.
        device: device of all tensors.
        positions: depends on ``rel_attn_type``; None for absolute positions ("null").
        segments: segment ids of queries [B, Tq] and keys [B, Tk]; None without segment ids.
        key_bias: 0 for a real key, :data:`MASKED_SCORE` for padding [B, 1, Tk]; None without a
            mask.
    """

    query_length: int
    key_length: int
    device: torch.device
    positions: RelativePositions | Sinusoids | None = None
    segments: tuple[Tensor, Tensor] | None = None
    key_bias: Tensor | None = None
    _same_segment: Tensor | None = field(default=None, init=False, repr=False)
    _is_one_segment: bool | None = field(default=None, init=False, repr=False)
    _row_mask: Tensor | None = field(default=None, init=False, repr=False)

    def row_mask(self, dtype: torch.dtype) -> Tensor:
        """Return 0 in row 0 and 1 elsewhere [Tq, 1].

        With ``separate_cls`` the [CLS] query has no position and no segment scores.
        """
        if self._row_mask is None or self._row_mask.dtype != dtype:
            rows = torch.arange(self.query_length, device=self.device)
            self._row_mask = (rows > 0).to(dtype)[:, None]
        return self._row_mask

    def first_query(self) -> AttentionContext:
        """Return the context of the first query alone."""
        positions, segments = self.positions, self.segments
        return AttentionContext(
            1,
            self.key_length,
            self.device,
            None if positions is None else positions.of_first_query(),
            None if segments is None else (segments[0][:, :1], segments[1]),
            self.key_bias,
        )

    @property
    def same_segment(self) -> Tensor | None:
        """1 where query and key count as one segment [B, Tq, Tk]; None without segment ids.

        Computed for the first layer that asks: the fused kernel compares the ids itself.
        """
        if self._same_segment is None and self.segments is not None:
            self._same_segment = _same_segment(*self.segments)
        return self._same_segment

    @property
    def is_one_segment(self) -> bool:
        """Whether all queries and keys count as one segment; reads the ids, so for a CPU."""
        if self._is_one_segment is None and self.segments is not None:
            ids = self.segments[1]  # those of pooled queries are some of them
            self._is_one_segment = bool(((ids == ids.min()) | (ids == SEGMENT_CLS)).all())
        return bool(self._is_one_segment)


@dataclass(frozen=True)
class SequenceInfo:
    """Positions, padding and segments of a (pooled) sequence.

    Attributes:
        geometry: length and positions.
        attention_mask: float [B, T], 1 for a real position, 0 for padding; None hides nothing.
        token_type_ids: [B, T]; None leaves the segment scores out.
    """

    geometry: BlockGeometry
    attention_mask: Tensor | None
    token_type_ids: Tensor | None


def pool_sequence_info(
    sequence: SequenceInfo, geometry: BlockGeometry, config: ModelConfig
) -> SequenceInfo:
    """Pool mask and segments as the hidden states of a block are pooled (section 2.2).

    A pooled position is padding only if all its sources are; it takes the segment of the first.
    """
    mask, segments = sequence.attention_mask, sequence.token_type_ids
    if mask is not None:
        mask = pool_hidden(mask[:, :, None], config, "max")[:, :, 0]
    if segments is not None:
        size = config.pooling_size
        # Source of pooled position t: size * t, or with a separate [CLS] 0, 1, size + 1, ...
        first = size * torch.arange(geometry.length, device=segments.device)
        if config.separate_cls:
            first = (first - (size - 1)).clamp(min=0)
        segments = segments[:, first]
    return SequenceInfo(geometry, mask, segments)


def pool_hidden(hidden: Tensor, config: ModelConfig, pooling_type: str) -> Tensor:
    """Pool [B, T, C] along T with window and stride ``pooling_size``; the last window may be short.

    With ``separate_cls`` position 0 is kept and windows start at position 1; with
    ``truncate_seq`` too, the last position is dropped first, so that 2^k becomes 2^(k - 1).
    """
    size = config.pooling_size
    pooled = hidden[:, : cut_length(hidden.shape[1], config)]
    if config.separate_cls:
        cls, pooled = pooled[:, :1], pooled[:, 1:]
    if size == 2 and pooling_type == "mean" and _is_even(pooled):
        pooled = (pooled[:, ::2] + pooled[:, 1::2]) * 0.5  # several times as fast on a CPU
    else:
        # 2-D pooling with a window of one feature needs no transposition, unlike 1-D pooling.
        pool = F.avg_pool2d if pooling_type == "mean" else F.max_pool2d
        pooled = pool(pooled[:, None], (size, 1), (size, 1), ceil_mode=True)[:, 0]
    return torch.cat([cls, pooled], 1) if config.separate_cls else pooled


def _is_even(x: Tensor) -> bool:
    """Return whether [B, T, C] has an even length, in evaluation: the same for all lengths."""
    is_traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return not (is_traced or torch.is_grad_enabled()) and x.shape[1] % 2 == 0


class ContextBuilder:
    """Builds attention contexts and caches the relative embeddings that they share.

    Relative embeddings depend only on the lengths. The cached ones grow to the longest sequence
    seen and are sliced for shorter ones, so a model holds one tensor per distance step (at most
    two per block), whatever the number of layers and batches.
    """

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        # By step, offset, device and dtype: the largest distance, and the embeddings from it down.
        self._cache: dict[tuple, tuple[int, Tensor]] = {}

    def build(
        self, query: SequenceInfo, key: SequenceInfo, hidden: Tensor, dropout: float
    ) -> AttentionContext:
        """Build the context of layers that attend from ``query`` to ``key`` positions.

        Args:
            query: of length Tq.
            key: of length Tk; another sequence only where a layer pools its query alone.
            hidden: any tensor with the device and dtype of the hidden states.
            dropout: rate for the position encodings in training: on all relative embeddings in
                the ``rel_shift`` form, on the query's side in the ``factorized`` form.
        """
        device, dtype = hidden.device, hidden.dtype
        is_relative = self._config.rel_attn_type != "null"
        segments = bias = None
        positions = self._encode_positions(query.geometry, key.geometry, hidden, dropout)
        if is_relative and query.token_type_ids is not None and key.token_type_ids is not None:
            segments = (query.token_type_ids, key.token_type_ids)
        if key.attention_mask is not None:
            lowest = max(MASKED_SCORE, torch.finfo(dtype).min / 2)
            bias = ((1 - key.attention_mask) * lowest).to(dtype)[:, None]
        lengths = (query.geometry.length, key.geometry.length)
        return AttentionContext(*lengths, device, positions, segments, bias)

    def _encode_positions(
        self, query: BlockGeometry, key: BlockGeometry, hidden: Tensor, dropout: float
    ) -> RelativePositions | Sinusoids | None:
        if self._config.rel_attn_type == "factorized":
            return _factorized_sinusoids(query, key, self._config, dropout, hidden)
        if self._config.rel_attn_type == "null":
            return None
        distances = relative_range(query, key)
        embeddings = self._relative_embeddings(distances, hidden.device, hidden.dtype)
        return RelativePositions(distances, _dropout(embeddings, dropout), dropout > 0)

    def _relative_embeddings(
        self, distances: RelativeRange, device: torch.device, dtype: torch.dtype
    ) -> Tensor:
        """Return the encodings of ``distances`` [R, D], a slice of the cached ones."""
        width = self._config.d_model
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            # A traced graph must not hold a constant for one sequence length.
            positions = _progression(distances.first, -distances.step, distances.count, device)
            return encode_positions(positions, width).to(dtype)
        step = distances.step
        key = (step, distances.first % step, device, dtype)
        first, cached = self._cache.get(key, (distances.first, None))
        last = distances.first - step * (distances.count - 1)
        if cached is None or first < distances.first or first - step * (len(cached) - 1) > last:
            if cached is not None:
                last = min(last, first - step * (len(cached) - 1))
            first = max(first, distances.first)
            count = (first - last) // step + 1
            # An inference tensor in the cache could not take part in a later training step.
            with torch.inference_mode(False), torch.no_grad():
                positions = _progression(first, -step, count, device)
                cached = encode_positions(positions, width).to(dtype)
            self._cache[key] = (first, cached)
        skip = (first - distances.first) // step
        return cached[skip : skip + distances.count]

    def __deepcopy__(self, memo: dict) -> ContextBuilder:
        """Copy without the cache."""
        return ContextBuilder(self._config)

    def __getstate__(self) -> dict:
        """Pickle without the cache."""
        return {"_config": self._config, "_cache": {}}


def encode_positions(positions: Tensor, width: int) -> Tensor:
    """Return ``[sin(x f), cos(x f)]``, ``f_m = 10000 ** (-2 m / width)``, as float32 [..., width].

    Args:
        positions: positions or distances x, [...].
        width: even; half of the features are sines, half cosines.
    """
    half = width // 2
    exponents = torch.arange(half, device=positions.device, dtype=torch.float32) / half
    angles = positions.float()[..., None] * torch.pow(10000.0, -exponents)
    return torch.cat([angles.sin(), angles.cos()], -1)


def _dropout(encodings: Tensor, rate: float) -> Tensor:
    """Apply dropout; at rate 0 no operation of it gets into a traced graph."""
    return F.dropout(encodings, rate, training=rate > 0)


def _progression(start: int, step: int, count: int, device: torch.device) -> Tensor:
    return start + step * torch.arange(count, device=device)


def _factorized_sinusoids(
    query: BlockGeometry, key: BlockGeometry, config: ModelConfig, dropout: float, hidden: Tensor
) -> Sinusoids:
    """Return the sines and cosines of the positions of both sides.

    Only differences of positions matter: both sides are shifted so that the middle of the sequence
    is 0, which keeps angles small and bfloat16 accurate.
    """
    centre = key.stride * key.length // 2
    sine, cosine = (
        _dropout(half, dropout) for half in _sine_cosine(query, centre, config.d_model, hidden)
    )
    key_sine, key_cosine = _sine_cosine(key, centre, config.d_model, hidden)
    return Sinusoids(
        torch.cat([sine, sine], -1),
        torch.cat([cosine, cosine], -1),
        torch.cat([key_cosine, key_sine], -1),
        torch.cat([-key_sine, key_cosine], -1),
    )


def _sine_cosine(
    side: BlockGeometry, centre: int, width: int, hidden: Tensor
) -> tuple[Tensor, Tensor]:
    """Return sine and cosine [T, width / 2] of positions relative to ``centre``."""
    positions = _progression(side.start - centre, side.stride, side.length, hidden.device)
    sine, cosine = encode_positions(positions, width).chunk(2, -1)
    return sine.to(hidden.dtype), cosine.to(hidden.dtype)


def _same_segment(query: Tensor, key: Tensor) -> Tensor:
    """Return whether two positions count as one segment [B, Tq, Tk]; [CLS] is in every segment."""
    same = query[:, :, None] == key[:, None, :]
    return same | (query == SEGMENT_CLS)[:, :, None] | (key == SEGMENT_CLS)[:, None, :]
