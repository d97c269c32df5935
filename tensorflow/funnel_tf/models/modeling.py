"""The Funnel-Transformer as graph functions: an encoder that shortens, a decoder that restores.

Dai et al. 2020, *Funnel-Transformer: Filtering out Sequential Redundancy for Efficient Language
Processing*, sections 2.2 (encoder) and 2.3 (decoder).

    inputs = ModelInputs(input_ids, input_mask, seg_id)
    encoded = funnel_encoder(config, inputs, options)
    hidden = funnel_decoder(config, encoded, options)
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow.compat.v1 as tf

from funnel.checkpoints.names import SUMMARY
from funnel.config.geometry import BlockGeometry, encoder_geometry
from funnel.config.model import BlockSpec, ModelConfig
from funnel_tf.models.attention import relative_attention
from funnel_tf.models.attention_inputs import (
    AttentionContext,
    Tokens,
    attention_context,
    pool_sequence,
    pool_tokens,
)
from funnel_tf.models.layers import dense, embedding, feed_forward, sizes
from funnel_tf.models.options import GraphOptions
from funnel_tf.models.variables import root_scope

MODEL = "model"


class ModelInputs(NamedTuple):
    """A batch of B sequences of T tokens; T is known when the graph is built.

    Attributes:
        input_ids: int32 [B, T].
        input_mask: 1 for padding, 0 for a real token, float32 [B, T]; None hides nothing.
        seg_id: 0 first segment, 1 second, 2 [CLS], int32 [B, T]; None leaves the segment term out.
    """

    input_ids: tf.Tensor
    input_mask: tf.Tensor | None = None
    seg_id: tf.Tensor | None = None


class EncoderOutput(NamedTuple):
    """The encoder's result and what heads and decoder need of its way there.

    Attributes:
        hidden_states: the embedding output [B, T, E], then that of every executed layer.
        output: the last of them [B, T', D], T' the pooled length.
        word_table: word embeddings [V, E] as the encoder multiplied them.
        bridge: output of the first block [B, T, D], the decoder's skip connection.
        context: the first block's context; the decoder works on the same positions.
    """

    hidden_states: tuple[tf.Tensor, ...]
    output: tf.Tensor
    word_table: tf.Tensor
    bridge: tf.Tensor
    context: AttentionContext


class Entry(NamedTuple):
    """How a stack of layers begins.

    Attributes:
        query: residual and query of its first layer [B, Tq, D].
        key: what that layer attends to [B, Tk, D], the query itself where nothing is pooled.
        first: context of that layer.
        later: context of the layers after it.
    """

    query: tf.Tensor
    key: tf.Tensor
    first: AttentionContext
    later: AttentionContext


def funnel_encoder(
    config: ModelConfig, inputs: ModelInputs, options: GraphOptions
) -> EncoderOutput:
    """Embed and encode, with the variables of ``model/input`` and ``model/encoder``."""
    embedded, table = funnel_embedding(config, inputs, options)
    return encode(config, embedded, table, inputs, options)


def funnel_embedding(
    config: ModelConfig, inputs: ModelInputs, options: GraphOptions
) -> tuple[tf.Tensor, tf.Tensor]:
    """Embedding output [B, T, E] and word table [V, E]."""
    with root_scope(MODEL, options):
        return embedding(inputs.input_ids, inputs.seg_id, config, options)


def encode(
    config: ModelConfig,
    embedded: tf.Tensor,
    word_table: tf.Tensor,
    inputs: ModelInputs,
    options: GraphOptions,
    root: str = MODEL,
) -> EncoderOutput:
    """Run the encoder under ``root`` on embeddings [B, T, E]; of ``inputs`` it reads no ids."""
    hidden, outputs = embedded, [embedded]
    geometry = encoder_geometry(config, embedded.shape.as_list()[1])
    real = None if inputs.input_mask is None else 1.0 - tf.cast(inputs.input_mask, tf.float32)
    tokens = Tokens(geometry[0], real, inputs.seg_id)
    with root_scope(root, options), tf.variable_scope("encoder"):
        if config.d_embed != config.d_model:
            hidden = dense(hidden, "input_projection", [config.d_model], config, options)
        first = context = attention_context(tokens, tokens, config, options)
        bridge, done = hidden, 0
        for index, block in enumerate(config.blocks):
            entry = Entry(hidden, hidden, context, context)
            if geometry[index].pooled:
                entry, tokens = _pool(hidden, tokens, geometry[index], config, options)
            states = _run_layers(entry, block, done, config, options)
            outputs += states
            hidden, context, done = states[-1], entry.later, done + block.params
            bridge = hidden if index == 0 else bridge
    return EncoderOutput(tuple(outputs), hidden, word_table, bridge, first)


def funnel_decoder(
    config: ModelConfig, encoded: EncoderOutput, options: GraphOptions, root: str = MODEL
) -> tf.Tensor:
    """[B, T, D] at the length of the input; a one-block encoder's output as it is."""
    if len(config.blocks) == 1:
        return encoded.output
    hidden = encoded.bridge + upsample(encoded.output, encoded.context.query_length, config)
    if config.decoder is None:
        return hidden
    entry = Entry(hidden, hidden, encoded.context, encoded.context)
    with root_scope(root, options), tf.variable_scope("decoder"):
        layers = _run_layers(entry, config.decoder, config.num_encoder_params, config, options)
        return layers[-1]


def funnel_summary(config: ModelConfig, encoded: EncoderOutput, options: GraphOptions) -> tf.Tensor:
    """What the encoder makes of the first position, ``tanh(W h[0] + b)``: [B, D]."""
    with root_scope(MODEL, options):
        scope = SUMMARY.removeprefix(f"{MODEL}/")
        return tf.tanh(dense(encoded.output[:, 0], scope, [config.d_model], config, options))


def upsample(hidden: tf.Tensor, length: int, config: ModelConfig) -> tf.Tensor:
    """Repeat every pooled position to ``length`` positions, cut or filled up with zeros."""
    start = 1 if config.separate_cls else 0
    batch, pooled, width = sizes(hidden)
    repeated = tf.tile(hidden[:, start:, None], [1, 1, config.upsample_factor, 1])
    filled = (pooled - start) * config.upsample_factor
    repeated = tf.reshape(repeated, [batch, filled, width])
    repeated = tf.concat([hidden[:, :start], repeated], 1)[:, :length]
    return tf.pad(repeated, [[0, 0], [0, max(0, length - start - filled)], [0, 0]])


def _run_layers(
    entry: Entry, depth: BlockSpec, first: int, config: ModelConfig, options: GraphOptions
) -> list[tf.Tensor]:
    """The outputs of layers ``layer_{first}`` and on, each run ``repeats`` times in a row.

    Only the very first application may see other keys than its own input: those of ``entry``.
    """
    outputs: list[tf.Tensor] = []
    hidden, key, context = entry.query, entry.key, entry.first
    for index in range(first, first + depth.params):
        for _ in range(depth.repeats):
            with tf.variable_scope(f"layer_{index}"):
                attended = relative_attention(hidden, key, context, config, options)
                hidden = feed_forward(attended, config, options)
            key, context = hidden, entry.later
            outputs.append(hidden)
    return outputs


def _pool(
    hidden: tf.Tensor,
    tokens: Tokens,
    geometry: BlockGeometry,
    config: ModelConfig,
    options: GraphOptions,
) -> tuple[Entry, Tokens]:
    """Enter a pooled block: residual and query pooled; keys too unless ``pool_q_only``."""
    pooled = pool_sequence(hidden, config, config.pooling_type)
    pooled_tokens = pool_tokens(tokens, geometry, config)
    context = attention_context(pooled_tokens, pooled_tokens, config, options)
    if not config.pool_q_only:
        return Entry(pooled, pooled, context, context), pooled_tokens
    first = attention_context(pooled_tokens, tokens, config, options)
    return Entry(pooled, hidden, first, context), pooled_tokens
