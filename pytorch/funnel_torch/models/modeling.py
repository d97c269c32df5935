"""The Funnel-Transformer: an encoder that shortens the sequence and a decoder that restores it.

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
from funnel_torch.kernels.linear import Linear
from funnel_torch.models.attention_inputs import (
    AttentionContext,
    ContextBuilder,
    SequenceInfo,
    pool_hidden,
    pool_sequence_info,
)
from funnel_torch.models.first_position import needed_length, reads_no_gradient
from funnel_torch.models.initialization import initialize
from funnel_torch.models.layers import Embeddings, FunnelLayer
from funnel_torch.models.pretrained import PretrainedModel


class FunnelOutput(NamedTuple):
    """Output of a model without a head.

    Attributes:
        last_hidden_state: output of the decoder [B, T, D]; of the encoder, if there is no decoder.
        encoder_last_hidden_state: [B, T', D], T' the pooled length.
        hidden_states: the embedding output [B, T, E] and the output of every executed encoder
            layer; None unless requested.
    """

    last_hidden_state: Tensor
    encoder_last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...] | None = None


class LayerStackInput(NamedTuple):
    """Input of a stack of layers.

    Attributes:
        hidden: residual and query of the first layer [B, Tq, D].
        key: keys and values of the first layer [B, Tk, D]; ``hidden`` itself if it pools nothing.
        first_context: context of the first layer.
        context: context of all later layers.
    """

    hidden: Tensor
    key: Tensor
    first_context: AttentionContext
    context: AttentionContext


class EncoderOutput(NamedTuple):
    """Output of the encoder and the inputs of the decoder.

    Attributes:
        hidden: [B, T', D].
        skip_connection: output of the first block [B, T, D], which the decoder adds.
        context: context of the first block; the decoder works on the same positions.
        layers: outputs of all executed layers, empty unless requested.
    """

    hidden: Tensor
    skip_connection: Tensor
    context: AttentionContext
    layers: tuple[Tensor, ...]


def run_layers(
    layers: Iterable[nn.Module],
    repeats: int,
    inputs: LayerStackInput,
    outputs: list[Tensor] | None = None,
    first_only: bool = False,
) -> Tensor:
    """Run each layer ``repeats`` times in a row (shared weights).

    Only the very first application may attend to keys other than its own input. With
    ``first_only`` the very last one computes the first position alone, [B, 1, D].

    Args:
        layers: :class:`FunnelLayer` modules.
        repeats: applications of each layer.
        inputs: hidden states and contexts.
        outputs: list to which the output of every application is appended.
    """
    hidden, key, context = inputs.hidden, inputs.key, inputs.first_context
    applied = [layer for layer in layers for _ in range(repeats)]
    for number, layer in enumerate(applied, start=1):
        if first_only and number == len(applied):
            hidden, context = hidden[:, :1], context.first_query()
        hidden = layer(hidden, key, context)
        key, context = hidden, inputs.context
        if outputs is not None:
            outputs.append(hidden)
    return hidden


class Encoder(nn.Module):
    """Blocks of layers; every block after the first pools the sequence on entry (section 2.2)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        if config.d_embed != config.d_model:
            self.input_projection = Linear(config.d_embed, config.d_model)
        self.layers = nn.ModuleList(FunnelLayer(config) for _ in range(config.num_encoder_params))
        self._contexts = ContextBuilder(config)
        self._uncut = config.replace(truncate_seq=False)

    def forward(
        self,
        embedded: Tensor,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
        output_layers: bool = False,
    ) -> EncoderOutput:
        """Encode embeddings.

        Args:
            embedded: [B, T, E].
            attention_mask: float [B, T], 1 for a real token.
            token_type_ids: [B, T].
            output_layers: also return the output of every executed layer.
        """
        return self._encode(embedded, attention_mask, token_type_ids, self.config, output_layers)

    def first_position(
        self, embedded: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None
    ) -> Tensor:
        """Return the first position of :meth:`forward`'s output, [B, 1, D].

        The inputs are cut to :func:`~funnel_torch.models.first_position.needed_length`.
        """
        inputs = (embedded, attention_mask, token_type_ids)
        return self._encode(*inputs, self._uncut, first_only=True).hidden

    def _encode(
        self,
        embedded: Tensor,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
        config: ModelConfig,
        output_layers: bool = False,
        first_only: bool = False,
    ) -> EncoderOutput:
        hidden = embedded
        if config.d_embed != config.d_model:
            hidden = self.input_projection(hidden)
        geometry = encoder_geometry(config, hidden.shape[1])
        sequence = SequenceInfo(geometry[0], attention_mask, token_type_ids)
        context = self._context(sequence, sequence, hidden)
        first_context, skip_connection = context, hidden
        outputs: list[Tensor] | None = [] if output_layers else None
        start = 0
        for index, block in enumerate(config.blocks):
            inputs = LayerStackInput(hidden, hidden, context, context)
            if geometry[index].pooled:
                inputs, sequence = self._pool(hidden, sequence, geometry[index], config)
            layers = self.layers[start : start + block.params]
            is_last = first_only and index == len(config.blocks) - 1
            hidden = run_layers(layers, block.repeats, inputs, outputs, is_last)
            context = inputs.context
            start += block.params
            skip_connection = hidden if index == 0 else skip_connection
        return EncoderOutput(hidden, skip_connection, first_context, tuple(outputs or ()))

    def _pool(
        self,
        hidden: Tensor,
        sequence: SequenceInfo,
        geometry: BlockGeometry,
        config: ModelConfig,
    ) -> tuple[LayerStackInput, SequenceInfo]:
        """Enter a block: pool residual and query, keys and values only without ``pool_q_only``.

        Keys and values at full length let the pooled positions attend to everything that pooling
        merges (the paper's "pool-query-only" design).
        """
        pooled = pool_hidden(hidden, config, config.pooling_type)
        pooled_sequence = pool_sequence_info(sequence, geometry, config)
        context = self._context(pooled_sequence, pooled_sequence, pooled)
        if not config.pool_q_only:
            return LayerStackInput(pooled, pooled, context, context), pooled_sequence
        first_context = self._context(pooled_sequence, sequence, pooled)
        return LayerStackInput(pooled, hidden, first_context, context), pooled_sequence

    def _context(self, query: SequenceInfo, key: SequenceInfo, hidden: Tensor) -> AttentionContext:
        dropout = self.config.dropout if self.training else 0.0
        return self._contexts.build(query, key, hidden, dropout)


class Decoder(nn.Module):
    """Up-sampling, the skip connection, and a few layers at full length (section 2.3)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(FunnelLayer(config) for _ in range(config.num_decoder_params))

    def forward(self, encoded: EncoderOutput) -> Tensor:
        """Return [B, T, D]; the output of an encoder of one block is returned unchanged."""
        config = self.config
        if len(config.blocks) == 1:
            return encoded.hidden
        skip_connection = encoded.skip_connection
        hidden = skip_connection + upsample(encoded.hidden, skip_connection.shape[1], config)
        if config.decoder is None:
            return hidden
        inputs = LayerStackInput(hidden, hidden, encoded.context, encoded.context)
        return run_layers(self.layers, config.decoder.repeats, inputs)


def upsample(hidden: Tensor, length: int, config: ModelConfig) -> Tensor:
    """Repeat every pooled position, then cut or zero-pad to ``length``: [B, T', D] to [B, T, D].

    A separate [CLS] was never pooled and is not repeated.
    """
    cls = hidden[:, :1]
    pooled = hidden[:, 1:] if config.separate_cls else hidden
    factor = config.upsample_factor
    if not (torch.jit.is_tracing() or torch.compiler.is_compiling()):
        # A sequence too short for every pooling needs fewer copies than the factor.
        factor = min(factor, length)
    repeated = pooled.repeat_interleave(factor, dim=1)
    if config.separate_cls:
        repeated = torch.cat([cls, repeated], 1)
    if torch.jit.is_tracing():
        # A traced graph must not branch on the sequence length.
        repeated = F.pad(repeated, (0, 0, 0, length))
    elif repeated.shape[1] < length:
        return F.pad(repeated, (0, 0, 0, length - repeated.shape[1]))
    return repeated[:, :length]


class Backbone(PretrainedModel):
    """Base class of the two models: embeddings and encoder."""

    has_head = False

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
        """Embed and encode.

        Returns:
            The encoder's output, and the hidden states of :class:`FunnelOutput` or None.
        """
        embedded = self.embeddings(input_ids, token_type_ids)
        mask = None if attention_mask is None else attention_mask.float()
        encoded = self.encoder(embedded, mask, token_type_ids, output_hidden_states)
        return encoded, (embedded, *encoded.layers) if output_hidden_states else None


class FunnelEncoder(Backbone):
    """The encoder alone, as classification uses it and released ``.pt`` files contain it."""

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
        first_only: bool = False,
    ) -> FunnelOutput:
        """Encode token ids.

        Args:
            input_ids: [B, T].
            attention_mask: [B, T], 1 for a real token, 0 for padding; None hides nothing.
            token_type_ids: [B, T], 0 first segment, 1 second, 2 [CLS]; None leaves the segment
                scores out.
            output_hidden_states: also return the embeddings and every layer's output.
            first_only: the caller reads the first position of the output only. In evaluation
                on a CPU the output is then that position alone, [B, 1, D].
        """
        inputs = (input_ids, attention_mask, token_type_ids)
        is_needed = output_hidden_states or not first_only
        if not is_needed and not self.training and reads_no_gradient(input_ids):
            length = needed_length(self.config, input_ids.shape[1], attention_mask)
            if length is not None:
                others = (None if x is None else x[:, :length] for x in inputs[1:])
                hidden = self._first_position(input_ids[:, :length], *others)
                return FunnelOutput(hidden, hidden)
        encoded, hidden_states = self.encode(*inputs, output_hidden_states)
        return FunnelOutput(encoded.hidden, encoded.hidden, hidden_states)

    def _first_position(
        self, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None
    ) -> Tensor:
        embedded = self.embeddings(input_ids, token_type_ids)
        mask = None if attention_mask is None else attention_mask.float()
        return self.encoder.first_position(embedded, mask, token_type_ids)


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
