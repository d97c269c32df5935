"""The building blocks of encoder and decoder: embeddings, dense layers, normalisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import tensorflow.compat.v1 as tf

from funnel.config.model import MAX_ABSOLUTE_POSITIONS, ModelConfig
from funnel.utils.errors import DataError
from funnel_tf.models.options import GraphOptions
from funnel_tf.models.variables import constant, kernel, lookup_table

# What this tree adds under a normalisation's root unless the config asks for more.
LAYER_NORM_EPS = 1e-8


def gelu(hidden: tf.Tensor) -> tf.Tensor:
    """The tanh approximation; a product instead of a power, which is slow on a CPU."""
    cubic = hidden * hidden * hidden
    return 0.5 * hidden * (1.0 + tf.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * cubic)))


_ACTIVATIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "gelu": gelu,
    "relu": tf.nn.relu,
    "tanh": tf.tanh,
}


def activation(name: str) -> Callable[[tf.Tensor], tf.Tensor]:
    """The function of a config's ``ff_activation``."""
    return _ACTIVATIONS[name]


def sizes(tensor: tf.Tensor) -> list[int | tf.Tensor]:
    """The shape as numbers, where they are known, and scalars."""
    dynamic = tf.shape(tensor)
    return [dynamic[i] if size is None else size for i, size in enumerate(tensor.shape.as_list())]


def dense(
    hidden: tf.Tensor,
    scope: str,
    out_shape: Sequence[int],
    config: ModelConfig,
    options: GraphOptions,
    *,
    in_axes: int = 1,
    use_bias: bool = True,
) -> tf.Tensor:
    """``hidden`` times a kernel over its last ``in_axes`` axes, plus a bias of ``out_shape``.

    Returns:
        The leading axes of ``hidden``, then ``out_shape``.
    """
    shape = sizes(hidden)
    leading, summed = shape[:-in_axes], shape[-in_axes:]
    with tf.variable_scope(scope):
        weights = kernel("kernel", (*summed, *out_shape), config, options, in_axes)
        # One product of two matrices, whatever the number of axes: its gradient is one too.
        flat = tf.reshape(hidden, [-1, math.prod(summed)])
        result = tf.matmul(flat, tf.reshape(weights, [math.prod(summed), -1]))
        if use_bias:
            bias = constant("bias", out_shape, 0.0, options.dtype)
            result += tf.reshape(bias, [-1])
    return tf.reshape(result, [*leading, *out_shape])


def layer_norm(hidden: tf.Tensor, config: ModelConfig) -> tf.Tensor:
    """Normalise the last axis in float32, under the scope ``layer_norm``."""
    size, epsilon = hidden.shape.as_list()[-1], max(config.layer_norm_eps, LAYER_NORM_EPS)
    with tf.variable_scope("layer_norm"):
        beta = constant("beta", [size], 0.0, tf.float32)
        gamma = constant("gamma", [size], 1.0, tf.float32)
    exact = tf.cast(hidden, tf.float32)
    mean, variance = tf.nn.moments(exact, axes=[-1], keepdims=True)
    normalised = (exact - mean) * (tf.rsqrt(variance + epsilon) * gamma) + beta
    return tf.cast(normalised, hidden.dtype)


def dropout(hidden: tf.Tensor, rate: float, options: GraphOptions) -> tf.Tensor:
    """Dropout in training, nothing otherwise."""
    return tf.nn.dropout(hidden, rate=rate) if options.is_training and rate else hidden


def embedding(
    input_ids: tf.Tensor,
    segment_ids: tf.Tensor | None,
    config: ModelConfig,
    options: GraphOptions,
) -> tuple[tf.Tensor, tf.Tensor]:
    """[B, T] ids to normalised embeddings [B, T, E]; also the word table [V, E].

    Raises:
        DataError: the baseline with absolute positions got more tokens than it has positions.
    """
    with tf.variable_scope("input"):
        with tf.variable_scope("word_embedding"):
            table = lookup_table((config.vocab_size, config.d_embed), config, options)
        hidden = _look_up(table, input_ids, options)
        if config.rel_attn_type == "null":
            hidden += _absolute_embeddings(input_ids, segment_ids, config, options)
        return dropout(layer_norm(hidden, config), config.dropout, options), table


def _look_up(table: tf.Tensor, ids: tf.Tensor, options: GraphOptions) -> tf.Tensor:
    """Rows of ``table``; the gradient is a dense tensor either way."""
    shape = [*sizes(ids), table.shape.as_list()[1]]
    if not options.use_tpu:
        # A reshape to the same shape, for its gradient's sake: that of a gather alone is a list
        # of rows with duplicates, of which a gradient's norm would count each.
        return tf.gather(tf.reshape(table, table.shape), ids)
    rows = tf.one_hot(tf.reshape(ids, [-1]), table.shape.as_list()[0], dtype=table.dtype)
    return tf.reshape(tf.matmul(rows, table), shape)


def _absolute_embeddings(
    input_ids: tf.Tensor,
    segment_ids: tf.Tensor | None,
    config: ModelConfig,
    options: GraphOptions,
) -> tf.Tensor:
    """Positions, and segments if there are any: [T, E] or [B, T, E]."""
    length = input_ids.shape.as_list()[1]
    if length > MAX_ABSOLUTE_POSITIONS:
        raise DataError(
            f"input of {length} tokens: a model with absolute positions (rel_attn_type null) "
            f"takes at most {MAX_ABSOLUTE_POSITIONS}"
        )
    with tf.variable_scope("position_embedding"):
        positions = lookup_table((MAX_ABSOLUTE_POSITIONS, config.d_embed), config, options)
    with tf.variable_scope("segment_embedding"):
        segments = lookup_table((2, config.d_embed), config, options)
    added = tf.slice(positions, [0, 0], [length, -1])
    if segment_ids is None:
        return added
    return added + _look_up(segments, segment_ids % 2, options)


def feed_forward(hidden: tf.Tensor, config: ModelConfig, options: GraphOptions) -> tf.Tensor:
    """``LayerNorm(x + W2 act(W1 x + b1) + b2)`` with dropout after both products, [B, T, D]."""
    with tf.variable_scope("ff"):
        inner = activation(config.ff_activation)(
            dense(hidden, "layer_1", [config.d_inner], config, options)
        )
        inner = dropout(inner, config.dropact, options)
        output = dense(inner, "layer_2", [config.d_model], config, options)
        return layer_norm(hidden + dropout(output, config.dropout, options), config)
