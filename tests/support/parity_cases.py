"""Random small models and batches for the parity tests (hypothesis strategies)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from funnel.config.model import ModelConfig
from reference_funnel import every_layer_sees_a_token, parse_blocks

VOCAB = 23
LENGTHS = (*range(1, 21), 24, 31, 32, 33)


def parity_settings(max_examples: int) -> settings:
    """Return settings with the same examples on every run.

    There is no deadline: torch's first call may take seconds.
    """
    return settings(max_examples=max_examples, deadline=None, derandomize=True, database=None)


@dataclass(frozen=True)
class Batch:
    """Inputs of a model [B, T]; mask and segment ids may be None."""

    input_ids: Tensor
    attention_mask: Tensor | None
    token_type_ids: Tensor | None

    @property
    def inputs(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        return self.input_ids, self.attention_mask, self.token_type_ids


@st.composite
def model_configs(draw: Any, oracle: str = "reference") -> ModelConfig:
    """Generate small configs; ``oracle="transformers"`` restricts them to that port."""
    depth = st.sampled_from(["1", "2", "1x2", "2x2"])
    depths = draw(st.lists(depth, min_size=1, max_size=4))
    if sum(params * repeats for params, repeats in parse_blocks("_".join(depths))) > 8:
        depths = ["1x2" if text == "2x2" else text for text in depths]
    decoders = ["0"] if len(depths) == 1 else ["0", "1", "2", "1x2"]
    extended = oracle == "reference"
    heads = draw(st.sampled_from([1, 2, 4]))
    width = draw(st.sampled_from([8, 12, 16]))
    return ModelConfig(
        vocab_size=VOCAB,
        d_model=width,
        d_embed=draw(st.sampled_from([width, 10])) if extended else width,
        n_head=heads,
        d_head=draw(st.sampled_from([2, 4, 5])),
        d_inner=draw(st.sampled_from([16, 20])),
        block_size="_".join(depths),
        decoder_size=draw(st.sampled_from(decoders if extended else decoders[:3])),
        ff_activation=draw(st.sampled_from(["gelu", "relu", "tanh"])),
        pooling_type=draw(st.sampled_from(["mean", "max"])),
        pooling_size=draw(st.sampled_from([2, 2, 3])) if extended else 2,
        pool_q_only=draw(st.booleans()),
        separate_cls=draw(st.booleans()),
        truncate_seq=draw(st.booleans()),
        rel_attn_type="rel_shift",
        dropout=0.0,
        dropatt=0.0,
        dropact=0.0,
    )


@st.composite
def batches(draw: Any, config: ModelConfig, masks: bool = True, segments: bool = True) -> Batch:
    """Generate ids, a padding mask (right, left, scattered or none) and segment ids (or none)."""
    size, length = draw(st.integers(1, 3)), draw(st.sampled_from(LENGTHS))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    ids = torch.randint(VOCAB, (size, length), generator=generator)
    types = None
    if not segments or draw(st.booleans()):
        # Sometimes a third id: [CLS] need not be the only token with segment id 2.
        types = torch.randint(draw(st.sampled_from([2, 3])), (size, length), generator=generator)
        types[:, 0] = 2
    mask = _mask(draw, config, size, length, generator) if masks else None
    return Batch(ids, mask, types)


def _mask(draw: Any, config: ModelConfig, size: int, length: int, generator: Any) -> Tensor | None:
    kind = draw(st.sampled_from(["none", "right", "left", "scattered"]))
    if kind == "none":
        return None
    real = torch.randint(1, length + 1, (size, 1), generator=generator)
    index = torch.arange(length)[None]
    if kind == "right":
        return (index < real).long()
    if kind == "left":
        mask = (index >= length - real).long()
    else:
        mask = (torch.rand(size, length, generator=generator) < 0.5).long()
    if not every_layer_sees_a_token(config, mask):
        mask[:, 0] = 1
    return mask


def random_tensors(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    """Return random weights by name that make every term of the model count.

    No bias is zero, no gain is one, and attention scores are of order one.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator, dtype=torch.float32)
        if name.endswith("lookup_table"):
            tensors[name] = noise
        elif name.endswith("gamma"):
            tensors[name] = 1 + 0.2 * noise
        elif name.endswith("kernel"):
            fan_in = math.prod(shape[:-1]) if "/o/" in name else shape[0]
            tensors[name] = 0.8 * noise / math.sqrt(fan_in)
        else:
            tensors[name] = 0.3 * noise
    return tensors


def doubles(tensors: Mapping[str, Tensor], requires_grad: bool = False) -> dict[str, Tensor]:
    """Return float64 copies for the reference."""
    return {
        name: tensor.detach().double().requires_grad_(requires_grad)
        for name, tensor in tensors.items()
    }
