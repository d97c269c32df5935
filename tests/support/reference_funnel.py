"""Funnel-Transformer as plainly as it can be written: the oracle of the parity tests.

Float64, no modules, no caches, no algebra: every formula stands as in Dai et al. 2020 (sections
2.2, 2.3, appendix A.2) and our notes on it, position scores come straight from the distance of the
two positions, and pooling is a list of windows. Parameters are a dict of TensorFlow variable
names. Nothing of the package is used but the settings of the config object, so an error in
``funnel`` or ``funnel_torch`` cannot hide here. PyTorch serves as a float64 NumPy with gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

Params = Mapping[str, Tensor]

CLS_SEGMENT = 2
ABSOLUTE_POSITIONS = 512


class ReferenceOutput(NamedTuple):
    """Everything the model computes; hidden states as [B, T, D]."""

    embedding: Tensor
    hidden_states: tuple[Tensor, ...]
    encoder: Tensor
    decoder: Tensor


@dataclass(frozen=True)
class Side:
    """The queries or the keys of a layer: what attention must know besides their vectors."""

    positions: Sequence[int]
    is_pad: Tensor | None
    segments: Tensor | None


def parse_blocks(text: str) -> list[tuple[int, int]]:
    """``"6_3x2"`` as [(6, 1), (3, 2)]: parameter sets and repeats of every block."""
    if text == "0":
        return []
    parts = [part.split("x") for part in text.split("_")]
    return [(int(part[0]), int(part[1]) if len(part) == 2 else 1) for part in parts]


def parameter_shapes(config: Any, decoder: bool = True) -> dict[str, tuple[int, ...]]:
    """Names and shapes of encoder (and decoder) variables, without heads."""
    wide, embed = config.d_model, config.d_embed
    shapes: dict[str, tuple[int, ...]] = {
        "model/input/word_embedding/lookup_table": (config.vocab_size, embed),
        "model/input/layer_norm/beta": (embed,),
        "model/input/layer_norm/gamma": (embed,),
    }
    if config.rel_attn_type == "null":
        shapes["model/input/position_embedding/lookup_table"] = (ABSOLUTE_POSITIONS, embed)
        shapes["model/input/segment_embedding/lookup_table"] = (2, embed)
    if embed != wide:
        shapes["model/encoder/input_projection/kernel"] = (embed, wide)
        shapes["model/encoder/input_projection/bias"] = (wide,)
    encoder_layers = sum(params for params, _ in parse_blocks(config.block_size))
    decoder_layers = sum(params for params, _ in parse_blocks(config.decoder_size))
    for k in range(encoder_layers):
        shapes |= layer_shapes(config, f"model/encoder/layer_{k}")
    for k in range(encoder_layers, encoder_layers + decoder_layers if decoder else 0):
        shapes |= layer_shapes(config, f"model/decoder/layer_{k}")
    return shapes


def layer_shapes(config: Any, scope: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of one layer's variables."""
    wide, heads, inner = config.d_model, (config.n_head, config.d_head), config.d_inner
    attention = {
        "q/kernel": (wide, *heads),
        "k/kernel": (wide, *heads),
        "k/bias": heads,
        "v/kernel": (wide, *heads),
        "v/bias": heads,
        "o/kernel": (*heads, wide),
        "o/bias": (wide,),
        "r_w_bias": heads,
        "layer_norm/beta": (wide,),
        "layer_norm/gamma": (wide,),
    }
    if config.rel_attn_type != "null":
        attention |= {"r/kernel": (wide, *heads), "r_r_bias": heads, "r_s_bias": heads}
        attention["seg_embed"] = (2, *heads)
    feed_forward = {
        "layer_1/kernel": (wide, inner),
        "layer_1/bias": (inner,),
        "layer_2/kernel": (inner, wide),
        "layer_2/bias": (wide,),
        "layer_norm/beta": (wide,),
        "layer_norm/gamma": (wide,),
    }
    shapes: dict[str, tuple[int, ...]] = {}
    shapes |= {f"{scope}/rel_attn/{name}": shape for name, shape in attention.items()}
    shapes |= {f"{scope}/ff/{name}": shape for name, shape in feed_forward.items()}
    return shapes


# --- small functions ---------------------------------------------------------------------------


def dense(params: Params, scope: str, x: Tensor) -> Tensor:
    """``x @ kernel`` plus the bias, if there is one."""
    y = x @ params[f"{scope}/kernel"]
    bias = params.get(f"{scope}/bias")
    return y if bias is None else y + bias


def layer_norm(params: Params, scope: str, x: Tensor, eps: float) -> Tensor:
    """Normalise the last axis to mean 0 and variance 1, then gain and offset."""
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    normed = (x - mean) / torch.sqrt(variance + eps)
    return normed * params[f"{scope}/gamma"] + params[f"{scope}/beta"]


def gelu(x: Tensor) -> Tensor:
    """The tanh approximation."""
    return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


