"""The token-classification head: a tag for every token, from the decoder's output."""

from __future__ import annotations

import tensorflow.compat.v1 as tf

from funnel.checkpoints.names import TOKEN_LOGITS
from funnel.config.model import ModelConfig
from funnel_tf.models.heads import HeadOutput, cross_entropy, weighted_mean
from funnel_tf.models.layers import dropout, linear
from funnel_tf.models.modeling import MODEL, ModelInputs, funnel_decoder, funnel_encoder
from funnel_tf.models.options import GraphOptions
from funnel_tf.models.variables import root_scope


def token_head(
    config: ModelConfig,
    inputs: ModelInputs,
    options: GraphOptions,
    num_labels: int,
    *,
    labels: tf.Tensor | None = None,
    weights: tf.Tensor | None = None,
) -> HeadOutput:
    """Classify every token, in ``model/token_classification/logits``.

    Args:
        config: the model.
        inputs: [B, T].
        options: how the graph is built.
        num_labels: number of classes.
        labels: class ids int32 [B, T], negative for a token without one; None in prediction.
        weights: [B], 0 for an example that only fills up the batch; None weights all equally.

    Returns:
        The mean loss of the tokens with a label, their losses [B, T] (0 for the others), the logits
        float32 [B, T, num_labels], and these and the class ids int32 [B, T] as predictions.
    """
    encoded = funnel_encoder(config, inputs, options)
    hidden = dropout(funnel_decoder(config, encoded, options), config.dropout, options)
    with root_scope(MODEL, options):
        scope = TOKEN_LOGITS.removeprefix(f"{MODEL}/")
        logits = tf.cast(linear(hidden, scope, [num_labels], config, options), tf.float32)
    found = {"logits": logits, "predictions": tf.argmax(logits, -1, output_type=tf.int32)}
    if labels is None:
        return HeadOutput(None, None, logits, found)
    is_labelled = tf.cast(labels >= 0, tf.float32)
    if weights is not None:
        is_labelled *= tf.cast(weights, tf.float32)[:, None]
    losses = cross_entropy(logits, tf.maximum(labels, 0)) * is_labelled
    return HeadOutput(weighted_mean(losses, is_labelled), losses, logits, found)
