"""What the layers of a block share: sinusoids, segment relations, padding; and how all are pooled.

Built once per block (twice where the first layer pools its query), not per layer. Lengths are known
when the graph is built; of the shapes only the batch may be dynamic.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf

from funnel.config.geometry import BlockGeometry, RelativeRange, cut_length, relative_range
from funnel.config.model import ModelConfig
from funnel_tf.models.layers import dropout, sizes
from funnel_tf.models.options import GraphOptions

SEGMENT_CLS = 2
# Added to the score of a padded key.
MASKED_SCORE = -1e6


class Tokens(NamedTuple):
    """What is known of the positions of a sequence besides their hidden states.

    Attributes:
        geometry: length and positions.
        real: 1 for a real position, 0 for padding, float [B, T] or None.
        segment_ids: [B, T] or None.
    """

    geometry: BlockGeometry
    real: tf.Tensor | None
    segment_ids: tf.Tensor | None


class Waves(NamedTuple):
    """Sines and cosines of the factorized position term.

    Attributes:
        query_sine, query_cosine: [Tq, D / 2].
        key: cosines, then sines [Tk, D]; zero for a separate [CLS].
    """

    query_sine: tf.Tensor
    query_cosine: tf.Tensor
    key: tf.Tensor


class AttentionContext(NamedTuple):
    """Everything but the hidden states that an attention layer needs.

    Attributes:
        query_length: Tq.
        key_length: Tk.
        shift: how the rows of ``table`` meet queries and keys (rel_shift), else None.
        table: sinusoids of all distances [R, D] (rel_shift), else None.
        waves: of both sides (factorized), else None.
        same_segment: 1 where query and key are in the same segment [B, Tq, Tk], None without
            segment ids; 0 for a separate [CLS] as the key.
        padding: :data:`MASKED_SCORE` for a padded key, 0 for a real one [B, Tk], None without
            a mask.
        query_mask: 0 for a separate [CLS], which asks for no position and no segment, 1 elsewhere
            [Tq, 1].
        key_mask: the same of the keys, which tell of none [Tk].
    """

    query_length: int
    key_length: int
    shift: RelativeRange | None
    table: tf.Tensor | None
    waves: Waves | None
    same_segment: tf.Tensor | None
    padding: tf.Tensor | None
    query_mask: np.ndarray
    key_mask: np.ndarray


def attention_context(
    query: Tokens, key: Tokens, config: ModelConfig, options: GraphOptions
) -> AttentionContext:
    """The context of layers that attend from ``query`` to ``key`` positions.

    In training, dropout falls on the position encodings: on the whole table in ``rel_shift``, on
    the query's side in ``factorized``.
    """
    shift = table = waves = same = padding = None
    lengths = (query.geometry.length, key.geometry.length)
    query_mask, key_mask = (_not_cls(length, config) for length in lengths)
    if config.rel_attn_type == "rel_shift":
        shift = relative_range(query.geometry, key.geometry)
        distances = shift.first - shift.step * np.arange(shift.count)
        table = tf.concat(_sinusoids(distances, config.d_model), -1)
        table = tf.cast(dropout(table, config.dropout, options), options.dtype)
    elif config.rel_attn_type == "factorized":
        waves = _waves(query.geometry, key.geometry, config, options)
    if config.rel_attn_type != "null" and query.segment_ids is not None:
        same = _same_segment(query.segment_ids, key.segment_ids)
        same = tf.cast(same, options.dtype) * tf.constant(key_mask, options.dtype)
    if key.real is not None:
        padding = tf.cast((1.0 - key.real) * MASKED_SCORE, options.dtype)
    masks = (query_mask[:, None], key_mask)
    return AttentionContext(*lengths, shift, table, waves, same, padding, *masks)


def _not_cls(length: int, config: ModelConfig) -> np.ndarray:
    """0 at a separate [CLS], 1 elsewhere, float32 [length]."""
    mask = np.ones(length, np.float32)
    mask[0] = 0.0 if config.separate_cls else 1.0
    return mask


def pool_tokens(tokens: Tokens, geometry: BlockGeometry, config: ModelConfig) -> Tokens:
    """Follow the hidden states into a pooled block.

    A pooled position is padding only if all its sources are; it takes the segment of the first.
    """
    real, segments = tokens.real, tokens.segment_ids
    if real is not None:
        real = pool_sequence(real[:, :, None], config, "max")[:, :, 0]
    if segments is not None:
        start = 1 if config.separate_cls else 0
        firsts = segments[:, start :: config.pooling_size][:, : geometry.length - start]
        segments = tf.concat([segments[:, :start], firsts], 1)
    return Tokens(geometry, real, segments)


def pool_sequence(hidden: tf.Tensor, config: ModelConfig, pooling_type: str) -> tf.Tensor:
    """Pool [B, T, C] along T; the last window may be short, [CLS] is kept if separate."""
    size = config.pooling_size
    start = 1 if config.separate_cls else 0
    length = cut_length(hidden.shape.as_list()[1], config) - start
    count = -(-length // size)
    missing = count * size - length
    lowest = hidden.dtype.min if pooling_type == "max" else 0
    windows = tf.pad(
        hidden[:, start : start + length], [[0, 0], [0, missing], [0, 0]], constant_values=lowest
    )
    windows = tf.reshape(windows, [sizes(hidden)[0], count, size, sizes(hidden)[2]])
    if pooling_type == "max":
        pooled = tf.reduce_max(windows, 2)
    else:
        held = np.full([count, 1], size, np.float32)
        held[-1] -= missing
        pooled = tf.reduce_sum(windows, 2) * tf.cast(1 / held, hidden.dtype)
    return tf.concat([hidden[:, :start], pooled], 1) if start else pooled


def _sinusoids(positions: np.ndarray, width: int) -> tuple[tf.Tensor, tf.Tensor]:
    """``sin(x f)`` and ``cos(x f)``, ``f_m = 10000 ** (-2 m / width)``: [T, width / 2] each.

    Computed in the graph and not ahead: as constants, the tables of a large model would fill
    megabytes of every graph file.
    """
    half = width // 2
    frequencies = np.power(10000.0, -np.arange(half) / half)
    angles = tf.constant(positions[:, None], tf.float32) * tf.constant(frequencies, tf.float32)
    return tf.sin(angles), tf.cos(angles)


def _waves(
    query: BlockGeometry, key: BlockGeometry, config: ModelConfig, options: GraphOptions
) -> Waves:
    """Sines and cosines of both sides' positions.

    Only differences of positions matter: both sides are shifted so that the sequence's middle is
    0, which keeps angles small where the arithmetic is coarse.
    """
    centre = key.stride * key.length // 2

    def halves(side: BlockGeometry) -> tuple[tf.Tensor, tf.Tensor]:
        positions = side.start - centre + side.stride * np.arange(side.length)
        return _sinusoids(positions, config.d_model)

    sine, cosine = (dropout(wave, config.dropout, options) for wave in halves(query))
    key_sine, key_cosine = halves(key)
    keys = tf.concat([key_cosine, key_sine], -1) * _not_cls(key.length, config)[:, None]
    return Waves(*(tf.cast(wave, options.dtype) for wave in (sine, cosine, keys)))


def _same_segment(query: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
    """Whether two positions count as one segment [B, Tq, Tk]; [CLS] belongs to every segment."""
    rows, columns = query[:, :, None], key[:, None, :]
    one_is_cls = tf.logical_or(tf.equal(rows, SEGMENT_CLS), tf.equal(columns, SEGMENT_CLS))
    return tf.logical_or(tf.equal(rows, columns), one_is_cls)
