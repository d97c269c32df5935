"""A model's parameters to and from tensors by their TensorFlow names and shapes.

Those names are what every checkpoint format is translated to (``funnel.checkpoints``), so this is
the only place that knows how modules store them: fused query/key/value matrices and
``nn.Linear``'s transposed layout.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from funnel.config.model import ModelConfig
from funnel.utils.errors import CheckpointError

# Module path (without "funnel.") to variable scope; a layer's own scope comes before it. Heads
# name theirs in ``variable_scopes``.
_SCOPES = {
    "embeddings.word_embeddings": "input/word_embedding",
    "embeddings.position_embeddings": "input/position_embedding",
    "embeddings.segment_embeddings": "input/segment_embedding",
    "embeddings.layer_norm": "input/layer_norm",
    "encoder.input_projection": "encoder/input_projection",
    "attention.out_proj": "rel_attn/o",
    "attention.layer_norm": "rel_attn/layer_norm",
    "ffn.linear_1": "ff/layer_1",
    "ffn.linear_2": "ff/layer_2",
    "ffn.layer_norm": "ff/layer_norm",
}
# Parameters that are not a module's weight or bias.
_VARIABLES = {
    "attention.k_bias": "rel_attn/k/bias",
    "attention.v_bias": "rel_attn/v/bias",
    "attention.r_w_bias": "rel_attn/r_w_bias",
    "attention.r_r_bias": "rel_attn/r_r_bias",
    "attention.r_s_bias": "rel_attn/r_s_bias",
    "attention.seg_embed": "rel_attn/seg_embed",
    "attention.r_kernel": "rel_attn/r/kernel",
}
# ELECTRA's second model, a module with its own config.
_GENERATOR = "generator."
_LAYER = re.compile(r"(encoder|decoder)\.layers\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Slot:
    """One TensorFlow variable inside a parameter.

    Attributes:
        name: the variable's name.
        shape: its shape.
        read: the (possibly transposed) view of a parameter's tensor that holds it; assigning to
            the view assigns to the parameter.
    """

    name: str
    shape: tuple[int, ...]
    read: Callable[[Tensor], Tensor]


@dataclass
class LoadReport:
    """What did not fit when tensors were loaded: names, and shapes where those differ."""

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    missing_parameters: list[str] = field(default_factory=list)


def slots(model: nn.Module, config: ModelConfig) -> Iterator[tuple[str, nn.Parameter, Slot]]:
    """Every parameter (by its own name) with each variable that it holds."""
    head_scopes = getattr(model, "variable_scopes", dict)()
    for name, parameter in model.named_parameters():
        root, sizes, path = "model", config, name.removeprefix("funnel.")
        if path.startswith(_GENERATOR):
            # As deep as the model, so layers are numbered alike, but not as wide.
            root, sizes, path = "generator", model.generator.config, path.removeprefix(_GENERATOR)
        prefix = f"{root}/"
        if layer := _LAYER.fullmatch(path):
            part, number, path = layer.groups()
            index = int(number) + (sizes.num_encoder_params if part == "decoder" else 0)
            prefix = f"{root}/{part}/layer_{index}/"
        for slot in _slots_of(path, parameter, sizes, head_scopes):
            yield name, parameter, Slot(prefix + slot.name, slot.shape, slot.read)


def _slots_of(
    path: str, parameter: Tensor, config: ModelConfig, head_scopes: Mapping[str, str]
) -> Iterator[Slot]:
    if path == "attention.qkv_weight":
        yield from _fused_slots(config)
        return
    shape = tuple(parameter.shape)
    variable = _VARIABLES.get(path) or head_scopes.get(path)
    if variable:
        yield Slot(variable, shape, _same)
        return
    module, _, kind = path.rpartition(".")
    scope = _SCOPES.get(module) or head_scopes[module]
    if module.endswith("layer_norm"):
        yield Slot(f"{scope}/{'gamma' if kind == 'weight' else 'beta'}", shape, _same)
    elif module.startswith("embeddings."):
        yield Slot(f"{scope}/lookup_table", shape, _same)
    elif module == "attention.out_proj" and kind == "weight":
        heads, size = config.n_head, config.d_head
        shape = (heads, size, config.d_model)
        yield Slot(f"{scope}/kernel", shape, lambda tensor: tensor.t().unflatten(0, shape[:2]))
    elif kind == "weight":
        yield Slot(f"{scope}/kernel", shape[::-1], lambda tensor: tensor.t())
    else:
        yield Slot(f"{scope}/bias", shape, _same)


def _fused_slots(config: ModelConfig) -> Iterator[Slot]:
    heads, size = config.n_head, config.d_head
    shape = (config.d_model, heads, size)
    for index, part in enumerate("qkv"):

        def read(tensor: Tensor, index: int = index) -> Tensor:
            rows = tensor.narrow(0, index * heads * size, heads * size)
            return rows.t().unflatten(1, (heads, size))

        yield Slot(f"rel_attn/{part}/kernel", shape, read)


def _same(tensor: Tensor) -> Tensor:
    return tensor


@torch.no_grad()
def export_tensors(model: nn.Module, config: ModelConfig | None = None) -> dict[str, np.ndarray]:
    """All parameters as float32 arrays under their TensorFlow names (views where possible).

    Raises:
        CheckpointError: the model was quantized, so that its float weights are gone.
    """
    if any(getattr(module, "is_int8", False) for module in model.modules()):
        raise CheckpointError("an int8 model cannot be saved: its float weights are gone")
    config = config or model.config
    return {
        slot.name: slot.read(parameter.detach().float().cpu()).numpy()
        for _, parameter, slot in slots(model, config)
    }


@torch.no_grad()
def import_tensors(
    model: nn.Module, tensors: Mapping[str, np.ndarray], config: ModelConfig | None = None
) -> LoadReport:
    """Copy ``tensors`` into the model and report what did not fit; nothing is raised.

    A mismatched tensor is left out; its parameter keeps its values.
    """
    report, expected = LoadReport(), set()
    for parameter_name, parameter, slot in slots(model, config or model.config):
        expected.add(slot.name)
        array = tensors.get(slot.name)
        if array is None:
            report.missing.append(slot.name)
            report.missing_parameters.append(parameter_name)
        elif array.shape != slot.shape:
            found, wanted = list(array.shape), list(slot.shape)
            report.mismatched.append(f"{slot.name} {found} instead of {wanted}")
        else:
            slot.read(parameter).copy_(_as_tensor(array))
    report.unexpected = sorted(set(tensors) - expected)
    return report


def _as_tensor(array: np.ndarray) -> Tensor:
    # Read-only arrays (memory-mapped files) are only ever read here; torch cannot know.
    if not array.flags.writeable:
        array = np.array(array)
    return torch.from_numpy(array)
