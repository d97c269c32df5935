"""Inputs that the attention layers of a block share: sinusoids, segment relations and padding.

They are built once per block (twice where the first layer pools its query) instead of once per
layer. Sequence lengths must be static; the batch size may be dynamic.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf

from funnel.config.geometry import BlockGeometry, RelativeRange, cut_length, relative_range
from funnel.config.model import ModelConfig
from funnel_tf.models.layers import dropout, get_shape_list
from funnel_tf.models.options import GraphOptions

SEGMENT_CLS = 2
# Added to the scores of padded keys.
MASKED_SCORE = -1e6


class SequenceInfo(NamedTuple):
    """Positions, padding and segments of a sequence, pooled together with its hidden states.

    Attributes:
        geometry: length and positions.
        attention_mask: 1 for a real position, 0 for padding, float32 [B, T] or None.
        token_type_ids: int32 [B, T] or None.
    """

    geometry: BlockGeometry
    attention_mask: tf.Tensor | None
    token_type_ids: tf.Tensor | None


class Sinusoids(NamedTuple):
    """Sines and cosines of query and key positions for the factorized position term.

    Attributes:
        query_sine: [Tq, D / 2].
        query_cosine: [Tq, D / 2].
        key: cosines, then sines [Tk, D]; 0 for a separate [CLS].
    """

    query_sine: tf.Tensor
    query_cosine: tf.Tensor
    key: tf.Tensor


class AttentionContext(NamedTuple):
    """All inputs of an attention layer other than the hidden states.

    Attributes:
        query_length: Tq.
        key_length: Tk.
        shift: which row of ``relative_embeddings`` belongs to which query and key (``rel_shift``),
            else None.
        relative_embeddings: sinusoids of all distances [R, D] (``rel_shift``), else None.
        sinusoids: of query and key positions (``factorized``), else None.
        same_segment: 1 where query and key are in the same segment [B, Tq, Tk], None without
            segment ids; 0 for a separate [CLS] as the key.
        key_bias: :data:`MASKED_SCORE` for a padded key, 0 for a real one [B, Tk], None without
            a mask.
        query_mask: 0 for a separate [CLS], 1 elsewhere [Tq, 1]; multiplies the queries of the
            position and segment terms.
        key_mask: 0 for a separate [CLS], 1 elsewhere [Tk].
    """

    query_length: int
    key_length: int
    shift: RelativeRange | None
    relative_embeddings: tf.Tensor | None
    sinusoids: Sinusoids | None
    same_segment: tf.Tensor | None
    key_bias: tf.Tensor | None
    query_mask: np.ndarray
    key_mask: np.ndarray


def build_attention_context(
    query: SequenceInfo, key: SequenceInfo, config: ModelConfig, options: GraphOptions
) -> AttentionContext:
    """Build the context of layers that attend from ``query`` to ``key`` positions.

    In training, dropout is applied to the position encodings: to the complete table in
    ``rel_shift``, to the query side only in ``factorized``.
    """
    shift = embeddings = sinusoids = same_segment = key_bias = None
    lengths = (query.geometry.length, key.geometry.length)
    query_mask, key_mask = (_cls_mask(length, config) for length in lengths)
    if config.rel_attn_type == "rel_shift":
        shift = relative_range(query.geometry, key.geometry)
        distances = shift.first - shift.step * np.arange(shift.count)
        embeddings = tf.concat(_sine_and_cosine(distances, config.d_model), -1)
        embeddings = tf.cast(dropout(embeddings, config.dropout, options), options.dtype)
    elif config.rel_attn_type == "factorized":
        sinusoids = _build_sinusoids(query.geometry, key.geometry, config, options)
    if config.rel_attn_type != "null" and query.token_type_ids is not None:
        same_segment = _same_segment(query.token_type_ids, key.token_type_ids)
        same_segment = tf.cast(same_segment, options.dtype) * tf.constant(key_mask, options.dtype)
    if key.attention_mask is not None:
        key_bias = tf.cast((1.0 - key.attention_mask) * MASKED_SCORE, options.dtype)
    shared = (shift, embeddings, sinusoids, same_segment, key_bias)
    return AttentionContext(*lengths, *shared, query_mask[:, None], key_mask)


def _cls_mask(length: int, config: ModelConfig) -> np.ndarray:
    """Return 0 at a separate [CLS] and 1 elsewhere, float32 [length]."""
    mask = np.ones(length, np.float32)
    mask[0] = 0.0 if config.separate_cls else 1.0
    return mask


def pool_sequence_info(
    info: SequenceInfo, geometry: BlockGeometry, config: ModelConfig
) -> SequenceInfo:
    """Pool padding and segments to the positions of ``geometry``.

    A pooled position is padding only if all its sources are; it takes the segment of the first.
    """
    mask, segments = info.attention_mask, info.token_type_ids
    if mask is not None:
        mask = pool_hidden(mask[:, :, None], config, "max")[:, :, 0]
    if segments is not None:
        start = 1 if config.separate_cls else 0
        firsts = segments[:, start :: config.pooling_size][:, : geometry.length - start]
        segments = tf.concat([segments[:, :start], firsts], 1)
    return SequenceInfo(geometry, mask, segments)


def pool_hidden(hidden: tf.Tensor, config: ModelConfig, pooling_type: str) -> tf.Tensor:
    """Pool [B, T, C] along T; a separate [CLS] is kept, and the last window may be short."""
    size = config.pooling_size
    start = 1 if config.separate_cls else 0
    length = cut_length(hidden.shape.as_list()[1], config) - start
    count = -(-length // size)
    missing = count * size - length
    lowest = hidden.dtype.min if pooling_type == "max" else 0
    windows = tf.pad(
        hidden[:, start : start + length], [[0, 0], [0, missing], [0, 0]], constant_values=lowest
    )
    windows = tf.reshape(
        windows, [get_shape_list(hidden)[0], count, size, get_shape_list(hidden)[2]]
    )
    if pooling_type == "max":
        pooled = tf.reduce_max(windows, 2)
    else:
        # The mean over the positions that a window holds: the last one may hold fewer.
        held = np.full([count, 1], size, np.float32)
        held[-1] -= missing
        pooled = tf.reduce_sum(windows, 2) * tf.cast(1 / held, hidden.dtype)
    return tf.concat([hidden[:, :start], pooled], 1) if start else pooled


def pool_by_product(hidden: tf.Tensor, config: ModelConfig) -> tf.Tensor:
    """Pool as :func:`pool_hidden` with ``"mean"``, by a product with a constant matrix [T', T].

    For TPUs: with windows that start after a separate [CLS], the compiler makes positions the
    outermost axis of all hidden states in memory, and every layer copies between that layout and
    the one that its products want.
    """
    start = 1 if config.separate_cls else 0
    count = cut_length(hidden.shape.as_list()[1], config) - start
    window = np.full(hidden.shape.as_list()[1], -1, np.int32)  # -1: in no window
    window[:start] = 0
    window[start : start + count] = start + np.arange(count) // config.pooling_size
    shares = 1 / np.bincount(window[window >= 0])
    matrix = tf.one_hot(window, len(shares), axis=0, dtype=hidden.dtype)
    matrix *= tf.constant(shares[:, None], hidden.dtype)
    return tf.einsum("pt,btd->bpd", matrix, hidden)


def _sine_and_cosine(positions: np.ndarray, width: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Return ``sin(x f)`` and ``cos(x f)``, ``f_m = 10000 ** (-2 m / width)``: [T, width / 2] each.

    Computed in the graph: as constants, the tables of a large model would add megabytes to every
    graph file.
    """
    half = width // 2
    frequencies = np.power(10000.0, -np.arange(half) / half)
    angles = tf.constant(positions[:, None], tf.float32) * tf.constant(frequencies, tf.float32)
    return tf.sin(angles), tf.cos(angles)


def _build_sinusoids(
    query: BlockGeometry, key: BlockGeometry, config: ModelConfig, options: GraphOptions
) -> Sinusoids:
    """Build the sinusoids of the factorized form.

    Only differences of positions matter, so both sides are shifted to put 0 in the middle of the
    sequence: smaller angles lose less precision in bfloat16.
    """
    centre = key.stride * key.length // 2
    (sine, cosine), (key_sine, key_cosine) = (
        _sine_and_cosine(side.start - centre + side.stride * np.arange(side.length), config.d_model)
        for side in (query, key)
    )
    sine, cosine = (dropout(encoding, config.dropout, options) for encoding in (sine, cosine))
    keys = tf.concat([key_cosine, key_sine], -1) * _cls_mask(key.length, config)[:, None]
    return Sinusoids(*(tf.cast(encoding, options.dtype) for encoding in (sine, cosine, keys)))


def _same_segment(query: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
    """Return whether two positions share a segment, bool [B, Tq, Tk]; [CLS] is in every one."""
    rows, columns = query[:, :, None], key[:, None, :]
    one_is_cls = tf.logical_or(tf.equal(rows, SEGMENT_CLS), tf.equal(columns, SEGMENT_CLS))
    return tf.logical_or(tf.equal(rows, columns), one_is_cls)
