"""Multi-head attention with relative positions, segments and pooled queries.

The score of a query and a key is a sum of a content, a position and a segment term (Dai et al.
2020, appendix A.2). Tensors inside a layer are head-major, ``[N, B, T, d]``: the projected
distances and the segment vectors are then one matrix per head, and one batched product applies
them to the queries of all sequences.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow.compat.v1 as tf

from funnel.config.model import ModelConfig
from funnel_tf.models.attention_inputs import AttentionContext, Sinusoids
from funnel_tf.models.layers import dropout, get_shape_list, layer_norm, linear
from funnel_tf.models.options import GraphOptions
from funnel_tf.models.softmax_product import softmax_product
from funnel_tf.models.variables import get_constant, get_kernel, get_vector


class Queries(NamedTuple):
    """Scaled queries with the bias of each term added, [N, B, Tq, d].

    The position and segment queries of a separate [CLS] are 0, so it attends by content alone.
    Both are None without relative attention.
    """

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
    """Compute ``LayerNorm(query + dropout(attention @ Wo + bo))`` in the scope ``rel_attn``.

    Args:
        query: [B, Tq, D].
        key: [B, Tk, D], the same tensor in most layers.
        context: positions, segments and padding of both.
        config: sizes and the form of the position term.
        options: how the graph is built.

    Returns:
        [B, Tq, D].
    """
    with tf.variable_scope("rel_attn"):
        projected = _project(query, "q", config, options, use_bias=False)
        keys = _project(key, "k", config, options)
        values = _project(key, "v", config, options)
        queries = _add_query_biases(projected, context, config, options)
        scores = _compute_scores(queries, keys, context, config, options)
        attended = softmax_product(scores, values, config.dropatt, options)
        output = _project_back(attended, config, options)
        return layer_norm(query + dropout(output, config.dropout, options), config)


def _project(
    hidden: tf.Tensor, scope: str, config: ModelConfig, options: GraphOptions, use_bias: bool = True
) -> tf.Tensor:
    """Project [B, T, D] to the queries, keys or values of all heads, [N, B, T, d]."""
    heads = [config.n_head, config.d_head]
    if not options.use_tpu:
        projected = linear(hidden, scope, heads, config, options, use_bias=use_bias)
        return tf.transpose(projected, [2, 0, 1, 3])
    # Heads of 64 elements do not fill the 128 lanes of a TPU. Without a reshape between product and
    # transpose, the compiler chooses a layout for both and copies nothing.
    with tf.variable_scope(scope):
        weights = get_kernel("kernel", (hidden.shape.as_list()[-1], *heads), config, options)
        projected = tf.einsum("btm,mnd->nbtd", hidden, weights)
        if use_bias:
            projected += get_constant("bias", heads, 0.0, options.dtype)[:, None, None]
    return projected


def _project_back(attended: tf.Tensor, config: ModelConfig, options: GraphOptions) -> tf.Tensor:
    """Project the outputs of all heads [N, B, T, d] to [B, T, D]."""
    if not options.use_tpu:
        attended = tf.transpose(attended, [1, 2, 0, 3])
        return linear(attended, "o", [config.d_model], config, options, in_axes=2)
    with tf.variable_scope("o"):
        shape = (config.n_head, config.d_head, config.d_model)
        weights = get_kernel("kernel", shape, config, options, in_axes=2)
        output = tf.einsum("nbtd,ndm->btm", attended, weights)
        return output + get_constant("bias", [config.d_model], 0.0, options.dtype)


def _add_query_biases(
    projected: tf.Tensor, context: AttentionContext, config: ModelConfig, options: GraphOptions
) -> Queries:
    """Add the bias of each score term to the projected queries and scale the sums."""
    if config.rel_attn_type == "null":
        return Queries(_add_query_bias(projected, "r_w_bias", config, options), None, None)
    content, position, segment = (
        _add_query_bias(projected, name, config, options)
        for name in ("r_w_bias", "r_r_bias", "r_s_bias")
    )
    rows = tf.constant(context.query_mask, options.dtype)
    return Queries(content, position * rows, segment * rows)


def _add_query_bias(
    projected: tf.Tensor, name: str, config: ModelConfig, options: GraphOptions
) -> tf.Tensor:
    bias = get_vector(name, [config.n_head, config.d_head], config, options)
    return (projected + bias[:, None, None]) / math.sqrt(config.d_head)


def _compute_scores(
    queries: Queries,
    keys: tf.Tensor,
    context: AttentionContext,
    config: ModelConfig,
    options: GraphOptions,
) -> tf.Tensor:
    """Return the sum of content, position and segment terms and of the key bias, [N, B, Tq, Tk].

    With ``s_ij`` = 1 for two tokens in the same segment, the segment term is

        Q_i . (e_0 + s_ij (e_1 - e_0)) = Q_i . e_0 + s_ij (Q_i . (e_1 - e_0)).

    ``Q_i . e_0`` is the same for every key j, and a softmax does not change when a constant is
    added to its row, so it is left out. The exception is the column of a separate [CLS], whose
    segment term is 0: relative to the other columns it then has to receive ``-Q_i . e_0``.

    That column and the key bias depend on the key through one factor each, a vector over j. They
    are computed within the content product, as additional elements of queries and keys, which
    saves an elementwise pass over [N, B, Tq, Tk] for each.
    """
    query_parts, key_parts = [queries.content], [keys]
    terms = []
    if queries.position is not None:
        terms.append(_position_scores(queries.position, context, config, options))
        # Built even without segment ids, so that every graph has the same variables.
        gain, cls_column = _segment_scores(queries.segment, config, options)
        if context.same_segment is not None:
            terms.append(gain * context.same_segment)
            if config.separate_cls:
                query_parts.append(cls_column)
                key_parts.append(_as_key_element(tf.constant(1 - context.key_mask), keys))
    if context.key_bias is not None:
        query_parts.append(tf.ones_like(queries.content[..., :1]))
        key_parts.append(_as_key_element(context.key_bias, keys))
    content = tf.matmul(tf.concat(query_parts, -1), tf.concat(key_parts, -1), transpose_b=True)
    return tf.add_n([content, *terms])


def _as_key_element(values: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
    """Broadcast [Tk] or [B, Tk] to one more element of the keys of all heads, [N, B, Tk, 1]."""
    return tf.broadcast_to(tf.cast(values, keys.dtype)[..., None], [*get_shape_list(keys)[:-1], 1])


def _segment_scores(
    queries: tf.Tensor, config: ModelConfig, options: GraphOptions
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return ``Q . (e_1 - e_0)`` and ``-Q . e_0``, [N, B, Tq, 1] each.

    The first is the score bonus for keys of the query's segment.
    """
    embed = get_vector("seg_embed", [2, config.n_head, config.d_head], config, options)
    vectors = tf.stack([embed[1] - embed[0], -embed[0]], -1)
    return tuple(tf.split(_multiply_per_head(queries, vectors, options), 2, -1))


