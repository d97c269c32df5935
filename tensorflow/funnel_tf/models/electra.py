"""Pretraining graphs: masked language modelling, and ELECTRA with its generator.

Dai et al. 2020, section 3.1; ELECTRA: Clark et al. 2020. A batch is the dictionary that
:func:`funnel_tf.data.masking.mask_records` returns, of B records of T tokens with P target slots:

    masked_input        int32 [B, T], input of the model (in ELECTRA: of the generator)
    origin_input        int32 [B, T], the same without masking
    token_type_ids      int32 [B, T]
    attention_mask      float32 [B, T], 1 for a real token, 0 for padding
    mlm_attention_mask  float32 [B, T], as attention_mask, but 0 for [MASK] in masked_input too
    target              int32 [B, P], original ids at the targets
    target_positions    int32 [B, P]
    target_mask         float32 [B, P], 0 for an empty slot
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow.compat.v1 as tf

from funnel.config.heads import DEFAULT_PRETRAINING, PretrainingConfig
from funnel.config.model import ModelConfig
from funnel_tf.models.heads import cross_entropy, discriminator_logits, masked_lm_logits
from funnel_tf.models.layers import get_shape_list
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
# The two sums that each metric is the ratio of. Precision and recall are those of detecting
# replaced tokens.
_MLM_METRICS = {
    "mlm_loss": ("mlm_loss", "targets"),
    "mlm_accuracy": ("mlm_correct", "targets"),
}
_DISCRIMINATOR_METRICS = {
    "disc_loss": ("disc_loss", "tokens"),
    "disc_accuracy": ("disc_correct", "tokens"),
    "disc_precision": ("true_positives", "predicted_positives"),
    "disc_recall": ("true_positives", "replaced"),
    "replaced_rate": ("replaced", "tokens"),
}


class PretrainingOutput(NamedTuple):
    """Losses and statistics of a pretraining batch.

    Attributes:
        loss: the loss to minimize; in ELECTRA ``mlm_loss + disc_coeff * disc_loss``.
        mlm_loss: mean over the targets, scalar.
        disc_loss: mean over the real tokens, scalar; None in MLM.
        metrics: numerator and denominator of each metric, scalars to be summed over batches.
        disc_logits: float32 [B, T], positive for *original*; None in MLM.
        is_replaced: 1 for a replaced token, float32 [B, T]; None in MLM.
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
) -> PretrainingOutput:
    """Predict the masked tokens from the decoder's output at the target positions."""
    attention_mask = batch["mlm_attention_mask" if pretraining.hide_masked else "attention_mask"]
    inputs = ModelInputs(batch["masked_input"], attention_mask, batch["token_type_ids"])
    encoded = funnel_encoder(config, inputs, options)
    hidden = _select_targets(funnel_decoder(config, encoded, options), batch)
    logits = masked_lm_logits(hidden, encoded.word_table, config, options)
    sums = _mlm_loss(logits, batch)
    loss = _mean(sums["mlm_loss"], sums["targets"])
    return PretrainingOutput(loss, loss, None, _select_metrics(_MLM_METRICS, sums))


def electra_graph(
    config: ModelConfig,
    batch: Batch,
    options: GraphOptions,
    pretraining: PretrainingConfig = DEFAULT_PRETRAINING,
    noise: tf.Tensor | None = None,
) -> PretrainingOutput:
    """Train a generator, and a discriminator to detect the tokens it replaced.

    Args:
        config: the discriminator.
        batch: see the module docstring.
        options: how the graph is built.
        pretraining: width of the generator and weight of the discriminator's loss.
        noise: standard Gumbel noise [B, P, V] for the sampled tokens; None draws it.
    """
    mask, token_type_ids = batch["attention_mask"], batch["token_type_ids"]
    inputs = ModelInputs(batch["masked_input"], mask, token_type_ids)
    embedded, table = funnel_embedding(config, inputs, options)
    logits = _generator_logits(pretraining.generator(config), embedded, table, batch, options)
    replaced_input = _replace_targets(batch, _sample(logits, noise))

    encoded = funnel_encoder(config, inputs._replace(input_ids=replaced_input), options)
    hidden = funnel_decoder(config, encoded, options)
    disc_logits = discriminator_logits(hidden, config, options)
    # A sample may equal the original token, which then counts as original.
    is_replaced = tf.cast(tf.not_equal(replaced_input, batch["origin_input"]), tf.float32)

    sums = _mlm_loss(logits, batch)
    sums |= _discriminator_loss(disc_logits, is_replaced, mask)
    mlm_loss = _mean(sums["mlm_loss"], sums["targets"])
    disc_loss = _mean(sums["disc_loss"], sums["tokens"])
    loss = mlm_loss + pretraining.disc_coeff * disc_loss
    metrics = _select_metrics(_MLM_METRICS | _DISCRIMINATOR_METRICS, sums)
    return PretrainingOutput(loss, mlm_loss, disc_loss, metrics, disc_logits, is_replaced)


