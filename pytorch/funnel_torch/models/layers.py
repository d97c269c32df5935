"""Building blocks of encoder and decoder: embeddings, feed-forward and the Transformer layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from funnel.config.model import MAX_ABSOLUTE_POSITIONS, ModelConfig
from funnel.utils.errors import DataError
from funnel_torch.kernels.dropout import Dropout
from funnel_torch.kernels.linear import Linear, add_residual
from funnel_torch.kernels.quantization import Int8Linear
from funnel_torch.models.attention import RelativeAttention
from funnel_torch.models.attention_inputs import AttentionContext


def gelu(x: Tensor) -> Tensor:
    """Apply GELU in its tanh approximation."""
    return F.gelu(x, approximate="tanh")


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": gelu,
    "relu": F.relu,
    "tanh": torch.tanh,
}


def get_activation(name: str) -> Callable[[Tensor], Tensor]:
    """Return the function for a config's ``ff_activation``."""
    return _ACTIVATIONS[name]


def select_positions(hidden: Tensor, index: Tensor) -> Tensor:
    """Return the rows ``index`` [B, S] of [B, T, D]: [B, S, D]."""
    return hidden.gather(1, index[..., None].expand(-1, -1, hidden.shape[-1]))


class Embeddings(nn.Module):
    """Token embeddings, layer normalization and dropout.

    The Transformer baseline (``rel_attn_type`` "null") adds absolute position embeddings, and
    segment embeddings where segment ids are given.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.d_embed)
        self.absolute = config.rel_attn_type == "null"
        if self.absolute:
            self.position_embeddings = nn.Embedding(MAX_ABSOLUTE_POSITIONS, config.d_embed)
            self.segment_embeddings = nn.Embedding(2, config.d_embed)
        self.layer_norm = nn.LayerNorm(config.d_embed, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.dropout)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Embed ids [B, T] as [B, T, d_embed].

        Raises:
            DataError: the input of the baseline is longer than its position embeddings; on a CPU
                also: an id is not one of the vocabulary.
        """
        hidden = self._embed_words(input_ids)
        if self.absolute:
            length = input_ids.shape[1]
            if length > MAX_ABSOLUTE_POSITIONS:
                raise DataError(
                    f"input of {length} tokens: a model with absolute positions "
                    f"(rel_attn_type null) takes at most {MAX_ABSOLUTE_POSITIONS}"
                )
            hidden = hidden + self.position_embeddings.weight[:length]
            if token_type_ids is not None:
                # [CLS] has segment id 2 and takes the embedding of the first segment.
                hidden = hidden + self.segment_embeddings(token_type_ids % 2)
        return self.dropout(self.layer_norm(hidden))

    def _embed_words(self, input_ids: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return self.word_embeddings(input_ids)
        try:
            return self.word_embeddings(input_ids)
        except IndexError:
            # Only now: a check before would make a GPU wait for every batch.
            last = self.word_embeddings.num_embeddings - 1
            raise DataError(
                f"token ids from {int(input_ids.min())} to {int(input_ids.max())}: the model's "
                f"vocabulary has the ids 0 to {last}; is the tokenizer that of another model?"
            ) from None


class FeedForward(nn.Module):
    """``LayerNorm(x + W2 act(W1 x + b1) + b2)`` with dropout after activation and output."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.linear_1 = Linear(config.d_model, config.d_inner)
        self.linear_2 = Linear(config.d_inner, config.d_model)
        self.layer_norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_eps)
        self.activation = get_activation(config.ff_activation)
        self.activation_dropout = Dropout(config.dropact)
        self.dropout = Dropout(config.dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map [B, T, D] to [B, T, D]."""
        is_gelu = self.activation is gelu
        is_step = self.training and torch.is_grad_enabled() and not self.activation_dropout.p
        if is_gelu and is_step and isinstance(self.linear_2, Linear):
            # Saves GELU's input only; with dropout in between its output is needed anyway.
            output = self.linear_2(self.linear_1(hidden), of_gelu=True)
            return self.layer_norm(self.dropout.add(hidden, output))
        # An adapter that wraps a layer adds to its output, which must not be that of GELU yet.
        if is_gelu and isinstance(self.linear_1, (Linear, Int8Linear)):
            inner = self.linear_1(hidden, gelu=True)
        else:
            inner = self.activation(self.linear_1(hidden))
        inner = self.activation_dropout(inner)
        return self.layer_norm(add_residual(self.linear_2, inner, hidden, self.dropout))


class FunnelLayer(nn.Module):
    """Transformer layer: attention, then feed-forward, each normalized after its residual.

    Attributes:
        recompute: whether training recomputes the layer in the backward pass; see
            :func:`recompute_layers`.
    """

    recompute = False

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = RelativeAttention(config)
        self.ffn = FeedForward(config)

    def forward(self, query: Tensor, key: Tensor, context: AttentionContext) -> Tensor:
        """Map query [B, Tq, D] and key [B, Tk, D] to [B, Tq, D]; the residual is the query's."""
        if self.recompute and self.training:
            return checkpoint(self._compute, query, key, context, use_reentrant=False)
        return self._compute(query, key, context)

    def _compute(self, query: Tensor, key: Tensor, context: AttentionContext) -> Tensor:
        return self.ffn(self.attention(query, key, context))


def recompute_layers(model: nn.Module) -> None:
    """Turn on gradient checkpointing in every layer of ``model``.

    In training a layer then saves its inputs only, and is computed again in the backward pass with
    the same dropout: less memory for more time, with the same results.
    """
    for module in model.modules():
        if isinstance(module, FunnelLayer):
            module.recompute = True