def activate(name: str, x: Tensor) -> Tensor:
    """``ff_activation`` by name."""
    if name == "gelu":
        return gelu(x)
    return torch.tanh(x) if name == "tanh" else torch.where(x > 0, x, torch.zeros_like(x))


def encode_distance(distance: Tensor, width: int) -> Tensor:
    """R(x) = [sin(x f), cos(x f)] for every distance: [...] -> [..., width]."""
    half = width // 2
    frequency = torch.tensor([10000.0 ** (-m / half) for m in range(half)], dtype=torch.float64)
    angle = distance.to(torch.float64)[..., None] * frequency
    return torch.cat([torch.sin(angle), torch.cos(angle)], dim=-1)


# --- attention ---------------------------------------------------------------------------------


def attention_scores(
    config: Any, params: Params, scope: str, query: Tensor, key: Tensor, sides: tuple[Side, Side]
) -> Tensor:
    """Content, position and segment scores with padded keys put out of reach: [B, N, Tq, Tk]."""
    scale = config.d_head**-0.5
    rows, columns = sides
    q = scale * torch.einsum("bid,dnh->binh", query, params[f"{scope}/q/kernel"])
    k = torch.einsum("bjd,dnh->bjnh", key, params[f"{scope}/k/kernel"])
    k = k + params[f"{scope}/k/bias"]
    score = torch.einsum("binh,bjnh->bnij", q + scale * params[f"{scope}/r_w_bias"], k)
    if config.rel_attn_type != "null":
        relative = position_scores(params, scope, q, scale, rows, columns)
        if columns.segments is not None:
            relative = relative + segment_scores(params, scope, q, scale, rows, columns)
        if config.separate_cls:
            keep = torch.ones(len(rows.positions), len(columns.positions), dtype=torch.float64)
            keep[0, :] = 0
            keep[:, 0] = 0
            relative = relative * keep
        score = score + relative
    if columns.is_pad is not None:
        score = score - 1e6 * columns.is_pad.to(torch.float64)[:, None, None, :]
    return score


def position_scores(
    params: Params, scope: str, q: Tensor, scale: float, rows: Side, columns: Side
) -> Tensor:
    """(Q + s r_r_bias) . (Wr R(i - j)) for every pair of positions: [B, N, Tq, Tk]."""
    kernel = params[f"{scope}/r/kernel"]
    distance = torch.tensor([[i - j for j in columns.positions] for i in rows.positions])
    r = torch.einsum("ijd,dnh->ijnh", encode_distance(distance, kernel.shape[0]), kernel)
    return torch.einsum("binh,ijnh->bnij", q + scale * params[f"{scope}/r_r_bias"], r)


def segment_scores(
    params: Params, scope: str, q: Tensor, scale: float, rows: Side, columns: Side
) -> Tensor:
    """seg_embed[1] for pairs in one segment, seg_embed[0] for others: [B, N, Tq, Tk]."""
    first, second = rows.segments[:, :, None], columns.segments[:, None, :]
    same = (first == second) | (first == CLS_SEGMENT) | (second == CLS_SEGMENT)
    biased = q + scale * params[f"{scope}/r_s_bias"]
    both = torch.einsum("binh,snh->sbni", biased, params[f"{scope}/seg_embed"])
    return torch.where(same[:, None], both[1][..., None], both[0][..., None])


def run_layer(
    config: Any, params: Params, scope: str, query: Tensor, key: Tensor, sides: tuple[Side, Side]
) -> Tensor:
    """One layer: attention of ``query`` over ``key``, then the feed-forward network."""
    eps, attention, feed = config.layer_norm_eps, f"{scope}/rel_attn", f"{scope}/ff"
    score = attention_scores(config, params, attention, query, key, sides)
    v = torch.einsum("bjd,dnh->bjnh", key, params[f"{attention}/v/kernel"])
    v = v + params[f"{attention}/v/bias"]
    mixed = torch.einsum("bnij,bjnh->binh", torch.softmax(score, dim=-1), v)
    out = torch.einsum("binh,nhd->bid", mixed, params[f"{attention}/o/kernel"])
    out = out + params[f"{attention}/o/bias"]
    x = layer_norm(params, f"{attention}/layer_norm", query + out, eps)
    inner = activate(config.ff_activation, dense(params, f"{feed}/layer_1", x))
    x = x + dense(params, f"{feed}/layer_2", inner)
    return layer_norm(params, f"{feed}/layer_norm", x, eps)


# --- pooling -----------------------------------------------------------------------------------


def pooling_windows(config: Any, length: int) -> list[list[int]]:
    """The source positions of every pooled position."""
    size, indices = config.pooling_size, list(range(length))
    if not config.separate_cls:
        return [indices[start : start + size] for start in range(0, length, size)]
    rest = indices[1:-1] if config.truncate_seq else indices[1:]
    return [[0]] + [rest[start : start + size] for start in range(0, len(rest), size)]


def pool_hidden(config: Any, hidden: Tensor, windows: list[list[int]]) -> Tensor:
    """Mean or maximum over each window: [B, T, D] -> [B, T', D]."""
    if config.pooling_type == "mean":
        return torch.stack([hidden[:, window].mean(1) for window in windows], dim=1)
    return torch.stack([hidden[:, window].amax(1) for window in windows], dim=1)


