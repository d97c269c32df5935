"""Mapping between a model's parameters and the canonical (TensorFlow) variables of a checkpoint.

Every checkpoint format is translated to TensorFlow's names and shapes (``funnel.checkpoints``).
This module is the only place that relates them to the layout of the PyTorch modules:

- query, key and value kernels [D, N, d] are row blocks of one matrix ``qkv_weight`` [3 N d, D];
- other kernels are transposed, since ``nn.Linear`` stores [out, in] and TensorFlow [in, out];
- the output kernel [N, d, D] has its heads flattened;
- the decoder's layers are numbered on after the encoder's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from funnel.config.model import ModelConfig
from funnel.utils.errors import CheckpointError
from funnel_torch.kernels.quantization import is_int8

# Module path (without "funnel.") to variable scope, below the scope of the layer. Heads name
# their scopes in ``variable_scopes``.
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
# ELECTRA's generator is a submodule with its own config.
_GENERATOR = "generator"
_LAYER = re.compile(r"(encoder|decoder)\.layers\.(\d+)\.(.+)")


@dataclass(frozen=True)
class VariableView:
    """One TensorFlow variable inside a PyTorch parameter.

    Attributes:
        name: name of the variable.
        shape: shape of the variable.
        select: returns the (possibly transposed) view of a parameter-shaped tensor that holds the
            variable; writing into the view writes into that tensor.
    """

    name: str
    shape: tuple[int, ...]
    select: Callable[[Tensor], Tensor]


@dataclass
class LoadReport:
    """Differences between a model and the tensors loaded into it.

    Attributes:
        loaded: variables that were given.
        missing: variables that were not given.
        unexpected: tensors that the model has no variable for.
        mismatched: variables of another shape, with both shapes.
        missing_parameters: names of the model's parameters that hold a missing variable.
    """

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    missing_parameters: list[str] = field(default_factory=list)


def variable_views(
    model: nn.Module, config: ModelConfig
) -> Iterator[tuple[str, nn.Parameter, VariableView]]:
    """Yield the name of each parameter, the parameter, and each variable inside it."""
    head_scopes: dict[str, str] = getattr(model, "variable_scopes", dict)()
    for name, parameter in model.named_parameters():
        root, sizes, path = "model", config, name.removeprefix("funnel.")
        if path.startswith(f"{_GENERATOR}."):
            # Its layers are numbered like the discriminator's, but it is narrower.
            root, path = _GENERATOR, path.removeprefix(f"{_GENERATOR}.")
            sizes = cast(ModelConfig, model.get_submodule(_GENERATOR).config)
        prefix = f"{root}/"
        if layer := _LAYER.fullmatch(path):
            part, number, path = layer.groups()
            index = int(number) + (sizes.num_encoder_params if part == "decoder" else 0)
            prefix = f"{root}/{part}/layer_{index}/"
        for view in _views_in(path, parameter, sizes, head_scopes):
            yield name, parameter, VariableView(prefix + view.name, view.shape, view.select)


def _views_in(
    path: str, parameter: Tensor, config: ModelConfig, head_scopes: Mapping[str, str]
) -> Iterator[VariableView]:
    """Yield the variables in the parameter at ``path``, named below the scope of its layer."""
    heads, size = config.n_head, config.d_head
    if path == "attention.qkv_weight":
        for index, part in enumerate("qkv"):
            select = partial(_select_projection, index=index, heads=heads, size=size)
            shape: tuple[int, ...] = (config.d_model, heads, size)
            yield VariableView(f"rel_attn/{part}/kernel", shape, select)
        return
    shape = tuple(parameter.shape)
    variable = _VARIABLES.get(path) or head_scopes.get(path)
    if variable:
        yield VariableView(variable, shape, _select_all)
        return
    module, _, kind = path.rpartition(".")
    scope = _SCOPES.get(module) or head_scopes[module]
    if module.endswith("layer_norm"):
        yield VariableView(f"{scope}/{'gamma' if kind == 'weight' else 'beta'}", shape, _select_all)
    elif module.startswith("embeddings."):
        yield VariableView(f"{scope}/lookup_table", shape, _select_all)
    elif module == "attention.out_proj" and kind == "weight":
        select = partial(_split_heads, heads=heads, size=size)
        yield VariableView(f"{scope}/kernel", (heads, size, config.d_model), select)
    elif kind == "weight":
        yield VariableView(f"{scope}/kernel", shape[::-1], Tensor.t)
    else:
        yield VariableView(f"{scope}/bias", shape, _select_all)


def _select_all(tensor: Tensor) -> Tensor:
    return tensor


def _select_projection(tensor: Tensor, index: int, heads: int, size: int) -> Tensor:
    """View one row block of [3 N d, D] as [D, N, d]."""
    rows = tensor.narrow(0, index * heads * size, heads * size)
    return rows.t().unflatten(1, (heads, size))


def _split_heads(tensor: Tensor, heads: int, size: int) -> Tensor:
    """View [D, N d] as [N, d, D]."""
    return tensor.t().unflatten(0, (heads, size))


@torch.no_grad()
def export_tensors(model: nn.Module, config: ModelConfig | None = None) -> dict[str, np.ndarray]:
    """Return all parameters as float32 arrays by variable name (views where possible).

    Args:
        model: any model; its parameters may be on any device and of any dtype.
        config: sizes; by default ``model.config``.

    Raises:
        CheckpointError: the model is int8, so its float weights are gone.
    """
    if is_int8(model):
        raise CheckpointError("an int8 model cannot be saved: its float weights are gone")
    return {
        view.name: view.select(parameter.detach().float().cpu()).numpy()
        for _, parameter, view in variable_views(model, config or _get_config(model))
    }


@torch.no_grad()
def import_tensors(
    model: nn.Module, tensors: Mapping[str, np.ndarray], config: ModelConfig | None = None
) -> LoadReport:
    """Copy arrays, by variable name, into the parameters of ``model``.

    Raises nothing: a variable that is missing or of another shape is reported and left unchanged.
    """
    report = LoadReport()
    expected: set[str] = set()
    for name, parameter, view in variable_views(model, config or _get_config(model)):
        expected.add(view.name)
        array = tensors.get(view.name)
        if array is None:
            report.missing.append(view.name)
            report.missing_parameters.append(name)
        elif array.shape != view.shape:
            found, wanted = list(array.shape), list(view.shape)
            report.mismatched.append(f"{view.name} {found} instead of {wanted}")
        else:
            view.select(parameter).copy_(_as_tensor(array))
            report.loaded.append(view.name)
    report.unexpected = sorted(set(tensors) - expected)
    return report


def _get_config(model: nn.Module) -> ModelConfig:
    return cast(ModelConfig, model.config)


def _as_tensor(array: np.ndarray) -> Tensor:
    # torch cannot represent read-only memory (a mapped file) and warns of it: copy.
    if not array.flags.writeable:
        array = np.array(array)
    return torch.from_numpy(array)
