"""Pretraining graphs: masked language modelling, and ELECTRA with its generator.

Dai et al. 2020, section 3.1; ELECTRA: Clark et al. 2020. A batch is a dictionary of B records of T
tokens with P slots for targets, as the input pipeline makes it:

    masked_input      int32 [B, T], what the model (of ELECTRA: the generator) reads
    origin_input      int32 [B, T]
    seg_id            int32 [B, T]
    target            int32 [B, P], original ids at the targets
    target_positions  int32 [B, P]
    target_mask       float32 [B, P], 0 for an empty slot
    input_mask        float32 [B, T], 1 where masked_input is the mask symbol or padding
    pad_mask          float32 [B, T], 1 for padding
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow.compat.v1 as tf

from funnel.config.heads import DEFAULT_PRETRAINING, PretrainingConfig
from funnel.config.model import ModelConfig
from funnel_tf.models.heads import cross_entropy, discriminator_logits, masked_lm_logits
from funnel_tf.models.layers import sizes
from funnel_tf.models.modeling import (
    ModelInputs,
    encode,
    funnel_decoder,
    funnel_embedding,
    funnel_encoder,
)
from funnel_tf.models.options import GraphOptions

GENERATOR = "generator"

Batch = Mapping[str, tf.Tensor]
# Metric: the sums it is the ratio of. The discriminator is right about a token if the sign of its
# logit is; precision and recall are those of finding replaced tokens.
_MLM_METRICS = {
    "mlm_loss": ("mlm_loss", "targets"),
    "mlm_accuracy": ("mlm_correct", "targets"),
}
_DISCRIMINATOR_METRICS = {
    "disc_loss": ("disc_loss", "tokens"),
    "disc_accuracy": ("disc_correct", "tokens"),
    "disc_precision": ("caught", "flagged"),
    "disc_recall": ("caught", "replaced"),
    "replaced_rate": ("replaced", "tokens"),
}


class PretrainOutput(NamedTuple):
    """What a pretraining step computes.

    Attributes:
        loss: what to minimise; of ELECTRA ``mlm_loss + disc_coeff * disc_loss``.
        mlm_loss: mean over the targets, scalar.
        disc_loss: mean over the tokens, scalar; None in MLM.
        metrics: by name numerator and denominator, scalars that add up over batches.
        disc_logits: float32 [B, T], positive for *original*; None in MLM.
        is_replaced: 1 where the discriminator should say so, float32 [B, T]; None in MLM.
    """

    loss: tf.Tensor
    mlm_loss: tf.Tensor
    disc_loss: tf.Tensor | None
    metrics: dict[str, tuple[tf.Tensor, tf.Tensor]]
    disc_logits: tf.Tensor | None = None
    is_replaced: tf.Tensor | None = None


def mlm_graph(
    config: ModelConfig,
    batch: Batch,
    options: GraphOptions,
    pretraining: PretrainingConfig = DEFAULT_PRETRAINING,
) -> PretrainOutput:
    """Predict the masked tokens from the decoder's output, at their positions only."""
    hidden_keys = batch["input_mask"] if pretraining.hide_masked else batch["pad_mask"]
    inputs = ModelInputs(batch["masked_input"], hidden_keys, batch["seg_id"])
    encoded = funnel_encoder(config, inputs, options)
    hidden = _at_targets(funnel_decoder(config, encoded, options), batch)
    logits = masked_lm_logits(hidden, encoded.word_table, config, options)
    sums = _score_predictions(logits, batch)
    loss = _mean(sums["mlm_loss"], sums["targets"])
    return PretrainOutput(loss, loss, None, _ratios(_MLM_METRICS, sums))


def electra_graph(
    config: ModelConfig,
    batch: Batch,
    options: GraphOptions,
    pretraining: PretrainingConfig = DEFAULT_PRETRAINING,
    noise: tf.Tensor | None = None,
) -> PretrainOutput:
    """Tell original tokens from the samples of a generator, and train both.

    Args:
        config: the discriminator.
        batch: the records.
        options: how the graph is built.
        pretraining: the generator's width and the weight of the discriminator's loss.
        noise: standard Gumbel noise [B, P, V] that decides the samples; None draws it.
    """
    inputs = ModelInputs(batch["masked_input"], batch["pad_mask"], batch["seg_id"])
    embedded, table = funnel_embedding(config, inputs, options)
    logits = _generator_logits(pretraining.generator(config), embedded, table, batch, options)
    replaced_input = _replace_targets(batch, _sample(logits, noise))

    encoded = funnel_encoder(config, inputs._replace(input_ids=replaced_input), options)
    hidden = funnel_decoder(config, encoded, options)
    disc_logits = discriminator_logits(hidden, config, options)
    is_replaced = tf.cast(tf.not_equal(replaced_input, batch["origin_input"]), tf.float32)

    sums = _score_predictions(logits, batch)
    sums |= _score_judgements(disc_logits, is_replaced, 1.0 - batch["pad_mask"])
    mlm_loss = _mean(sums["mlm_loss"], sums["targets"])
    disc_loss = _mean(sums["disc_loss"], sums["tokens"])
    loss = mlm_loss + pretraining.disc_coeff * disc_loss
    metrics = _ratios(_MLM_METRICS | _DISCRIMINATOR_METRICS, sums)
    return PretrainOutput(loss, mlm_loss, disc_loss, metrics, disc_logits, is_replaced)