def pool_side(config: Any, side: Side, windows: list[list[int]], block: int) -> Side:
    """Positions, padding and segments on entering ``block``."""
    firsts = [window[0] for window in windows]
    positions = [side.positions[first] for first in firsts]
    if config.separate_cls:
        positions[0] = 1 - config.pooling_size**block
    is_pad, segments = side.is_pad, side.segments
    if is_pad is not None:
        is_pad = torch.stack([is_pad[:, window].all(1) for window in windows], dim=1)
    if segments is not None:
        segments = segments[:, firsts]
    return Side(positions, is_pad, segments)


# --- the model ---------------------------------------------------------------------------------


def embed(config: Any, params: Params, input_ids: Tensor, segments: Tensor | None) -> Tensor:
    """Table lookup (and absolute positions, for the baseline), LayerNorm: [B, T, d_embed]."""
    x = params["model/input/word_embedding/lookup_table"][input_ids]
    if config.rel_attn_type == "null":
        x = x + params["model/input/position_embedding/lookup_table"][: input_ids.shape[1]]
        if segments is not None:
            x = x + params["model/input/segment_embedding/lookup_table"][segments % 2]
    return layer_norm(params, "model/input/layer_norm", x, config.layer_norm_eps)


def upsample(config: Any, hidden: Tensor, length: int) -> Tensor:
    """Repeat every position of the last block, cut or fill with zeros: [B, length, D]."""
    factor = config.pooling_size ** (len(parse_blocks(config.block_size)) - 1)
    sources = [index for index in range(hidden.shape[1]) for _ in range(factor)]
    if config.separate_cls:
        sources = sources[factor - 1 :]
    sources = sources[:length]
    missing = length - len(sources)
    zeros = hidden.new_zeros(hidden.shape[0], missing, hidden.shape[2])
    return torch.cat([hidden[:, sources], zeros], dim=1)


def enter_block(
    config: Any, hidden: Tensor, side: Side, block: int
) -> tuple[tuple[Tensor, Tensor, tuple[Side, Side]], Side]:
    """What a pooled block's first layer attends from and to, and the side of all later ones."""
    windows = pooling_windows(config, hidden.shape[1])
    query = pool_hidden(config, hidden, windows)
    pooled = pool_side(config, side, windows, block)
    if config.pool_q_only:
        return (query, hidden, (pooled, side)), pooled
    return (query, query, (pooled, pooled)), pooled


def run_model(
    config: Any,
    params: Params,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    token_type_ids: Tensor | None = None,
) -> ReferenceOutput:
    """The whole model on ``input_ids`` [B, T]; ``attention_mask`` is 1 at real tokens.

    ``decoder`` of the result is the decoder's output if ``params`` hold one, the up-sampled sum
    without one, and the encoder's output for a single block.
    """
    is_pad = None if attention_mask is None else attention_mask == 0
    original = side = Side(list(range(input_ids.shape[1])), is_pad, token_type_ids)
    embedding = embed(config, params, input_ids, token_type_ids)
    hidden = embedding
    if config.d_embed != config.d_model:
        hidden = dense(params, "model/encoder/input_projection", hidden)
    states: list[Tensor] = []
    blocks, first_layer, skip = parse_blocks(config.block_size), 0, hidden
    for block, (layers, repeats) in enumerate(blocks):
        first = None
        if block > 0 and hidden.shape[1] > (2 if config.separate_cls else 1):
            first, side = enter_block(config, hidden, side, block)
        for layer in range(first_layer, first_layer + layers):
            for _ in range(repeats):
                query, key, sides = first or (hidden, hidden, (side, side))
                hidden = run_layer(
                    config, params, f"model/encoder/layer_{layer}", query, key, sides
                )
                states.append(hidden)
                first = None
        first_layer += layers
        if block == 0:
            skip = hidden
    decoded = hidden
    if len(blocks) > 1:
        decoded = upsample(config, hidden, input_ids.shape[1]) + skip
    for layers, repeats in parse_blocks(config.decoder_size):
        for layer in range(first_layer, first_layer + layers):
            for _ in range(repeats):
                scope = f"model/decoder/layer_{layer}"
                decoded = run_layer(config, params, scope, decoded, decoded, (original, original))
    return ReferenceOutput(embedding, tuple(states), hidden, decoded)


def every_layer_sees_a_token(config: Any, attention_mask: Tensor) -> bool:
    """Whether each row keeps a real key in every block (its softmax is noise otherwise)."""
    side = Side(list(range(attention_mask.shape[1])), attention_mask == 0, None)
    seen = bool((~side.is_pad).any(1).all())
    for block in range(1, len(parse_blocks(config.block_size))):
        length = len(side.positions)
        if length > (2 if config.separate_cls else 1):
            side = pool_side(config, side, pooling_windows(config, length), block)
            seen = seen and bool((~side.is_pad).any(1).all())
    return seen
