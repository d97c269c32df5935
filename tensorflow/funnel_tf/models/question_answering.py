"""The SQuAD head: answer spans by beam search, and answerability."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow.compat.v1 as tf

from funnel.config.heads import DEFAULT_ANSWERS, AnswerConfig
from funnel.config.model import ModelConfig
from funnel_tf.models.heads import cross_entropy
from funnel_tf.models.layers import dropout, get_shape_list, layer_norm, linear
from funnel_tf.models.modeling import MODEL, ModelInputs, funnel_decoder, funnel_encoder
from funnel_tf.models.options import GraphOptions
from funnel_tf.models.variables import get_constant, get_kernel, root_scope

# Logit of a position that cannot start or end an answer.
IMPOSSIBLE = -1e30
_TARGETS = ("start_positions", "end_positions", "is_impossible")


class AnswerOutput(NamedTuple):
    """Output of the SQuAD head; the beam keeps S starts, and E ends.

    Attributes:
        loss: weighted sum of the losses, None without gold answers.
        start_logits: float32 [B, T]; start and end logits are masked by ``p_mask``.
        end_logits: [B, T] for the gold start (training) or if ends do not depend on the start;
            [B, S, T] for each kept start otherwise.
        start_top_log_probs: [B, S].
        start_top_index: int32 [B, S].
        end_top_log_probs: [B, S * E], start-major; [B, E] without ``conditional_end``, and in
            training.
        end_top_index: as ``end_top_log_probs``.
        cls_logits: [B], higher if there is no answer (the log-probability of [CLS] as the start
            without ``use_answer_class``).
    """

    loss: tf.Tensor | None
    start_logits: tf.Tensor
    end_logits: tf.Tensor
    start_top_log_probs: tf.Tensor
    start_top_index: tf.Tensor
    end_top_log_probs: tf.Tensor
    end_top_index: tf.Tensor
    cls_logits: tf.Tensor

    def predictions(self) -> dict[str, tf.Tensor]:
        """Return the inputs of :func:`funnel.features.squad_predictions.find_answers`, by name."""
        return {name: getattr(self, name) for name in self._fields[3:]}


def squad_head(
    config: ModelConfig,
    inputs: ModelInputs,
    features: Mapping[str, tf.Tensor],
    options: GraphOptions,
    answers: AnswerConfig = DEFAULT_ANSWERS,
) -> AnswerOutput:
    """Find answers in the decoder's output.

    Args:
        config: the model.
        inputs: [B, T].
        features: optional ``p_mask`` [B, T], 1 where no answer can start or end; optional
            ``cls_index`` int32 [B], default 0; for the loss ``start_positions`` and
            ``end_positions`` int32 [B] and ``is_impossible`` [B], all three or none.
        options: how the graph is built.
        answers: how answers are modelled.
    """
    encoded = funnel_encoder(config, inputs, options)
    hidden = funnel_decoder(config, encoded, options)
    length = get_shape_list(hidden)[1]
    has_targets = all(name in features for name in _TARGETS)
    p_mask = features.get("p_mask") if answers.use_masked_loss else None
    with root_scope(MODEL, options):
        with tf.variable_scope("start_logits"):
            start_logits = _mask_logits(_score_tokens(hidden, "dense", config, options), p_mask)
        start_log_probs = tf.nn.log_softmax(start_logits)
        count = min(answers.start_n_top, length)
        starts = tf.math.top_k(start_log_probs, count)
        # Ends are conditioned on the gold start in training, on the beam's starts in prediction.
        given = features["start_positions"][:, None] if has_targets else starts.indices
        end_logits = _end_logits(hidden, given, p_mask, answers, config, options)
        cls_logits = _cls_logits(hidden, start_log_probs, features, answers, config, options)
    ends = tf.math.top_k(tf.nn.log_softmax(end_logits), min(answers.end_n_top, length))
    if answers.conditional_end and has_targets:
        end_logits = end_logits[:, 0]
    loss = None
    if has_targets:
        loss = _loss(start_logits, end_logits, cls_logits, features, answers)
    # The second axis is computed, because a -1 would lose its static size if the batch is dynamic.
    kept = int(ends.values.shape[-1]) * (int(ends.values.shape[1]) if ends.values.ndim == 3 else 1)
    tops = (*starts, *(tf.reshape(part, [-1, kept]) for part in ends))
    return AnswerOutput(loss, start_logits, end_logits, *tops, cls_logits)


def _score_tokens(
    hidden: tf.Tensor, scope: str, config: ModelConfig, options: GraphOptions
) -> tf.Tensor:
    """Project every vector to a float32 scalar: [..., C] to [...]."""
    return tf.cast(linear(hidden, scope, [1], config, options)[..., 0], tf.float32)


def _end_logits(
    hidden: tf.Tensor,
    given: tf.Tensor,
    p_mask: tf.Tensor | None,
    answers: AnswerConfig,
    config: ModelConfig,
    options: GraphOptions,
) -> tf.Tensor:
    """Return [B, S, T] for the given starts [B, S], or [B, T] if ends do not depend on them."""
    width = config.d_model
    with tf.variable_scope("end_logits"):
        if not answers.conditional_end:
            return _mask_logits(_score_tokens(hidden, "dense", config, options), p_mask)
        with tf.variable_scope("dense_0"):
            weights = get_kernel("kernel", [2 * width, width], config, options)
            bias = get_constant("bias", [width], 0.0, options.dtype)
        # W [h_j, h_start] = W_1 h_j + W_2 h_start: the first product is the same for all starts,
        # and the concatenation [B, S, T, 2 D] is never built.
        from_hidden = _multiply(hidden, weights[:width]) + bias
        from_start = _multiply(_select_rows(hidden, given), weights[width:])
        inner = layer_norm(tf.tanh(from_hidden[:, None] + from_start[:, :, None]), config)
        logits = _score_tokens(inner, "dense_1", config, options)
        return _mask_logits(logits, None if p_mask is None else p_mask[:, None])


def _cls_logits(
    hidden: tf.Tensor,
    start_log_probs: tf.Tensor,
    features: Mapping[str, tf.Tensor],
    answers: AnswerConfig,
    config: ModelConfig,
    options: GraphOptions,
) -> tf.Tensor:
    """Return the answerability logits [B]; higher values mean that there is no answer."""
    index = features.get("cls_index", tf.zeros_like(start_log_probs[:, 0], tf.int32))
    if not answers.use_answer_class:
        at_cls = tf.one_hot(index, get_shape_list(hidden)[1], on_value=True, off_value=False)
        # A selection, not a product: log-probabilities may be -inf, and 0 * -inf is NaN.
        return tf.reduce_sum(tf.where(at_cls, start_log_probs, tf.zeros_like(start_log_probs)), 1)
    with tf.variable_scope("answer_class"):
        probabilities = tf.cast(tf.exp(start_log_probs), hidden.dtype)
        expected = tf.matmul(probabilities[:, None], hidden)[:, 0]
        both = tf.concat([expected, _select_rows(hidden, index[:, None])[:, 0]], -1)
        inner = tf.tanh(linear(both, "dense_0", [config.d_model], config, options))
        inner = dropout(inner, config.dropout, options)
        logits = linear(inner, "dense_1", [1], config, options, use_bias=False)
    return tf.cast(logits[:, 0], tf.float32)


def _loss(
    start_logits: tf.Tensor,
    end_logits: tf.Tensor,
    cls_logits: tf.Tensor,
    features: Mapping[str, tf.Tensor],
    answers: AnswerConfig,
) -> tf.Tensor:
    """Sum the cross entropy of start and end and, with ``use_answer_class``, of answerability."""
    starts = tf.reduce_mean(cross_entropy(start_logits, features["start_positions"]))
    ends = tf.reduce_mean(cross_entropy(end_logits, features["end_positions"]))
    loss = answers.ans_loss_weight * (starts + ends)
    if not answers.use_answer_class:
        return loss
    labels = tf.cast(features["is_impossible"], tf.float32)
    unanswerable = tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=cls_logits)
    return loss + answers.cls_loss_weight * tf.reduce_mean(unanswerable)


def _mask_logits(logits: tf.Tensor, p_mask: tf.Tensor | None) -> tf.Tensor:
    """Set the logits of positions with ``p_mask`` = 1 to :data:`IMPOSSIBLE`."""
    if p_mask is None:
        return logits
    return tf.where_v2(p_mask > 0, IMPOSSIBLE, logits)


def _multiply(hidden: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Multiply [B, T, C] by a matrix [C, D]: [B, T, D]."""
    *leading, size = get_shape_list(hidden)
    flat = tf.matmul(tf.reshape(hidden, [-1, size]), weights)
    return tf.reshape(flat, [*leading, weights.shape.as_list()[1]])


def _select_rows(hidden: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """Select rows ``index`` [B, S] of [B, T, D]: [B, S, D]."""
    return tf.matmul(tf.one_hot(index, get_shape_list(hidden)[1], dtype=hidden.dtype), hidden)
