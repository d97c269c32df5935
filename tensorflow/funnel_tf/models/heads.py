"""Heads: classification, regression, multiple choice and the output layers of pretraining."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import tensorflow.compat.v1 as tf

from funnel.checkpoints.names import DEFAULT_CLS_SCOPE
from funnel.config.heads import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from funnel.config.model import ModelConfig
from funnel.config.training.losses import PLAIN_LOSS, LabelLoss
from funnel_tf.models.layers import (
    dropout,
    gelu,
    get_activation,
    get_shape_list,
    layer_norm,
    linear,
)
from funnel_tf.models.modeling import MODEL, ModelInputs, funnel_encoder, funnel_summary
from funnel_tf.models.options import GraphOptions
from funnel_tf.models.variables import get_constant, get_vector, root_scope


class HeadOutput(NamedTuple):
    """Output of a head for whole sequences.

    Attributes:
        loss: weighted mean over the examples, scalar; None without labels.
        per_example_loss: [B]; None without labels.
        logits: float32 [B, C].
        predictions: ``logits``, and ``predictions`` [B]: class ids (int32), or the predicted
            values of a regression (float32); [B, C] where several labels can hold.
    """

    loss: tf.Tensor | None
    per_example_loss: tf.Tensor | None
    logits: tf.Tensor
    predictions: dict[str, tf.Tensor]


@dataclass(frozen=True)
class LabelHead:
    """A classification or regression head.

    Attributes:
        num_labels: number of outputs.
        problem_type: what they mean.
        scope: the task's scope in the checkpoint.
        loss: weights and smoothing of labels.
    """

    num_labels: int
    problem_type: str = SINGLE_LABEL
    scope: str = DEFAULT_CLS_SCOPE
    loss: LabelLoss = PLAIN_LOSS


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
    """Classify sequences, or predict one value per sequence, in ``model/{scope}/logit``.

    Args:
        config: the model.
        inputs: [B, T].
        labels: class ids int32 [B], or float32 [B] for a regression; None in prediction.
        weights: [B], 0 for an example that only fills up the batch; None weights all equally.
        options: how the graph is built.
        num_labels: number of classes, 1 for a regression.
        regression: use the squared error instead of cross entropy.
        scope: the task's scope in the checkpoint.
    """
    head = LabelHead(num_labels, REGRESSION if regression else SINGLE_LABEL, scope)
    return label_head(config, inputs, labels, weights, options, head)


def label_head(
    config: ModelConfig,
    inputs: ModelInputs,
    labels: tf.Tensor | None,
    weights: tf.Tensor | None,
    options: GraphOptions,
    head: LabelHead,
) -> HeadOutput:
    """Compute the head that ``head`` describes; see :func:`classification_head`.

    Where several labels can hold, labels and predictions are 0 or 1 for every label, [B, C].
    """
    logits = _summary_logits(config, inputs, options, head.num_labels, f"{head.scope}/logit")
    if head.problem_type == REGRESSION:
        predicted = logits[:, 0]
        losses = None if labels is None else tf.square(predicted - tf.cast(labels, tf.float32))
        return _head_output(losses, weights, logits, predicted)
    losses = None if labels is None else label_losses(logits, labels, head)
    if head.problem_type == MULTI_LABEL:
        return _head_output(losses, weights, logits, tf.cast(logits >= 0.0, tf.int32))
    return _head_output(losses, weights, logits, tf.argmax(logits, -1, output_type=tf.int32))


def label_losses(logits: tf.Tensor, labels: tf.Tensor, head: LabelHead) -> tf.Tensor:
    """Return the losses of examples, [B] (:class:`funnel.config.training.losses.LabelLoss`)."""
    share, factors = head.loss.smoothing, tf.constant(head.loss.weights or 1.0, tf.float32)
    if head.problem_type == MULTI_LABEL:
        targets = tf.cast(labels, tf.float32) * (1.0 - share) + share / 2
        losses = tf.nn.weighted_cross_entropy_with_logits(
            labels=targets, logits=logits, pos_weight=factors
        )
        return tf.reduce_mean(losses, -1)
    losses = cross_entropy(logits, labels)
    if share:
        even = -tf.reduce_mean(tf.nn.log_softmax(logits), -1)
        losses = (1.0 - share) * losses + share * even
    return losses * tf.gather(factors, labels) if head.loss.weights else losses


def race_head(
    config: ModelConfig,
    inputs: ModelInputs,
    labels: tf.Tensor | None,
    weights: tf.Tensor | None,
    options: GraphOptions,
    *,
    num_choices: int = 4,
) -> HeadOutput:
    """Choose one of C candidate answers per question (RACE).

    ``inputs`` are [B, C * T], the candidates of a question concatenated; logits are [B, C].
    """
    length = inputs.input_ids.shape.as_list()[1] // num_choices
    flat = (None if part is None else tf.reshape(part, [-1, length]) for part in inputs)
    logits = _summary_logits(config, ModelInputs(*flat), options, 1, "race/logits")
    logits = tf.reshape(logits, [-1, num_choices])
    losses = None if labels is None else cross_entropy(logits, labels)
    return _head_output(losses, weights, logits, tf.argmax(logits, -1, output_type=tf.int32))


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Return the cross entropy of float32 logits [..., C] and class ids [...], [...]."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)


def weighted_mean(values: tf.Tensor, weights: tf.Tensor | None) -> tf.Tensor:
    """Return the weighted mean, a scalar; 0 instead of NaN if all weights are 0."""
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
    """Project [B, P, D] and multiply by the tied word table: logits float32 [B, P, V]."""
    batch, slots, _ = get_shape_list(hidden)
    with root_scope(root, options):
        with tf.variable_scope("lm_proj"):
            projected = linear(hidden, "dense", [config.d_embed], config, options)
            projected = layer_norm(get_activation(config.ff_activation)(projected), config)
        with tf.variable_scope("lm_loss"):
            bias = get_constant("bias", [config.vocab_size], 0.0, tf.float32)
    # A product of two matrices: the gradient of an einsum over [B, P, E] would hold one table
    # [V, E] per sequence, and would take two thirds of the time of a training step.
    flat = tf.reshape(projected, [-1, config.d_embed])
    logits = tf.cast(tf.matmul(flat, table, transpose_b=True), tf.float32) + bias
    return tf.reshape(logits, [batch, slots, config.vocab_size])


def discriminator_logits(
    hidden: tf.Tensor, config: ModelConfig, options: GraphOptions
) -> tf.Tensor:
    """Compute ELECTRA's logits of every token, float32 [B, T]; positive means *original*."""
    width = config.d_model
    with root_scope(MODEL, options):
        with tf.variable_scope("binary_proj"):
            # GELU whatever ff_activation is, as in the released checkpoints.
            inner = gelu(linear(hidden, "dense", [width], config, options))
        with tf.variable_scope("binary_loss"):
            weight = get_vector("weight", [width], config, options)
            bias = get_constant("bias", [1], 0.0, tf.float32)
    product = tf.matmul(tf.reshape(inner, [-1, width]), weight[:, None])
    return tf.reshape(tf.cast(product, tf.float32) + bias, get_shape_list(hidden)[:-1])


def _summary_logits(
    config: ModelConfig, inputs: ModelInputs, options: GraphOptions, count: int, scope: str
) -> tf.Tensor:
    """Compute ``count`` logits per sequence, float32 [B, count], in ``model/{scope}``."""
    encoded = funnel_encoder(config, inputs, options)
    summary = dropout(funnel_summary(config, encoded, options), config.dropout, options)
    with root_scope(MODEL, options):
        return tf.cast(linear(summary, scope, [count], config, options), tf.float32)


def _head_output(
    losses: tf.Tensor | None,
    weights: tf.Tensor | None,
    logits: tf.Tensor,
    predicted: tf.Tensor,
) -> HeadOutput:
    loss = None if losses is None else weighted_mean(losses, weights)
    return HeadOutput(loss, losses, logits, {"logits": logits, "predictions": predicted})
