"""The Funnel-Transformer: an encoder that shortens the sequence, a decoder that restores it.

Dai et al. 2020, *Funnel-Transformer: Filtering out Sequential Redundancy for Efficient Language
Processing*, sections 2.2 (encoder) and 2.3 (decoder).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from funnel.config.geometry import BlockGeometry, encoder_geometry
from funnel.config.model import ModelConfig
from funnel_torch.kernels.linear import Dense
from funnel_torch.models.attention_inputs import (
    AttentionContext,
    ContextBuilder,
    Tokens,
    pool_sequence,
    pool_tokens,
)
from funnel_torch.models.initialization import initialize
from funnel_torch.models.layers import Embeddings, FunnelLayer
from funnel_torch.models.pretrained import PretrainedModel


class FunnelOutput(NamedTuple):
    """What a model without a head returns.

    Attributes:
        last_hidden_state: the decoder's output [B, T, D]; of an encoder alone, its own.
        encoder_last_hidden_state: [B, T', D], T' the pooled length.
        hidden_states: if asked for, the embedding output [B, T, E] and the output of every
            executed encoder layer, else None.
    """

    last_hidden_state: Tensor
    encoder_last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...] | None = None


class Stream(NamedTuple):
    """The input of a stack of layers.

    Attributes:
        hidden: residual and query of the first layer [B, Tq, D].
        key: what the first layer attends to [B, Tk, D]; ``hidden`` itself if not pooled.
        entry: context of the first layer.
        context: context of all later layers.
    """

    hidden: Tensor
    key: Tensor
    entry: AttentionContext
    context: AttentionContext


class EncoderOutput(NamedTuple):
    """The encoder's result and what the decoder needs of its way there.

    Attributes:
        hidden: [B, T', D].
        bridge: output of the first block [B, T, D], the decoder's skip connection.
        context: the first block's context; the decoder works on the same positions.
        layers: outputs of all executed layers, empty unless asked for.
    """

    hidden: Tensor
    bridge: Tensor
    context: AttentionContext
    layers: tuple[Tensor, ...]


def run_layers(
    layers: Iterable[FunnelLayer],
    repeats: int,
    stream: Stream,
    keep: list[Tensor] | None = None,
) -> Tensor:
    """Run each layer ``repeats`` times in a row (shared weights); outputs are added to ``keep``.

    Only the very first application may see other keys than its own input: those of ``stream``.
    """
    hidden, key, context = stream.hidden, stream.key, stream.entry
    for layer in layers:
        for _ in range(repeats):
            hidden = layer(hidden, key, context)
            key, context = hidden, stream.context
            if keep is not None:
                keep.append(hidden)
    return hidden


class Encoder(nn.Module):
    """Blocks of layers; every block after the first begins by pooling."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        if config.d_embed != config.d_model:
            self.input_projection = Dense(config.d_embed, config.d_model)
        self.layers = nn.ModuleList(FunnelLayer(config) for _ in range(config.num_encoder_params))
        self._contexts = ContextBuilder(config)

    def forward(
        self,
        embedded: Tensor,
        attention_mask: Tensor | None,
        segment_ids: Tensor | None,
        keep_layers: bool = False,
    ) -> EncoderOutput:
        """Encode [B, T, E] embeddings; ``attention_mask`` [B, T] float, 1 for a real token."""
        config = self.config
        hidden = embedded
        if config.d_embed != config.d_model:
            hidden = self.input_projection(hidden)
        geometry = encoder_geometry(config, hidden.shape[1])
        tokens = Tokens(geometry[0], attention_mask, segment_ids)
        context = self._context(tokens, tokens, hidden)
        first_context, bridge = context, hidden
        kept: list[Tensor] | None = [] if keep_layers else None
        done = 0
        for index, block in enumerate(config.blocks):
            stream = Stream(hidden, hidden, context, context)
            if geometry[index].pooled:
                stream, tokens = self._pool(hidden, tokens, geometry[index])
            layers = self.layers[done : done + block.params]
            hidden, context = run_layers(layers, block.repeats, stream, kept), stream.context
            done += block.params
            bridge = hidden if index == 0 else bridge
        return EncoderOutput(hidden, bridge, first_context, tuple(kept or ()))

    def _pool(
        self, hidden: Tensor, tokens: Tokens, geometry: BlockGeometry
    ) -> tuple[Stream, Tokens]:
        """Enter a pooled block: residual and query pooled; keys too unless ``pool_q_only``."""
        pooled = pool_sequence(hidden, self.config, self.config.pooling_type)
        pooled_tokens = pool_tokens(tokens, geometry, self.config)
        context = self._context(pooled_tokens, pooled_tokens, pooled)
        if not self.config.pool_q_only:
            return Stream(pooled, pooled, context, context), pooled_tokens
        entry = self._context(pooled_tokens, tokens, pooled)
        return Stream(pooled, hidden, entry, context), pooled_tokens

    def _context(self, query: Tokens, key: Tokens, hidden: Tensor) -> AttentionContext:
        dropout = self.config.dropout if self.training else 0.0
        return self._contexts.build(query, key, hidden, dropout)


class Decoder(nn.Module):
    """Up-sampling, the skip connection, and a few layers at full length."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(FunnelLayer(config) for _ in range(config.num_decoder_params))

    def forward(self, encoded: EncoderOutput) -> Tensor:
        """[B, T, D] at the length of the input; a one-block encoder's output as it is."""
        config = self.config
        if len(config.blocks) == 1:
            return encoded.hidden
        hidden = encoded.bridge + upsample(encoded.hidden, encoded.bridge.shape[1], config)
        if config.decoder is None:
            return hidden
        stream = Stream(hidden, hidden, encoded.context, encoded.context)
        return run_layers(self.layers, config.decoder.repeats, stream)


def upsample(hidden: Tensor, length: int, config: ModelConfig) -> Tensor:
    """Repeat every pooled position to ``length`` positions, cut or filled up with zeros."""
    cls = hidden[:, :1]
    pooled = hidden[:, 1:] if config.separate_cls else hidden
    repeated = pooled.repeat_interleave(config.upsample_factor, dim=1)
    if config.separate_cls:
        repeated = torch.cat([cls, repeated], 1)
    if torch.jit.is_tracing():
        # A graph for every length cannot branch on one.
        repeated = F.pad(repeated, (0, 0, 0, length))
    elif repeated.shape[1] < length:
        return F.pad(repeated, (0, 0, 0, length - repeated.shape[1]))
    return repeated[:, :length]


class Backbone(PretrainedModel):
    """Embeddings and encoder, which both models share."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> tuple[EncoderOutput, tuple[Tensor, ...] | None]:
        """Embed and encode; the second result is None unless hidden states are asked for."""
        embedded = self.embeddings(input_ids, token_type_ids)
        mask = None if attention_mask is None else attention_mask.float()
        encoded = self.encoder(embedded, mask, token_type_ids, output_hidden_states)
        return encoded, (embedded, *encoded.layers) if output_hidden_states else None


class FunnelEncoder(Backbone):
    """Embeddings and encoder: what classification needs, and all that released .pt files hold."""

    architecture = "FunnelBaseModel"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        initialize(self, config)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> FunnelOutput:
        """Encode token ids.

        Args:
            input_ids: [B, T].
            attention_mask: [B, T], 1 for a real token, 0 for padding; None hides nothing.
            token_type_ids: [B, T], 0 first segment, 1 second, 2 [CLS]; None leaves the segment
                term out.
            output_hidden_states: also return the embedding and every layer's output.
        """
        inputs = (input_ids, attention_mask, token_type_ids)
        encoded, hidden_states = self.encode(*inputs, output_hidden_states)
        return FunnelOutput(encoded.hidden, encoded.hidden, hidden_states)


class FunnelModel(Backbone):
    """Encoder and decoder: one output per input token."""

    architecture = "FunnelModel"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.decoder = Decoder(config)
        initialize(self, config)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> FunnelOutput:
        """Encode and decode; arguments as in :meth:`FunnelEncoder.forward`."""
        inputs = (input_ids, attention_mask, token_type_ids)
        encoded, hidden_states = self.encode(*inputs, output_hidden_states)
        return FunnelOutput(self.decoder(encoded), encoded.hidden, hidden_states)
