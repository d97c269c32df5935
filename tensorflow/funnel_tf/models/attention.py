"""Multi-head attention with relative positions, segments and pooled queries.

Tensors inside a layer are head-major, ``[N, B, T, d]``: what a head multiplies all its queries by
(projected positions, segment vectors) is then one matrix per head (Dai et al. 2020, appendix A.2).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import tensorflow.compat.v1 as tf

from funnel.config.model import ModelConfig
from funnel_tf.models.attention_inputs import AttentionContext
from funnel_tf.models.layers import dense, dropout, layer_norm, sizes
from funnel_tf.models.options import GraphOptions
from funnel_tf.models.variables import vector


class Queries(NamedTuple):
    """What meets the keys, each scaled, biased and [N, B, Tq, d]; [CLS] rows of the last two 0."""

    content: tf.Tensor
    position: tf.Tensor | None
    segment: tf.Tensor | None


def relative_attention(
    query: tf.Tensor,
    key: tf.Tensor,
    context: AttentionContext,
    config: ModelConfig,
    options: GraphOptions,
) -> tf.Tensor:
    """``LayerNorm(query + dropout(attention @ Wo + bo))`` under the scope ``rel_attn``.

    Args:
        query: [B, Tq, D].
        key: [B, Tk, D], the same tensor in most layers.
        context: positions, segments and padding of both.
        config: sizes and the form of the position term.
        options: how the graph is built.

    Returns:
        [B, Tq, D].
    """
    heads = [config.n_head, config.d_head]
    with tf.variable_scope("rel_attn"):
        projected = dense(query, "q", heads, config, options, use_bias=False)
        keys = _head_major(dense(key, "k", heads, config, options))
        values = _head_major(dense(key, "v", heads, config, options))
        queries = _queries(_head_major(projected), context, config, options)
        scores = _scores(queries, keys, context, config, options)
        weights = tf.nn.softmax(tf.cast(scores, tf.float32))
        weights = tf.cast(dropout(weights, config.dropatt, options), values.dtype)
        attended = tf.transpose(tf.matmul(weights, values), [1, 2, 0, 3])
        output = dense(attended, "o", [config.d_model], config, options, in_axes=2)
        return layer_norm(query + dropout(output, config.dropout, options), config)


def _head_major(projected: tf.Tensor) -> tf.Tensor:
    """[B, T, N, d] to [N, B, T, d]."""
    return tf.transpose(projected, [2, 0, 1, 3])


def _queries(
    projected: tf.Tensor, context: AttentionContext, config: ModelConfig, options: GraphOptions
) -> Queries:
    """The three biased copies of the projected query."""

    def biased(name: str) -> tf.Tensor:
        bias = vector(name, [config.n_head, config.d_head], config, options)
        return (projected + bias[:, None, None]) / math.sqrt(config.d_head)

    content = biased("r_w_bias")
    if config.rel_attn_type == "null":
        return Queries(content, None, None)
    rows = tf.constant(context.query_mask, options.dtype)
    return Queries(content, biased("r_r_bias") * rows, biased("r_s_bias") * rows)


def _scores(
    queries: Queries,
    keys: tf.Tensor,
    context: AttentionContext,
    config: ModelConfig,
    options: GraphOptions,
) -> tf.Tensor:
    """Content, position and segment terms and the padding's, [N, B, Tq, Tk].

    A row's scores may be shifted by a constant without changing its softmax. The segment term
    ``different + same_ij * (same - different)`` is therefore added without its first part, which
    comes back, negated, only in the column of a separate [CLS], which has no segment term.

    What depends on the key alone (that column, padding) costs no addition of its own: it rides on
    the content product as one more element of queries and keys.
    """
    query_parts, key_parts = [queries.content], [keys]
    terms = []
    if queries.position is not None:
        terms.append(_position_scores(queries.position, context, config, options))
        # Made even where no segment ids come, so that every graph has the same variables.
        gain, cls_column = _segment_scores(queries.segment, config, options)
        if context.same_segment is not None:
            terms.append(gain * context.same_segment)
            if config.separate_cls:
                query_parts.append(cls_column)
                key_parts.append(_per_key(tf.constant(1 - context.key_mask), keys))
    if context.padding is not None:
        query_parts.append(tf.ones_like(queries.content[..., :1]))
        key_parts.append(_per_key(context.padding, keys))
    content = tf.matmul(tf.concat(query_parts, -1), tf.concat(key_parts, -1), transpose_b=True)
    return tf.add_n([content, *terms])


def _per_key(values: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
    """[Tk] or [B, Tk] as one more element of all heads' keys, [N, B, Tk, 1]."""
    return tf.broadcast_to(tf.cast(values, keys.dtype)[..., None], [*sizes(keys)[:-1], 1])


