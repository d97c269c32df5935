"""The product of softmax and values in attention, with a backward pass of its own."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow.compat.v1 as tf

from funnel_tf.models.layers import dropout
from funnel_tf.models.options import GraphOptions


def softmax_product(
    scores: tf.Tensor, values: tf.Tensor, rate: float, options: GraphOptions
) -> tf.Tensor:
    """Compute ``dropout(softmax(scores)) @ values``; softmax and dropout in float32.

    The gradient of a softmax needs, in every row, the sum of the probabilities times their
    gradients. With ``o`` the row's output, ``do`` its gradient and ``m`` the dropout factors,

        sum_j p_j dp_j = sum_j p_j m_j (do . v_j) = do . o,

    a sum over the values' size instead of one over all keys. The gradient of the probabilities then
    is needed element by element only, so that a compiler need not write it to memory, [N, B, Tq,
    Tk], between two passes.

    Args:
        scores: [..., Tq, Tk].
        values: [..., Tk, d].
        rate: dropout of the probabilities in training.
        options: how the graph is built.

    Returns:
        [..., Tq, d], of the type of ``values``.
    """

    @tf.custom_gradient
    def compute(
        scores: tf.Tensor, values: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]]:
        probabilities = tf.nn.softmax(tf.cast(scores, tf.float32))
        factors = None
        if options.is_training and rate:
            factors = dropout(tf.ones_like(probabilities), rate, options)
        weights = tf.cast(_scale(probabilities, factors), values.dtype)
        output = tf.matmul(weights, values)

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            exact = tf.cast(upstream, tf.float32) * tf.cast(output, tf.float32)
            row_sums = tf.reduce_sum(exact, -1, keepdims=True)
            by_weights = tf.cast(tf.matmul(upstream, values, transpose_b=True), tf.float32)
            by_scores = probabilities * (_scale(by_weights, factors) - row_sums)
            by_values = tf.matmul(weights, upstream, transpose_a=True)
            return tf.cast(by_scores, scores.dtype), by_values

        return output, gradient

    return compute(scores, values)


def _scale(values: tf.Tensor, factors: tf.Tensor | None) -> tf.Tensor:
    return values if factors is None else values * factors
