"""transformers' Funnel as an oracle: which cases it can compute, its config and its weights.

The mapping of names is written out again, independently of ``funnel.checkpoints``, so that a
mistake in one of them shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import Tensor

from reference_funnel import parse_blocks, pooling_windows

_ACTIVATIONS = {"gelu": "gelu_new", "relu": "relu", "tanh": "tanh"}
_ATTENTION = {"rel_shift": "relative_shift", "factorized": "factorized"}
_LINEAR = {"q": "q_head", "k": "k_head", "v": "v_head", "o": "post_proj"}
_UNCHANGED = {"r_w_bias": "r_w_bias", "r_r_bias": "r_r_bias", "r_s_bias": "r_s_bias"}
_UNCHANGED |= {"seg_embed": "seg_embed", "r/kernel": "r_kernel"}


def can_compute(config: Any, length: int, decoder: bool) -> bool:
    """Return whether the port computes the paper's model for this case.

    Its relative embeddings assume that every block pools, and cover twice the length, which short
    inputs without truncation exceed; its decoder takes the skip connection from the hidden state
    numbered by the first block's *parameters*, and adds it even to a single block.
    """
    if config.rel_attn_type == "null" or config.d_embed != config.d_model:
        return False
    if config.pooling_size != 2:
        return False
    blocks = parse_blocks(config.block_size)
    if decoder and (len(blocks) == 1 or blocks[0][1] != 1):
        return False
    if decoder and any(repeats != 1 for _, repeats in parse_blocks(config.decoder_size)):
        return False
    num_distances = 2 * length
    for block in range(1, len(blocks)):
        if length <= (2 if config.separate_cls else 1):
            return False
        length = len(pooling_windows(config, length))
        # The largest distance that the port looks up in this block.
        if length * 2**block >= num_distances:
            return False
    return True


def hf_config(config: Any, **more: Any) -> transformers.FunnelConfig:
    """Return ``config`` as a transformers config without dropout."""
    blocks = parse_blocks(config.block_size)
    return transformers.FunnelConfig(
        vocab_size=config.vocab_size,
        block_sizes=[params for params, _ in blocks],
        block_repeats=[repeats for _, repeats in blocks],
        num_decoder_layers=sum(params for params, _ in parse_blocks(config.decoder_size)),
        d_model=config.d_model,
        n_head=config.n_head,
        d_head=config.d_head,
        d_inner=config.d_inner,
        hidden_act=_ACTIVATIONS[config.ff_activation],
        attention_type=_ATTENTION[config.rel_attn_type],
        layer_norm_eps=config.layer_norm_eps,
        pooling_type=config.pooling_type,
        separate_cls=config.separate_cls,
        truncate_seq=config.truncate_seq,
        pool_q_only=config.pool_q_only,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        **more,
    )


def hf_state(config: Any, tensors: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Map TensorFlow-named tensors of encoder and decoder to the port's names and layouts.

    The mapping is linear, so it applies to gradients as well as weights.
    """
    state: dict[str, Tensor] = {}
    homes = _layer_homes(config)
    for name, tensor in tensors.items():
        _, _, rest = name.partition("/")
        if rest == "input/word_embedding/lookup_table":
            state[f"{prefix}embeddings.word_embeddings.weight"] = tensor
        elif rest.startswith("input/layer_norm/"):
            state[f"{prefix}embeddings.layer_norm.{_norm_part(rest)}"] = tensor
        elif rest.startswith(("encoder/layer_", "decoder/layer_")):
            scope, kind, inner = rest.split("/", 1)[1].split("/", 2)
            home = f"{prefix}{homes[int(scope.removeprefix('layer_'))]}"
            part, value = _layer_part(config, kind, inner, tensor)
            state[f"{home}.{part}"] = value
    return state


def _layer_homes(config: Any) -> list[str]:
    blocks = parse_blocks(config.block_size)
    homes = [
        f"encoder.blocks.{block}.{layer}"
        for block, (params, _) in enumerate(blocks)
        for layer in range(params)
    ]
    decoder = sum(params for params, _ in parse_blocks(config.decoder_size))
    return homes + [f"decoder.layers.{layer}" for layer in range(decoder)]


def _norm_part(name: str) -> str:
    return "weight" if name.endswith("/gamma") else "bias"


def _layer_part(config: Any, kind: str, inner: str, tensor: Tensor) -> tuple[str, Tensor]:
    if inner.startswith("layer_norm/"):
        home = "attention" if kind == "rel_attn" else "ffn"
        return f"{home}.layer_norm.{_norm_part(inner)}", tensor
    if kind == "rel_attn" and inner in _UNCHANGED:
        return f"attention.{_UNCHANGED[inner]}", tensor
    layer, _, kernel_or_bias = inner.partition("/")
    if kind == "ff":
        home = f"ffn.linear_{layer.removeprefix('layer_')}"
        return (
            (f"{home}.weight", tensor.T) if kernel_or_bias == "kernel" else (f"{home}.bias", tensor)
        )
    home = f"attention.{_LINEAR[layer]}"
    if kernel_or_bias == "bias":
        return f"{home}.bias", tensor.reshape(-1)
    rows = config.d_model if layer != "o" else config.n_head * config.d_head
    return f"{home}.weight", tensor.reshape(rows, -1).T


def hf_model(
    kind: type, config: Any, state: Mapping[str, Tensor], dtype: torch.dtype, **more: Any
) -> torch.nn.Module:
    """Return a transformers model of class ``kind`` with exactly the weights ``state``."""
    model = kind(hf_config(config, **more)).to(dtype).eval()
    missing, unexpected = model.load_state_dict(dict(state), strict=False)
    assert not unexpected, unexpected
    # Tied weights may be left out.
    assert all("lm_head" in name for name in missing), missing
    return model
