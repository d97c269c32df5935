"""The Funnel-Transformer as graph functions: an encoder that pools, a decoder that up-samples.

Dai et al. 2020, *Funnel-Transformer: Filtering out Sequential Redundancy for Efficient Language
Processing*, sections 2.2 (encoder) and 2.3 (decoder).

    inputs = ModelInputs(input_ids, attention_mask, token_type_ids)
    encoded = funnel_encoder(config, inputs, options)
    hidden = funnel_decoder(config, encoded, options)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf

from funnel.checkpoints.names import SUMMARY
from funnel.config.geometry import BlockGeometry, encoder_geometry
from funnel.config.model import BlockSpec, ModelConfig
from funnel_tf.models.attention import relative_attention
from funnel_tf.models.attention_inputs import (
    AttentionContext,
    SequenceInfo,
    build_attention_context,
    pool_by_product,
    pool_hidden,
    pool_sequence_info,
)
from funnel_tf.models.layers import embedding, feed_forward, get_shape_list, linear
from funnel_tf.models.options import GraphOptions
from funnel_tf.models.variables import root_scope

MODEL = "model"


class ModelInputs(NamedTuple):
    """A batch of B sequences of T tokens; T must be static.

    Attributes:
        input_ids: int32 [B, T].
        attention_mask: 1 for a real token, 0 for padding, float32 [B, T]; None for no padding.
        token_type_ids: 0 first segment, 1 second, 2 [CLS], int32 [B, T]; None leaves the segment
            term out.
    """

    input_ids: tf.Tensor
    attention_mask: tf.Tensor | None = None
    token_type_ids: tf.Tensor | None = None

    @classmethod
    def from_features(cls, features: Mapping[str, tf.Tensor]) -> ModelInputs:
        """Select the model's inputs from the features of a fine-tuning batch."""
        return cls(*(features[name] for name in cls._fields))


class EncoderOutput(NamedTuple):
    """Output of the encoder, and the intermediate results that decoder and heads use.

    Attributes:
        hidden_states: the embedding output [B, T, E], then that of every executed layer.
        output: output of the last layer [B, T', D], T' the pooled length.
        word_table: word embeddings [V, E] in the precision of the graph.
        skip_connection: output of the first block [B, T, D], which the decoder adds.
        context: attention context of the first block, also that of the decoder's layers.
    """

    hidden_states: tuple[tf.Tensor, ...]
    output: tf.Tensor
    word_table: tf.Tensor
    skip_connection: tf.Tensor
    context: AttentionContext


class LayerStackInput(NamedTuple):
    """Input of a stack of layers.

    Attributes:
        hidden: residual and query of the first layer [B, Tq, D].
        key: key and value input of the first layer [B, Tk, D]; ``hidden`` itself if not pooled.
        first_context: attention context of the first layer.
        context: attention context of all later layers.
    """

    hidden: tf.Tensor
    key: tf.Tensor
    first_context: AttentionContext
    context: AttentionContext


def funnel_encoder(
    config: ModelConfig, inputs: ModelInputs, options: GraphOptions
) -> EncoderOutput:
    """Embed and encode, with the variables in ``model/input`` and ``model/encoder``."""
    embedded, table = funnel_embedding(config, inputs, options)
    return encode(config, embedded, table, inputs, options)


