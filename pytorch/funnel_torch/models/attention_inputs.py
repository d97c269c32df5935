"""What the layers of a block share: distance tables, segment relations and padding.

Built once per forward and block (twice where the first layer pools its query), not per layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from funnel.config.geometry import BlockGeometry, RelativeRange, cut_length, relative_range
from funnel.config.model import ModelConfig

SEGMENT_CLS = 2
# Added to the score of a padded key. Half precision cannot hold it and takes what it can.
MASKED_SCORE = -1e6


@dataclass(frozen=True)
class Waves:
    """Sines and cosines of the factorized position term, each [T, D]."""

    query_sine: Tensor
    query_cosine: Tensor
    key_cosine_sine: Tensor
    key_sine_cosine: Tensor


@dataclass(frozen=True)
class AttentionContext:
    """Everything but the hidden states that an attention layer needs.

    Attributes:
        query_length: Tq.
        key_length: Tk.
        shift: how the rows of ``table`` meet queries and keys.
        table: sinusoids of all distances [R, D] (rel_shift), else None.
        factorized: the waves (factorized), else None.
        same_segment: 1 where query and key are in the same segment [B, Tq, Tk], None without
            segment ids.
        key_bias: 0 for a real key, :data:`MASKED_SCORE` for padding [B, 1, Tk], None without
            a mask.
        device: where all of them live.
    """

    query_length: int
    key_length: int
    device: torch.device
    shift: RelativeRange | None = None
    table: Tensor | None = None
    factorized: Waves | None = None
    same_segment: Tensor | None = None
    key_bias: Tensor | None = None

    def row_mask(self, dtype: torch.dtype) -> Tensor:
        """0 in row 0, 1 elsewhere, [Tq, 1]: [CLS] asks for no position and no segment."""
        return (torch.arange(self.query_length, device=self.device) > 0).to(dtype)[:, None]


@dataclass(frozen=True)
class Tokens:
    """What is known of the positions of a sequence besides their hidden states.

    Attributes:
        geometry: length and positions.
        attention_mask: 1 for a real position, float [B, T] or None.
        segment_ids: [B, T] or None.
    """

    geometry: BlockGeometry
    attention_mask: Tensor | None
    segment_ids: Tensor | None


def pool_tokens(tokens: Tokens, geometry: BlockGeometry, config: ModelConfig) -> Tokens:
    """Follow the hidden states into a pooled block.

    A pooled position is padding only if all its sources are; it takes the segment of the first.
    """
    mask, segments = tokens.attention_mask, tokens.segment_ids
    if mask is not None:
        mask = pool_sequence(mask[:, :, None], config, "max")[:, :, 0]
    if segments is not None:
        size = config.pooling_size
        first = size * torch.arange(geometry.length, device=segments.device)
        if config.separate_cls:
            first = (first - (size - 1)).clamp(min=0)
        segments = segments[:, first]
    return Tokens(geometry, mask, segments)


def pool_sequence(hidden: Tensor, config: ModelConfig, pooling_type: str) -> Tensor:
    """Pool [B, T, C] along T; the last window may be short, [CLS] is kept if separate."""
    size = config.pooling_size
    pooled = hidden[:, : cut_length(hidden.shape[1], config)]
    if config.separate_cls:
        cls, pooled = pooled[:, :1], pooled[:, 1:]
    # A plain 2-D pooling with a window of one feature leaves the layout as it is.
    pool = F.avg_pool2d if pooling_type == "mean" else F.max_pool2d
    pooled = pool(pooled[:, None], (size, 1), (size, 1), ceil_mode=True)[:, 0]
    return torch.cat([cls, pooled], 1) if config.separate_cls else pooled


class ContextBuilder:
    """Builds contexts and keeps the sinusoid tables that they share.

    A table depends on nothing but lengths and grows to the longest seen, so a model holds one
    per distance step (at most two per block), whatever the number of layers and batches.
    """

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._tables: dict[tuple, tuple[int, Tensor]] = {}

    def build(self, query: Tokens, key: Tokens, hidden: Tensor, dropout: float) -> AttentionContext:
        """The context of layers that attend from ``query`` to ``key`` positions.

        ``hidden`` tells device and dtype. ``dropout`` > 0 (training) falls on the position
        encodings: on the whole table in ``rel_shift``, on the query's side in ``factorized``.
        """
        config, device, dtype = self._config, hidden.device, hidden.dtype
        shift = table = waves = same = bias = None
        if config.rel_attn_type == "rel_shift":
            shift = relative_range(query.geometry, key.geometry)
            table = _dropout(self._distances(shift, device, dtype), dropout)
        elif config.rel_attn_type == "factorized":
            waves = _factorized_waves(query.geometry, key.geometry, config, dropout, hidden)
        if config.rel_attn_type != "null" and query.segment_ids is not None:
            same = _same_segment(query.segment_ids, key.segment_ids).to(dtype)
        if key.attention_mask is not None:
            lowest = max(MASKED_SCORE, torch.finfo(dtype).min / 2)
            bias = ((1 - key.attention_mask) * lowest).to(dtype)[:, None]
        lengths = (query.geometry.length, key.geometry.length)
        return AttentionContext(*lengths, device, shift, table, waves, same, bias)

    def _distances(self, shift: RelativeRange, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Sinusoids of the distances of ``shift``, [R, D]."""
        width = self._config.d_model
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            # A graph must not hold a table of one length.
            positions = _progression(shift.first, -shift.step, shift.count, device)
            return sinusoids(positions, width).to(dtype)
        key = (shift.step, shift.first % shift.step, device, dtype)
        first, table = self._tables.get(key, (shift.first, None))
        last = shift.first - shift.step * (shift.count - 1)
        if table is None or first < shift.first or first - shift.step * (len(table) - 1) > last:
            if table is not None:
                last = min(last, first - shift.step * (len(table) - 1))
            first = max(first, shift.first)
            count = (first - last) // shift.step + 1
            with torch.inference_mode(False), torch.no_grad():
                positions = _progression(first, -shift.step, count, device)
                table = sinusoids(positions, width).to(dtype)
            self._tables[key] = (first, table)
        skip = (first - shift.first) // shift.step
        return table[skip : skip + shift.count]

    def __deepcopy__(self, memo: dict) -> ContextBuilder:
        """Copies of a model do not share tables."""
        return ContextBuilder(self._config)

    def __getstate__(self) -> dict:
        """Pickle without tables."""
        return {"_config": self._config, "_tables": {}}


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """``[sin(x f), cos(x f)]``, ``f_m = 10000 ** (-2 m / width)``: [..., width], float32."""
    half = width // 2
    exponents = torch.arange(half, device=positions.device, dtype=torch.float32) / half
    angles = positions.float()[..., None] * torch.pow(10000.0, -exponents)
    return torch.cat([angles.sin(), angles.cos()], -1)