def _segment_scores(
    queries: tf.Tensor, config: ModelConfig, options: GraphOptions
) -> tuple[tf.Tensor, tf.Tensor]:
    """Same minus different, and minus different, for every query: [N, B, Tq, 1] each."""
    embed = vector("seg_embed", [2, config.n_head, config.d_head], config, options)
    vectors = tf.stack([embed[1] - embed[0], -embed[0]], -1)
    return tuple(tf.split(_per_head(queries, vectors), 2, -1))


def _per_head(queries: tf.Tensor, matrices: tf.Tensor) -> tf.Tensor:
    """[N, B, Tq, d] times one matrix [N, d, C] per head: [N, B, Tq, C]."""
    heads, _, length, size = sizes(queries)
    product = tf.matmul(tf.reshape(queries, [heads, -1, size]), matrices)
    return tf.reshape(product, [heads, -1, length, matrices.shape.as_list()[-1]])


def _position_scores(
    queries: tf.Tensor, context: AttentionContext, config: ModelConfig, options: GraphOptions
) -> tf.Tensor:
    """Position term [N, B, Tq, Tk]; 0 in the column of a separate [CLS]."""
    with tf.variable_scope("r"):
        shape = (config.d_model, config.n_head, config.d_head)
        weights = vector("kernel", shape, config, options)
    if context.waves is not None:
        return _factorized_scores(_per_head(queries, tf.transpose(weights, [1, 2, 0])), context)
    return _shifted_scores(queries, weights, context, config)


def _shifted_scores(
    queries: tf.Tensor, weights: tf.Tensor, context: AttentionContext, config: ModelConfig
) -> tf.Tensor:
    """Scores by distance, shifted so that column j of row i is the distance of i and j.

    Flattened, cut into rows that are ``ratio`` shorter, every row starts ``ratio`` later.
    """
    shift, length = context.shift, context.query_length
    flat = tf.reshape(weights, [config.d_model, -1])
    table = tf.reshape(tf.matmul(context.table, flat), [-1, config.n_head, config.d_head])
    scores = _per_head(queries, tf.transpose(table, [1, 2, 0]))
    leading, row = sizes(scores)[:2], shift.count - shift.ratio
    scores = tf.reshape(scores, [*leading, length * shift.count])
    scores = _cut(scores, shift.offset, length * row)
    scores = tf.reshape(scores, [*leading, length, row])
    if not config.separate_cls:
        return _cut(scores, 0, context.key_length)
    return tf.pad(_cut(scores, 1, context.key_length - 1), [[0, 0]] * 3 + [[1, 0]])


def _cut(scores: tf.Tensor, begin: int, size: int) -> tf.Tensor:
    """``size`` elements of the last axis; the gradient of an indexed slice is far slower."""
    before = [0] * (scores.shape.rank - 1)
    return tf.slice(scores, [*before, begin], [*[-1] * len(before), size])


def _factorized_scores(projected: tf.Tensor, context: AttentionContext) -> tf.Tensor:
    """The same through the sines and cosines of both sides.

    ``projected`` [N, B, Tq, D] is what meets ``[sin(i - j), cos(i - j)]``. Both expand into
    products; collected by the key's factors they need one product of depth D.
    """
    waves = context.waves
    by_sine, by_cosine = tf.split(projected, 2, -1)
    meets_cosine = by_sine * waves.query_sine + by_cosine * waves.query_cosine
    meets_sine = by_cosine * waves.query_sine - by_sine * waves.query_cosine
    queries = tf.concat([meets_cosine, meets_sine], -1)
    leading, width = sizes(queries)[:-1], sizes(queries)[-1]
    scores = tf.matmul(tf.reshape(queries, [-1, width]), waves.key, transpose_b=True)
    return tf.reshape(scores, [*leading, context.key_length])