def funnel_embedding(
    config: ModelConfig, inputs: ModelInputs, options: GraphOptions
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the embedding output [B, T, E] and the word table [V, E]."""
    with root_scope(MODEL, options):
        return embedding(inputs.input_ids, inputs.token_type_ids, config, options)


def encode(
    config: ModelConfig,
    embedded: tf.Tensor,
    word_table: tf.Tensor,
    inputs: ModelInputs,
    options: GraphOptions,
    root: str = MODEL,
) -> EncoderOutput:
    """Encode embeddings [B, T, E] with the variables in ``{root}/encoder``.

    ``inputs.input_ids`` is not used.
    """
    hidden, outputs = embedded, [embedded]
    geometry = encoder_geometry(config, embedded.shape.as_list()[1])
    mask = None if inputs.attention_mask is None else tf.cast(inputs.attention_mask, tf.float32)
    info = SequenceInfo(geometry[0], mask, inputs.token_type_ids)
    with root_scope(root, options), tf.variable_scope("encoder"):
        if config.d_embed != config.d_model:
            hidden = linear(hidden, "input_projection", [config.d_model], config, options)
        first_context = context = build_attention_context(info, info, config, options)
        skip_connection, done = hidden, 0
        for index, block in enumerate(config.blocks):
            stack = LayerStackInput(hidden, hidden, context, context)
            if geometry[index].pooled:
                stack, info = _pool(hidden, info, geometry[index], config, options)
            states = _run_layers(stack, block, done, config, options)
            outputs += states
            hidden, context, done = states[-1], stack.context, done + block.params
            skip_connection = hidden if index == 0 else skip_connection
    return EncoderOutput(tuple(outputs), hidden, word_table, skip_connection, first_context)


def funnel_decoder(
    config: ModelConfig, encoded: EncoderOutput, options: GraphOptions, root: str = MODEL
) -> tf.Tensor:
    """Decode to the length of the input, [B, T, D]; return a one-block encoder's output as is."""
    if len(config.blocks) == 1:
        return encoded.output
    repeat = upsample_by_product if options.resizes_by_products else upsample
    upsampled = repeat(encoded.output, encoded.context.query_length, config)
    hidden = encoded.skip_connection + upsampled
    if config.decoder is None:
        return hidden
    stack = LayerStackInput(hidden, hidden, encoded.context, encoded.context)
    with root_scope(root, options), tf.variable_scope("decoder"):
        # Decoder layers are numbered on after those of the encoder.
        layers = _run_layers(stack, config.decoder, config.num_encoder_params, config, options)
        return layers[-1]


def funnel_summary(config: ModelConfig, encoded: EncoderOutput, options: GraphOptions) -> tf.Tensor:
    """Compute the pooled summary ``tanh(W h[0] + b)`` of the first position, [B, D]."""
    with root_scope(MODEL, options):
        scope = SUMMARY.removeprefix(f"{MODEL}/")
        return tf.tanh(linear(encoded.output[:, 0], scope, [config.d_model], config, options))


def upsample(hidden: tf.Tensor, length: int, config: ModelConfig) -> tf.Tensor:
    """Repeat every pooled position, then cut or pad with zeros to ``length`` positions."""
    start = 1 if config.separate_cls else 0
    batch, pooled, width = get_shape_list(hidden)
    # A sequence too short for every pooling needs fewer copies than the factor.
    factor = min(config.upsample_factor, length)
    repeated = tf.tile(hidden[:, start:, None], [1, 1, factor, 1])
    filled = (pooled - start) * factor
    repeated = tf.reshape(repeated, [batch, filled, width])
    repeated = tf.concat([hidden[:, :start], repeated], 1)[:, :length]
    return tf.pad(repeated, [[0, 0], [0, max(0, length - start - filled)], [0, 0]])


def upsample_by_product(hidden: tf.Tensor, length: int, config: ModelConfig) -> tf.Tensor:
    """Repeat as :func:`upsample`, by a product with one-hot vectors [T, T'].

    For TPUs, for the reason of :func:`pool_by_product`.
    """
    start = 1 if config.separate_cls else 0
    pooled = hidden.shape.as_list()[1]
    copied = min((pooled - start) * config.upsample_factor, length - start)
    source = np.full(length, -1, np.int32)  # -1: zeros
    source[:start] = 0
    source[start : start + copied] = start + np.arange(copied) // config.upsample_factor
    return tf.einsum("tp,bpd->btd", tf.one_hot(source, pooled, dtype=hidden.dtype), hidden)


def _run_layers(
    stack: LayerStackInput,
    depth: BlockSpec,
    first: int,
    config: ModelConfig,
    options: GraphOptions,
) -> list[tf.Tensor]:
    """Run layers from ``layer_{first}`` on, each ``repeats`` times in a row; return all outputs.

    Only the first application has other keys than its own input, those of ``stack``.
    """
    outputs: list[tf.Tensor] = []
    hidden, key, context = stack.hidden, stack.key, stack.first_context
    for index in range(first, first + depth.params):
        for _ in range(depth.repeats):
            with tf.variable_scope(f"layer_{index}"):
                attended = relative_attention(hidden, key, context, config, options)
                hidden = feed_forward(attended, config, options)
            key, context = hidden, stack.context
            outputs.append(hidden)
    return outputs


def _pool(
    hidden: tf.Tensor,
    info: SequenceInfo,
    geometry: BlockGeometry,
    config: ModelConfig,
    options: GraphOptions,
) -> tuple[LayerStackInput, SequenceInfo]:
    """Pool on entering a block: residual and query, and with ``pool_q_only`` false the keys."""
    if options.resizes_by_products and config.pooling_type == "mean":
        pooled = pool_by_product(hidden, config)
    else:
        pooled = pool_hidden(hidden, config, config.pooling_type)
    pooled_info = pool_sequence_info(info, geometry, config)
    context = build_attention_context(pooled_info, pooled_info, config, options)
    if not config.pool_q_only:
        return LayerStackInput(pooled, pooled, context, context), pooled_info
    first_context = build_attention_context(pooled_info, info, config, options)
    return LayerStackInput(pooled, hidden, first_context, context), pooled_info