def _dropout(encodings: Tensor, rate: float) -> Tensor:
    """Dropout that leaves no trace in an exported graph where there is none."""
    return F.dropout(encodings, rate, training=rate > 0)


def _progression(start: int, step: int, count: int, device: torch.device) -> Tensor:
    return start + step * torch.arange(count, device=device)


def _factorized_waves(
    query: BlockGeometry, key: BlockGeometry, config: ModelConfig, dropout: float, hidden: Tensor
) -> Waves:
    """Sines and cosines of both sides' positions.

    Only differences of positions matter: both sides are shifted so that the sequence's middle is
    0, which keeps angles small where the arithmetic is coarse.
    """
    centre = key.stride * key.length // 2

    def halves(side: BlockGeometry) -> tuple[Tensor, Tensor]:
        positions = _progression(side.start - centre, side.stride, side.length, hidden.device)
        sine, cosine = sinusoids(positions, config.d_model).chunk(2, -1)
        return sine.to(hidden.dtype), cosine.to(hidden.dtype)

    sine, cosine = (_dropout(wave, dropout) for wave in halves(query))
    key_sine, key_cosine = halves(key)
    return Waves(
        torch.cat([sine, sine], -1),
        torch.cat([cosine, cosine], -1),
        torch.cat([key_cosine, key_sine], -1),
        torch.cat([-key_sine, key_cosine], -1),
    )


def _same_segment(query: Tensor, key: Tensor) -> Tensor:
    """Whether two positions count as one segment [B, Tq, Tk]; [CLS] belongs to every segment."""
    same = query[:, :, None] == key[:, None, :]
    return same | (query == SEGMENT_CLS)[:, :, None] | (key == SEGMENT_CLS)[:, None, :]