def gumbel_noise(shape: list[int | tf.Tensor]) -> tf.Tensor:
    """Draw from the standard Gumbel distribution, float32.

    The arg max of logits plus this noise is distributed as the softmax of the logits.
    """
    smallest = tf.float32.as_numpy_dtype(1e-30)  # the logarithm of 0 would be infinite
    uniform = tf.random.uniform(shape, minval=smallest, maxval=1.0)
    return -tf.log(-tf.log(uniform))


def _generator_logits(
    generator: ModelConfig,
    embedded: tf.Tensor,
    table: tf.Tensor,
    batch: Batch,
    options: GraphOptions,
) -> tf.Tensor:
    """Compute the generator's logits at the targets, float32 [B, P, V].

    The generator shares the discriminator's embeddings: ``embedded`` and ``table`` come from it.
    """
    inputs = ModelInputs(batch["masked_input"], batch["attention_mask"], batch["token_type_ids"])
    encoded = encode(generator, embedded, table, inputs, options, GENERATOR)
    hidden = funnel_decoder(generator, encoded, options, GENERATOR)
    return masked_lm_logits(_select_targets(hidden, batch), table, generator, options, GENERATOR)


def _sample(logits: tf.Tensor, noise: tf.Tensor | None) -> tf.Tensor:
    """Sample token ids [B, P] from the softmax of ``logits``, without a gradient."""
    rows = _rows(logits)
    shape = get_shape_list(rows)
    drawn = gumbel_noise(shape) if noise is None else tf.reshape(noise, shape)
    tokens = tf.argmax(rows + drawn, -1, output_type=tf.int32)
    return tf.stop_gradient(tf.reshape(tokens, get_shape_list(logits)[:-1]))


def _rows(logits: tf.Tensor) -> tf.Tensor:
    """Return logits [B, P, V] as [B * P, V], the shape in which they were computed.

    A TPU pads P to a multiple of 8, so that the other shape is a copy of all logits.
    """
    return tf.reshape(logits, [-1, logits.shape.as_list()[-1]])


def _replace_targets(batch: Batch, tokens: tf.Tensor) -> tf.Tensor:
    """Return the original ids [B, T] with ``tokens`` [B, P] at the targets.

    A sum over one-hot vectors, which TPUs prefer to a scatter. It is in integers because a TPU
    would round the ids in a floating-point product. Empty slots add nothing.
    """
    origin = batch["origin_input"]
    positions = tf.one_hot(batch["target_positions"], get_shape_list(origin)[1], dtype=tf.int32)
    positions *= tf.cast(batch["target_mask"], tf.int32)[..., None]
    kept = origin * (1 - tf.reduce_sum(positions, 1))
    return kept + tf.reduce_sum(positions * tokens[..., None], 1)


def _select_targets(hidden: tf.Tensor, batch: Batch) -> tf.Tensor:
    """Select the target positions, [B, T, D] to [B, P, D].

    The vocabulary product, the most expensive one, is then needed for P positions instead of T.
    """
    mapping = tf.one_hot(batch["target_positions"], get_shape_list(hidden)[1], dtype=hidden.dtype)
    return tf.matmul(mapping, hidden)


def _mlm_loss(logits: tf.Tensor, batch: Batch) -> dict[str, tf.Tensor]:
    """Return the summed cross entropy of logits [B, P, V] and the sums for the metrics."""
    logits = _rows(logits)
    target, target_mask = tf.reshape(batch["target"], [-1]), tf.reshape(batch["target_mask"], [-1])
    correct = tf.cast(tf.equal(tf.argmax(logits, -1, output_type=tf.int32), target), tf.float32)
    return {
        "targets": tf.reduce_sum(target_mask),
        "mlm_loss": tf.reduce_sum(cross_entropy(logits, target) * target_mask),
        "mlm_correct": tf.reduce_sum(correct * target_mask),
    }


def _discriminator_loss(
    logits: tf.Tensor, is_replaced: tf.Tensor, attention_mask: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Return the summed sigmoid cross entropy of logits [B, T] and the sums for the metrics.

    The label is 1 for an original token, the opposite of ELECTRA's own convention.
    """
    losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=1.0 - is_replaced, logits=logits)
    predicted = tf.cast(logits < 0, tf.float32)
    is_correct = tf.cast(tf.equal(predicted, is_replaced), tf.float32)
    return {
        "tokens": tf.reduce_sum(attention_mask),
        "disc_loss": tf.reduce_sum(losses * attention_mask),
        "disc_correct": tf.reduce_sum(is_correct * attention_mask),
        "replaced": tf.reduce_sum(is_replaced * attention_mask),
        "predicted_positives": tf.reduce_sum(predicted * attention_mask),
        "true_positives": tf.reduce_sum(is_replaced * predicted * attention_mask),
    }


def _mean(total: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Divide a sum by its count; the loss of a batch without targets is 0."""
    return total / tf.maximum(count, 1.0)


def _select_metrics(
    ratios: Mapping[str, tuple[str, str]], sums: Mapping[str, tf.Tensor]
) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
    """Return numerator and denominator of every metric in ``ratios``."""
    stopped = {name: tf.stop_gradient(value) for name, value in sums.items()}
    return {
        name: (stopped[numerator], stopped[denominator])
        for name, (numerator, denominator) in ratios.items()
    }