def _multiply_per_head(queries: tf.Tensor, matrices: tf.Tensor, options: GraphOptions) -> tf.Tensor:
    """Multiply [N, B, Tq, d] by one matrix [N, d, C] per head: [N, B, Tq, C]."""
    if options.use_tpu:
        return tf.einsum("nbtd,ndc->nbtc", queries, matrices)
    heads, _, length, size = get_shape_list(queries)
    product = tf.matmul(tf.reshape(queries, [heads, -1, size]), matrices)
    return tf.reshape(product, [heads, -1, length, matrices.shape.as_list()[-1]])


def _position_scores(
    queries: tf.Tensor, context: AttentionContext, config: ModelConfig, options: GraphOptions
) -> tf.Tensor:
    """Return the position term [N, B, Tq, Tk]; 0 in the column of a separate [CLS]."""
    with tf.variable_scope("r"):
        shape = (config.d_model, config.n_head, config.d_head)
        weights = get_vector("kernel", shape, config, options)
    if context.sinusoids is not None:
        return _factorized_scores(queries, weights, context, options)
    return _shifted_scores(queries, weights, context, config, options)


def _shifted_scores(
    queries: tf.Tensor,
    weights: tf.Tensor,
    context: AttentionContext,
    config: ModelConfig,
    options: GraphOptions,
) -> tf.Tensor:
    """Compute scores by distance and shift every row so that column j belongs to key j.

    Query i meets key j at the distance in row ``t = j - ratio * i + offset`` of the table (see
    :class:`RelativeRange`), which is element ``i * count + t`` of the flattened scores:

        i * count + j - ratio * i + offset = offset + i * (count - ratio) + j.

    So without the first ``offset`` elements, and cut into rows of ``count - ratio``, the buffer has
    the score of query i and key j in row i, column j. No element is gathered.
    """
    shift, length = context.shift, context.query_length
    flat = tf.reshape(weights, [config.d_model, -1])
    table = tf.matmul(context.relative_embeddings, flat)
    table = tf.reshape(table, [-1, config.n_head, config.d_head])
    scores = _multiply_per_head(queries, tf.transpose(table, [1, 2, 0]), options)
    leading, row = get_shape_list(scores)[:2], shift.count - shift.ratio
    scores = tf.reshape(scores, [*leading, length * shift.count])
    scores = _slice_last(scores, shift.offset, length * row)
    scores = tf.reshape(scores, [*leading, length, row])
    if not config.separate_cls:
        return _slice_last(scores, 0, context.key_length)
    return tf.pad(_slice_last(scores, 1, context.key_length - 1), [[0, 0]] * 3 + [[1, 0]])


