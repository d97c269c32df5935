"""The building blocks of encoder and decoder: embeddings, feed-forward and one whole layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from funnel.config.model import MAX_ABSOLUTE_POSITIONS, ModelConfig
from funnel.utils.errors import DataError
from funnel_torch.kernels.dropout import Dropout
from funnel_torch.kernels.linear import Dense, gelu_linear
from funnel_torch.models.attention import RelativeAttention
from funnel_torch.models.attention_inputs import AttentionContext

# Size of the absolute position table of the Transformer baseline (rel_attn_type "null").


def gelu(x: Tensor) -> Tensor:
    """GELU in its tanh approximation (a function: copies of a model share it)."""
    return F.gelu(x, approximate="tanh")


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": gelu,
    "relu": F.relu,
    "tanh": torch.tanh,
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The function of a config's ``ff_activation``."""
    return _ACTIVATIONS[name]


class Embeddings(nn.Module):
    """Token embeddings, normalised; the Transformer baseline adds positions and segments."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.d_embed)
        self.absolute = config.rel_attn_type == "null"
        if self.absolute:
            self.position_embeddings = nn.Embedding(MAX_ABSOLUTE_POSITIONS, config.d_embed)
            self.segment_embeddings = nn.Embedding(2, config.d_embed)
        self.layer_norm = nn.LayerNorm(config.d_embed, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.dropout)

    def forward(self, input_ids: Tensor, segment_ids: Tensor | None = None) -> Tensor:
        """[B, T] ids to [B, T, d_embed].

        Raises:
            DataError: the baseline got more tokens than it has positions.
        """
        hidden = self.word_embeddings(input_ids)
        if self.absolute:
            length = input_ids.shape[1]
            if length > MAX_ABSOLUTE_POSITIONS:
                raise DataError(
                    f"input of {length} tokens: a model with absolute positions "
                    f"(rel_attn_type null) takes at most {MAX_ABSOLUTE_POSITIONS}"
                )
            hidden = hidden + self.position_embeddings.weight[:length]
            if segment_ids is not None:
                hidden = hidden + self.segment_embeddings(segment_ids % 2)
        return self.dropout(self.layer_norm(hidden))


class FeedForward(nn.Module):
    """``LayerNorm(x + W2 act(W1 x + b1) + b2)`` with dropout after both products."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.linear_1 = Dense(config.d_model, config.d_inner)
        self.linear_2 = Dense(config.d_inner, config.d_model)
        self.layer_norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_eps)
        self.activation = activation(config.ff_activation)
        self.activation_dropout = Dropout(config.dropact)
        self.dropout = Dropout(config.dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        return self.layer_norm(hidden + self.dropout(self._transform(hidden)))

    def _transform(self, hidden: Tensor) -> Tensor:
        drops = self.training and self.activation_dropout.p > 0
        if self.activation is not gelu:
            inner = self.activation(self.linear_1(hidden))
        elif torch.is_grad_enabled() and isinstance(self.linear_2, Dense) and not drops:
            inner = self.linear_1(hidden)
            return gelu_linear(inner, self.linear_2.weight, self.linear_2.bias)
        else:
            inner = self.linear_1(hidden, gelu=True)
        return self.linear_2(self.activation_dropout(inner))


class FunnelLayer(nn.Module):
    """Attention, then feed-forward, each normalised after its residual.

    ``recompute``: see :func:`recompute_layers`.
    """

    recompute = False

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = RelativeAttention(config)
        self.ffn = FeedForward(config)

    def forward(self, query: Tensor, key: Tensor, context: AttentionContext) -> Tensor:
        """[B, Tq, D] and [B, Tk, D] to [B, Tq, D]; the residual is the query's."""
        if self.recompute and self.training:
            return checkpoint(self._compute, query, key, context, use_reentrant=False)
        return self._compute(query, key, context)

    def _compute(self, query: Tensor, key: Tensor, context: AttentionContext) -> Tensor:
        return self.ffn(self.attention(query, key, context))


def recompute_layers(model: nn.Module) -> None:
    """Make every layer in ``model`` trade time for memory in training (gradient checkpointing).

    A layer keeps its inputs alone; its inside is computed again for the backward pass, with the
    same dropout. Results stay the same.
    """
    for module in model.modules():
        if isinstance(module, FunnelLayer):
            module.recompute = True