def gumbel_noise(shape: list[int | tf.Tensor]) -> tf.Tensor:
    """Independent draws of the standard Gumbel distribution, float32.

    The arg max of logits plus such noise is distributed as their softmax.
    """
    smallest = tf.float32.as_numpy_dtype(1e-30)  # a 0 would become an infinity
    uniform = tf.random.uniform(shape, minval=smallest, maxval=1.0)
    return -tf.log(-tf.log(uniform))


def _generator_logits(
    generator: ModelConfig,
    embedded: tf.Tensor,
    table: tf.Tensor,
    batch: Batch,
    options: GraphOptions,
) -> tf.Tensor:
    """The small model's scores at the targets, float32 [B, P, V]; it reads the same embeddings."""
    inputs = ModelInputs(batch["masked_input"], batch["pad_mask"], batch["seg_id"])
    encoded = encode(generator, embedded, table, inputs, options, GENERATOR)
    hidden = funnel_decoder(generator, encoded, options, GENERATOR)
    return masked_lm_logits(_at_targets(hidden, batch), table, generator, options, GENERATOR)


def _sample(logits: tf.Tensor, noise: tf.Tensor | None) -> tf.Tensor:
    """Token ids [B, P] from the softmax of ``logits``; nothing flows back through them."""
    drawn = gumbel_noise(sizes(logits)) if noise is None else noise
    return tf.stop_gradient(tf.argmax(logits + drawn, -1, output_type=tf.int32))


def _replace_targets(batch: Batch, tokens: tf.Tensor) -> tf.Tensor:
    """The original ids [B, T] with ``tokens`` [B, P] at the targets; empty slots do nothing.

    In whole numbers: a product of one-hot vectors with ids would be rounded on a TPU.
    """
    origin = batch["origin_input"]
    positions = tf.one_hot(batch["target_positions"], sizes(origin)[1], dtype=tf.int32)
    positions *= tf.cast(batch["target_mask"], tf.int32)[..., None]
    kept = origin * (1 - tf.reduce_sum(positions, 1))
    return kept + tf.reduce_sum(positions * tokens[..., None], 1)


def _at_targets(hidden: tf.Tensor, batch: Batch) -> tf.Tensor:
    """[B, T, D] to [B, P, D]: the product with the vocabulary is made at the targets only."""
    mapping = tf.one_hot(batch["target_positions"], sizes(hidden)[1], dtype=hidden.dtype)
    return tf.matmul(mapping, hidden)


def _score_predictions(logits: tf.Tensor, batch: Batch) -> dict[str, tf.Tensor]:
    """Summed cross entropy of [B, P, V] logits, with gradient, and the statistics."""
    filled, target = batch["target_mask"], batch["target"]
    correct = tf.cast(tf.equal(tf.argmax(logits, -1, output_type=tf.int32), target), tf.float32)
    return {
        "targets": tf.reduce_sum(filled),
        "mlm_loss": tf.reduce_sum(cross_entropy(logits, target) * filled),
        "mlm_correct": tf.reduce_sum(correct * filled),
    }


def _score_judgements(
    logits: tf.Tensor, is_replaced: tf.Tensor, real: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Summed sigmoid cross entropy of [B, T] logits, with gradient, and the statistics."""
    losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=1.0 - is_replaced, logits=logits)
    flagged = tf.cast(logits < 0, tf.float32)
    return {
        "tokens": tf.reduce_sum(real),
        "disc_loss": tf.reduce_sum(losses * real),
        "disc_correct": tf.reduce_sum(tf.cast(tf.equal(flagged, is_replaced), tf.float32) * real),
        "replaced": tf.reduce_sum(is_replaced * real),
        "flagged": tf.reduce_sum(flagged * real),
        "caught": tf.reduce_sum(is_replaced * flagged * real),
    }


def _mean(total: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """A batch may have nothing to predict: its loss is then 0."""
    return total / tf.maximum(count, 1.0)


def _ratios(
    table: Mapping[str, tuple[str, str]], sums: Mapping[str, tf.Tensor]
) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
    """Numerator and denominator of every metric in ``table``."""
    stopped = {name: tf.stop_gradient(value) for name, value in sums.items()}
    return {name: (stopped[part], stopped[whole]) for name, (part, whole) in table.items()}
