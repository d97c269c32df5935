"""The SQuAD head: answer spans by beam, and whether there is an answer at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow.compat.v1 as tf

from funnel.config.heads import DEFAULT_ANSWERS, AnswerConfig
from funnel.config.model import ModelConfig
from funnel_tf.models.heads import cross_entropy
from funnel_tf.models.layers import dense, dropout, layer_norm, sizes
from funnel_tf.models.modeling import MODEL, ModelInputs, funnel_decoder, funnel_encoder
from funnel_tf.models.options import GraphOptions
from funnel_tf.models.variables import constant, kernel, root_scope

# Logit of a position that cannot begin or end an answer.
IMPOSSIBLE = -1e30
_TARGETS = ("start_positions", "end_positions", "is_impossible")


class AnswerOutput(NamedTuple):
    """What the head finds; S and E are as many starts and ends as the beam keeps.

    Attributes:
        loss: the weighted sum, None without gold answers.
        start_logits: float32 [B, T], masked, like all logits here.
        end_logits: [B, T] given the gold start (training) or without a start; [B, S, T] per kept
            start otherwise.
        start_top_log_probs: [B, S].
        start_top_index: int32 [B, S].
        end_top_log_probs: [B, S * E], start-major; [B, E] without ``conditional_end``, and in
            training.
        end_top_index: as ``end_top_log_probs``.
        cls_logits: [B], high for no answer (a log-probability without ``use_answer_class``).
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
        """What :func:`funnel.features.squad_predictions.find_answers` needs, by name."""
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
        features: ``p_mask`` [B, T], 1 where no answer can begin or end (without it everywhere one
            can); ``cls_index`` int32 [B] (without it 0); for the loss ``start_positions`` and
            ``end_positions`` int32 [B] and ``is_impossible`` [B], all three or none.
        options: how the graph is built.
        answers: how answers are modelled.
    """
    encoded = funnel_encoder(config, inputs, options)
    hidden = funnel_decoder(config, encoded, options)
    has_targets = all(name in features for name in _TARGETS)
    p_mask = features.get("p_mask") if answers.use_masked_loss else None
    with root_scope(MODEL, options):
        with tf.variable_scope("start_logits"):
            start_logits = _masked(_score(hidden, "dense", config, options), p_mask)
        start_log_probs = tf.nn.log_softmax(start_logits)
        count = min(answers.start_n_top, sizes(hidden)[1])
        starts = tf.math.top_k(start_log_probs, count)
        given = features["start_positions"][:, None] if has_targets else starts.indices
        end_logits = _end_logits(hidden, given, p_mask, answers, config, options)
        cls_logits = _cls_logits(hidden, start_log_probs, features, answers, config, options)
    ends = tf.math.top_k(tf.nn.log_softmax(end_logits), min(answers.end_n_top, sizes(hidden)[1]))
    if answers.conditional_end and has_targets:
        end_logits = end_logits[:, 0]
    loss = None
    if has_targets:
        loss = _loss(start_logits, end_logits, cls_logits, features, answers)
    # Not -1 for the second axis: the static shape would be lost where the batch is dynamic.
    kept = int(ends.values.shape[-1]) * (int(ends.values.shape[1]) if ends.values.ndim == 3 else 1)
    tops = (*starts, *(tf.reshape(part, [-1, kept]) for part in ends))
    return AnswerOutput(loss, start_logits, end_logits, *tops, cls_logits)


def _score(hidden: tf.Tensor, scope: str, config: ModelConfig, options: GraphOptions) -> tf.Tensor:
    """One float32 number for every vector: [..., C] to [...]."""
    return tf.cast(dense(hidden, scope, [1], config, options)[..., 0], tf.float32)


def _end_logits(
    hidden: tf.Tensor,
    given: tf.Tensor,
    p_mask: tf.Tensor | None,
    answers: AnswerConfig,
    config: ModelConfig,
    options: GraphOptions,
) -> tf.Tensor:
    """[B, S, T] for every given start [B, S], or [B, T] if ends do not depend on it."""
    width = config.d_model
    with tf.variable_scope("end_logits"):
        if not answers.conditional_end:
            return _masked(_score(hidden, "dense", config, options), p_mask)
        with tf.variable_scope("dense_0"):
            weights = kernel("kernel", [2 * width, width], config, options)
            bias = constant("bias", [width], 0.0, options.dtype)
        # The product with a concatenation is the sum of two products: hidden's is shared by S.
        from_hidden = _product(hidden, weights[:width]) + bias
        from_start = _product(_rows(hidden, given), weights[width:])
        inner = layer_norm(tf.tanh(from_hidden[:, None] + from_start[:, :, None]), config)
        logits = _score(inner, "dense_1", config, options)
        return _masked(logits, None if p_mask is None else p_mask[:, None])


def _cls_logits(
    hidden: tf.Tensor,
    start_log_probs: tf.Tensor,
    features: Mapping[str, tf.Tensor],
    answers: AnswerConfig,
    config: ModelConfig,
    options: GraphOptions,
) -> tf.Tensor:
    """How much speaks against an answer, [B]."""
    index = features.get("cls_index", tf.zeros_like(start_log_probs[:, 0], tf.int32))
    if not answers.use_answer_class:
        at_cls = tf.one_hot(index, sizes(hidden)[1], on_value=True, off_value=False)
        # Not a product: the others may be -inf, and 0 * -inf is no 0.
        return tf.reduce_sum(tf.where(at_cls, start_log_probs, tf.zeros_like(start_log_probs)), 1)
    with tf.variable_scope("answer_class"):
        probabilities = tf.cast(tf.exp(start_log_probs), hidden.dtype)
        expected = tf.matmul(probabilities[:, None], hidden)[:, 0]
        both = tf.concat([expected, _rows(hidden, index[:, None])[:, 0]], -1)
        inner = tf.tanh(dense(both, "dense_0", [config.d_model], config, options))
        inner = dropout(inner, config.dropout, options)
        logits = dense(inner, "dense_1", [1], config, options, use_bias=False)
    return tf.cast(logits[:, 0], tf.float32)


def _loss(
    start_logits: tf.Tensor,
    end_logits: tf.Tensor,
    cls_logits: tf.Tensor,
    features: Mapping[str, tf.Tensor],
    answers: AnswerConfig,
) -> tf.Tensor:
    """Both spans' cross entropy and, with ``use_answer_class``, that of answerability."""
    starts = tf.reduce_mean(cross_entropy(start_logits, features["start_positions"]))
    ends = tf.reduce_mean(cross_entropy(end_logits, features["end_positions"]))
    loss = answers.ans_loss_weight * (starts + ends)
    if not answers.use_answer_class:
        return loss
    labels = tf.cast(features["is_impossible"], tf.float32)
    unanswerable = tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=cls_logits)
    return loss + answers.cls_loss_weight * tf.reduce_mean(unanswerable)


def _masked(logits: tf.Tensor, p_mask: tf.Tensor | None) -> tf.Tensor:
    """Logits with every position that ``p_mask`` marks made impossible."""
    if p_mask is None:
        return logits
    return tf.where_v2(p_mask > 0, IMPOSSIBLE, logits)


def _product(hidden: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """[B, T, C] times a matrix [C, D]: [B, T, D]."""
    *leading, size = sizes(hidden)
    flat = tf.matmul(tf.reshape(hidden, [-1, size]), weights)
    return tf.reshape(flat, [*leading, weights.shape.as_list()[1]])


def _rows(hidden: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """Rows ``index`` [B, S] of [B, T, D]: [B, S, D]."""
    return tf.matmul(tf.one_hot(index, sizes(hidden)[1], dtype=hidden.dtype), hidden)
