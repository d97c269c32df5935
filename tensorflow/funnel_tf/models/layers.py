"""Building blocks of encoder and decoder: embeddings, linear layers, LayerNorm, feed-forward."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import tensorflow.compat.v1 as tf

from funnel.config.model import MAX_ABSOLUTE_POSITIONS, ModelConfig
from funnel.utils.errors import DataError
from funnel_tf.models.options import GraphOptions
from funnel_tf.models.variables import get_constant, get_embeddings, get_kernel

# Smallest LayerNorm epsilon of this backend; a config may ask for a larger one.
LAYER_NORM_EPS = 1e-8


def gelu(hidden: tf.Tensor) -> tf.Tensor:
    """Apply GELU in its tanh approximation."""
    # A product instead of tf.pow, which is slow on a CPU.
    cubic = hidden * hidden * hidden
    return 0.5 * hidden * (1.0 + tf.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * cubic)))


_ACTIVATIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "gelu": gelu,
    "relu": tf.nn.relu,
    "tanh": tf.tanh,
}


def get_activation(name: str) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return the activation function named by ``ff_activation``."""
    return _ACTIVATIONS[name]


def get_shape_list(tensor: tf.Tensor) -> list[int | tf.Tensor]:
    """Return the sizes of all axes, as integers where they are static and as scalars elsewhere."""
    dynamic = tf.shape(tensor)
    return [dynamic[i] if size is None else size for i, size in enumerate(tensor.shape.as_list())]


def linear(
    hidden: tf.Tensor,
    scope: str,
    out_shape: Sequence[int],
    config: ModelConfig,
    options: GraphOptions,
    *,
    in_axes: int = 1,
    use_bias: bool = True,
) -> tf.Tensor:
    """Multiply the last ``in_axes`` axes of ``hidden`` by a kernel and add a bias.

    Returns:
        The leading axes of ``hidden``, then ``out_shape``.
    """
    shape = get_shape_list(hidden)
    leading, summed = shape[:-in_axes], shape[-in_axes:]
    with tf.variable_scope(scope):
        weights = get_kernel("kernel", (*summed, *out_shape), config, options, in_axes)
        # A product of two matrices whatever the number of axes, so that its gradients are too:
        # with a batch axis the kernel's gradient would be computed per sequence, then summed.
        flat = tf.reshape(hidden, [-1, math.prod(summed)])
        result = tf.matmul(flat, tf.reshape(weights, [math.prod(summed), -1]))
        if use_bias:
            bias = get_constant("bias", out_shape, 0.0, options.dtype)
            result += tf.reshape(bias, [-1])
    return tf.reshape(result, [*leading, *out_shape])


def layer_norm(hidden: tf.Tensor, config: ModelConfig) -> tf.Tensor:
    """Normalize the last axis in float32, with the variables of the scope ``layer_norm``."""
    size, epsilon = hidden.shape.as_list()[-1], max(config.layer_norm_eps, LAYER_NORM_EPS)
    with tf.variable_scope("layer_norm"):
        beta = get_constant("beta", [size], 0.0, tf.float32)
        gamma = get_constant("gamma", [size], 1.0, tf.float32)
    return _normalize(hidden, gamma, beta, epsilon)


def _normalize(hidden: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float) -> tf.Tensor:
    """Compute LayerNorm in float32; the backward pass reads ``hidden`` in its own type.

    The gradient that TensorFlow derives reads the centred float32 values, twice the bytes of
    bfloat16, and keeps them from the forward pass until then.
    """

    @tf.custom_gradient
    def compute(
        hidden: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, ...]]]:
        mean, variance = tf.nn.moments(tf.cast(hidden, tf.float32), axes=[-1], keepdims=True)
        scale = tf.rsqrt(variance + epsilon)
        exact = tf.cast(hidden, tf.float32)
        output = tf.cast((exact - mean) * (scale * gamma) + beta, hidden.dtype)

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
            by_output = tf.cast(upstream, tf.float32)
            normalized = (tf.cast(hidden, tf.float32) - mean) * scale
            by_normalized = by_output * gamma
            leading = list(range(hidden.shape.rank - 1))
            row_mean = tf.reduce_mean(by_normalized, -1, keepdims=True)
            row_product = tf.reduce_mean(by_normalized * normalized, -1, keepdims=True)
            by_hidden = scale * (by_normalized - row_mean - normalized * row_product)
            by_gamma = tf.reduce_sum(by_output * normalized, leading)
            return tf.cast(by_hidden, hidden.dtype), by_gamma, tf.reduce_sum(by_output, leading)

        return output, gradient

    return compute(hidden, gamma, beta)