def _slice_last(scores: tf.Tensor, begin: int, size: int) -> tf.Tensor:
    """Return ``size`` elements of the last axis from ``begin`` on.

    ``tf.slice`` instead of indexing: its gradient is a pad, that of the strided slice which
    ``scores[..., a:b]`` makes is far slower.
    """
    before = [0] * (scores.shape.rank - 1)
    return tf.slice(scores, [*before, begin], [*[-1] * len(before), size])


def _factorized_scores(
    queries: tf.Tensor, weights: tf.Tensor, context: AttentionContext, options: GraphOptions
) -> tf.Tensor:
    """Compute the position term without a table of distances.

    Rows that start at different offsets fit badly into the tiled memory of a TPU, for which the
    relative shift is slow. This form has dense products only, of depth D instead of d. For the
    products p and q [N, B, Tq, D / 2] of queries with the rows of the weights that belong to
    ``sin(i - j)`` and ``cos(i - j)``:

        p sin(i - j) + q cos(i - j) = (p sin i + q cos i) cos j + (q sin i - p cos i) sin j.
    """
    sinusoids, matrices = context.sinusoids, tf.transpose(weights, [1, 2, 0])
    if options.use_tpu:
        return _rotated_product(queries, matrices, sinusoids)
    # Two products instead of one that is split: its gradient would join both halves in a copy.
    by_sine, by_cosine = (
        _multiply_per_head(queries, half, options) for half in tf.split(matrices, 2, -1)
    )
    with_cosine = by_sine * sinusoids.query_sine + by_cosine * sinusoids.query_cosine
    with_sine = by_cosine * sinusoids.query_sine - by_sine * sinusoids.query_cosine
    rotated = tf.concat([with_cosine, with_sine], -1)
    *leading, width = get_shape_list(rotated)
    scores = tf.matmul(tf.reshape(rotated, [-1, width]), sinusoids.key, transpose_b=True)
    return tf.reshape(scores, [*leading, context.key_length])


def _rotated_product(queries: tf.Tensor, matrices: tf.Tensor, sinusoids: Sinusoids) -> tf.Tensor:
    """Compute :func:`_factorized_scores` of [N, B, Tq, d] and [N, d, D] with few bytes on a TPU.

    The tensors with all frequencies, [N, B, Tq, D], are the largest of a layer. A TPU's compiler
    computes their rotation inside the products that read it, but only if it is one elementwise
    expression of two tensors: with the halves on an axis of their own, ``[N, B, 2, Tq, D / 2]``,
    both are broadcast, and none is split or joined. So nothing is written but the products
    themselves, here ``by_sine`` and ``by_cosine`` and in the backward pass their counterparts.
    """
    sine, cosine = sinusoids.query_sine, sinusoids.query_cosine
    key_halves = tf.split(sinusoids.key, 2, -1)
    keys = tf.stack(key_halves, 1)

    @tf.custom_gradient
    def compute(
        queries: tf.Tensor, matrices: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]]:
        halves = tf.split(matrices, 2, -1)
        by_sine, by_cosine = (tf.einsum("nbtd,ndc->nbtc", queries, half) for half in halves)
        rotated = _combine(by_sine, (sine, -cosine), by_cosine, (cosine, sine))
        scores = tf.einsum("nbhtc,jhc->nbtj", rotated, keys)

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            with_cosine, with_sine = (
                tf.einsum("nbtj,jc->nbtc", upstream, half) for half in key_halves
            )
            turned = _combine(with_cosine, (sine, cosine), with_sine, (-cosine, sine))
            by_queries = tf.einsum("nbhtc,ndhc->nbtd", turned, tf.stack(halves, 2))
            by_matrices = tf.einsum("nbtd,nbhtc->ndhc", queries, turned)
            return by_queries, tf.reshape(by_matrices, matrices.shape)

        return scores, gradient

    return compute(queries, matrices)


def _combine(
    first: tf.Tensor,
    first_factors: tuple[tf.Tensor, tf.Tensor],
    second: tf.Tensor,
    second_factors: tuple[tf.Tensor, tf.Tensor],
) -> tf.Tensor:
    """Return two sums of two tensors [N, B, T, C] by factors [T, C]: [N, B, 2, T, C]."""
    one, other = first[:, :, None], second[:, :, None]
    return one * tf.stack(first_factors) + other * tf.stack(second_factors)
