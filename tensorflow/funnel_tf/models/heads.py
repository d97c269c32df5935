"""Heads on the encoder: one label, number or choice per sequence; and those of pretraining."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow.compat.v1 as tf

from funnel.checkpoints.names import DEFAULT_CLS_SCOPE
from funnel.config.model import ModelConfig
from funnel_tf.models.layers import activation, dense, dropout, gelu, layer_norm, sizes
from funnel_tf.models.modeling import MODEL, ModelInputs, funnel_encoder, funnel_summary
from funnel_tf.models.options import GraphOptions
from funnel_tf.models.variables import constant, root_scope, vector


class HeadOutput(NamedTuple):
    """What a head computes.

    Attributes:
        loss: weighted mean over the examples, scalar; None without labels.
        per_example_loss: [B]; None without labels.
        logits: float32 [B, C].
        predictions: ``logits``, and ``predictions`` [B]: class ids (int32), of a regression the
            numbers themselves.
    """

    loss: tf.Tensor | None
    per_example_loss: tf.Tensor | None
    logits: tf.Tensor
    predictions: dict[str, tf.Tensor]


def classification_head(
    config: ModelConfig,
    inputs: ModelInputs,
    labels: tf.Tensor | None,
    weights: tf.Tensor | None,
    options: GraphOptions,
    *,
    num_labels: int,
    regression: bool = False,
    scope: str = DEFAULT_CLS_SCOPE,
) -> HeadOutput:
    """A label or (``regression``) a number for every sequence, under ``model/{scope}/logit``.

    Args:
        config: the model.
        inputs: [B, T].
        labels: class ids int32 [B], numbers float32 [B] for a regression; None without.
        weights: [B], 0 for an example that only fills up the batch; None counts all.
        options: how the graph is built.
        num_labels: classes, 1 for a regression.
        regression: the loss is the squared error, not cross entropy.
        scope: the task's name in the checkpoint.
    """
    logits = _summary_logits(config, inputs, options, num_labels, f"{scope}/logit")
    if regression:
        found = logits[:, 0]
        losses = None if labels is None else tf.square(found - tf.cast(labels, tf.float32))
        return _head_output(losses, weights, logits, found)
    losses = None if labels is None else cross_entropy(logits, labels)
    return _head_output(losses, weights, logits, tf.argmax(logits, -1, output_type=tf.int32))


def race_head(
    config: ModelConfig,
    inputs: ModelInputs,
    labels: tf.Tensor | None,
    weights: tf.Tensor | None,
    options: GraphOptions,
    *,
    num_choices: int = 4,
) -> HeadOutput:
    """One of several candidates per question (RACE).

    ``inputs`` are [B, C * T], a question's candidates one after another; logits are [B, C].
    """
    length = inputs.input_ids.shape.as_list()[1] // num_choices
    flat = (None if part is None else tf.reshape(part, [-1, length]) for part in inputs)
    logits = _summary_logits(config, ModelInputs(*flat), options, 1, "race/logits")
    logits = tf.reshape(logits, [-1, num_choices])
    losses = None if labels is None else cross_entropy(logits, labels)
    return _head_output(losses, weights, logits, tf.argmax(logits, -1, output_type=tf.int32))


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Of float32 logits [..., C] and class ids [...]: [...]."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)


def weighted_mean(values: tf.Tensor, weights: tf.Tensor | None) -> tf.Tensor:
    """Mean over what has weight, scalar; 0, not NaN, where nothing has."""
    if weights is None:
        return tf.reduce_mean(values)
    weights = tf.cast(weights, values.dtype)
    return tf.reduce_sum(values * weights) / tf.maximum(tf.reduce_sum(weights), 1.0)


def masked_lm_logits(
    hidden: tf.Tensor,
    table: tf.Tensor,
    config: ModelConfig,
    options: GraphOptions,
    root: str = MODEL,
) -> tf.Tensor:
    """Scores of all tokens, float32 [B, P, V]: a projection of [B, P, D] times the tied table."""
    batch, slots, _ = sizes(hidden)
    with root_scope(root, options):
        with tf.variable_scope("lm_proj"):
            projected = dense(hidden, "dense", [config.d_embed], config, options)
            projected = layer_norm(activation(config.ff_activation)(projected), config)
        with tf.variable_scope("lm_loss"):
            bias = constant("bias", [config.vocab_size], 0.0, tf.float32)
    # Two matrices: with more axes the table's gradient would be summed from one per sequence.
    flat = tf.reshape(projected, [-1, config.d_embed])
    logits = tf.cast(tf.matmul(flat, table, transpose_b=True), tf.float32) + bias
    return tf.reshape(logits, [batch, slots, config.vocab_size])


def discriminator_logits(
    hidden: tf.Tensor, config: ModelConfig, options: GraphOptions
) -> tf.Tensor:
    """ELECTRA's judgement of every token, float32 [B, T]: a positive logit means *original*."""
    width = config.d_model
    with root_scope(MODEL, options):
        with tf.variable_scope("binary_proj"):
            inner = gelu(dense(hidden, "dense", [width], config, options))
        with tf.variable_scope("binary_loss"):
            weight = vector("weight", [width], config, options)
            bias = constant("bias", [1], 0.0, tf.float32)
    product = tf.matmul(tf.reshape(inner, [-1, width]), weight[:, None])
    return tf.reshape(tf.cast(product, tf.float32) + bias, sizes(hidden)[:-1])


def _summary_logits(
    config: ModelConfig, inputs: ModelInputs, options: GraphOptions, count: int, scope: str
) -> tf.Tensor:
    """``count`` logits per sequence, float32 [B, count], under ``model/{scope}``."""
    encoded = funnel_encoder(config, inputs, options)
    summary = dropout(funnel_summary(config, encoded, options), config.dropout, options)
    with root_scope(MODEL, options):
        return tf.cast(dense(summary, scope, [count], config, options), tf.float32)


def _head_output(
    losses: tf.Tensor | None,
    weights: tf.Tensor | None,
    logits: tf.Tensor,
    found: tf.Tensor,
) -> HeadOutput:
    loss = None if losses is None else weighted_mean(losses, weights)
    return HeadOutput(loss, losses, logits, {"logits": logits, "predictions": found})