def dropout(hidden: tf.Tensor, rate: float, options: GraphOptions) -> tf.Tensor:
    """Apply dropout in training; return ``hidden`` itself otherwise."""
    return tf.nn.dropout(hidden, rate=rate) if options.is_training and rate else hidden


def embedding(
    input_ids: tf.Tensor,
    token_type_ids: tf.Tensor | None,
    config: ModelConfig,
    options: GraphOptions,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Embed and normalize token ids.

    Args:
        input_ids: int32 [B, T].
        token_type_ids: int32 [B, T] or None; used with absolute positions only.
        config: the model.
        options: how the graph is built.

    Returns:
        Embeddings [B, T, E] and the word embedding table [V, E].

    Raises:
        DataError: the input is longer than the table of absolute positions.
    """
    with tf.variable_scope("input"):
        with tf.variable_scope("word_embedding"):
            table = get_embeddings((config.vocab_size, config.d_embed), config, options)
        hidden = _look_up(table, input_ids, options)
        if config.rel_attn_type == "null":
            hidden += _absolute_embeddings(input_ids, token_type_ids, config, options)
        return dropout(layer_norm(hidden, config), config.dropout, options), table


def _look_up(table: tf.Tensor, ids: tf.Tensor, options: GraphOptions) -> tf.Tensor:
    """Return rows of ``table``, with a dense tensor as its gradient."""
    shape = [*get_shape_list(ids), table.shape.as_list()[1]]
    if not options.use_tpu:
        # The reshape leaves the shape as it is but makes the gradient dense. The gradient of a
        # gather alone is IndexedSlices, in which a repeated id occurs several times; the global
        # norm would then sum the squares of the parts instead of squaring their sum.
        return tf.gather(tf.reshape(table, table.shape), ids)
    rows = tf.one_hot(tf.reshape(ids, [-1]), table.shape.as_list()[0], dtype=table.dtype)
    return tf.reshape(tf.matmul(rows, table), shape)


def _absolute_embeddings(
    input_ids: tf.Tensor,
    token_type_ids: tf.Tensor | None,
    config: ModelConfig,
    options: GraphOptions,
) -> tf.Tensor:
    """Return position embeddings [T, E], plus those of the segments if given: [B, T, E]."""
    length = input_ids.shape.as_list()[1]
    if length > MAX_ABSOLUTE_POSITIONS:
        raise DataError(
            f"input of {length} tokens: a model with absolute positions (rel_attn_type null) "
            f"takes at most {MAX_ABSOLUTE_POSITIONS}"
        )
    with tf.variable_scope("position_embedding"):
        positions = get_embeddings((MAX_ABSOLUTE_POSITIONS, config.d_embed), config, options)
    with tf.variable_scope("segment_embedding"):
        segments = get_embeddings((2, config.d_embed), config, options)
    added = tf.slice(positions, [0, 0], [length, -1])
    if token_type_ids is None:
        return added
    # Segment id 2 marks [CLS], which has no embedding of its own and shares that of segment 0.
    return added + _look_up(segments, token_type_ids % 2, options)


def feed_forward(hidden: tf.Tensor, config: ModelConfig, options: GraphOptions) -> tf.Tensor:
    """Compute ``LayerNorm(x + W2 act(W1 x + b1) + b2)`` of [B, T, D] with dropout at two sites."""
    with tf.variable_scope("ff"):
        inner = get_activation(config.ff_activation)(
            linear(hidden, "layer_1", [config.d_inner], config, options)
        )
        inner = dropout(inner, config.dropact, options)
        output = linear(inner, "layer_2", [config.d_model], config, options)
        return layer_norm(hidden + dropout(output, config.dropout, options), config)
