"""Products in 8-bit integers, for inference on a CPU.

The weights of every attention and feed-forward layer become int8 with a scale per output channel;
what they are multiplied with becomes uint8 on the fly, with one scale and zero point per product
(dynamic quantization). Sums are exact, in int32. Attention scores, normalisations, embeddings and
heads stay float32. ``docs/inference.md`` has what that gains and costs.
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from funnel.utils.errors import ConfigError, RunError
from funnel_torch.models.attention import RelativeAttention
from funnel_torch.models.layers import FunnelLayer

_IS_BUILT = torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qlinear_pointwise")
_MAX_WEIGHT = 127
_OFFSET = 128

Model = TypeVar("Model", bound=nn.Module)


class Quantized(NamedTuple):
    """``x ≈ scale * (values - zero_point)``, values uint8."""

    values: Tensor
    scale: float
    zero_point: int


class Int8Dense(nn.Module):
    """``x @ weight.T + bias`` with the weight in int8; takes the place of a ``Dense``."""

    is_int8 = True

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        weight, bias = weight.detach(), bias.detach().clone()
        scale = weight.abs().amax(1) / _MAX_WEIGHT
        scale = torch.where(scale > 0, scale, 1.0)
        values = (weight / scale[:, None]).round_().to(torch.int8)
        # No buffers: the packed weight is opaque, and nothing here can move to another device.
        self._weight = torch.ops.onednn.qlinear_prepack(values, None)
        self._scale, self._zero_point = scale, torch.zeros(len(scale), dtype=torch.long)
        self._bias = bias
        self.levels = _levels()

    def forward(self, x: Tensor, gelu: bool = False) -> Tensor:
        """[..., in] to [..., out], GELU (tanh approximation) applied if asked for."""
        if x.device.type != "cpu" or x.dtype != torch.float32:
            raise RunError(f"an int8 model computes on a CPU, float32; not {x.device}, {x.dtype}")
        if x.numel() == 0:
            return x.new_empty(*x.shape[:-1], len(self._scale))
        activation, kind = ("gelu", "tanh") if gelu else ("none", "")
        return torch.ops.onednn.qlinear_pointwise(
            *quantize(x, self.levels),
            *(self._weight, self._scale, self._zero_point, self._bias),
            *(1.0, 0, torch.float32),  # of the output
            *(activation, [], kind),
        )

    def train(self, mode: bool = True) -> Int8Dense:
        """Stay in evaluation mode.

        Raises:
            RunError: training was asked for.
        """
        if mode:
            raise RunError("an int8 model cannot be trained: it has no float weights")
        return super().train(mode)


class Int8Attention(RelativeAttention):
    """Attention whose projections are int8; made of a float one, whose other weights it shares."""

    is_int8 = True

    def __init__(self, attention: RelativeAttention) -> None:
        with torch.device("meta"):
            super().__init__(attention.config)
        for name, parameter in attention.named_parameters(recurse=False):
            setattr(self, name, parameter)
        for name, module in attention.named_children():
            setattr(self, name, module)
        weights = attention.qkv_weight.unflatten(0, (3, -1))
        biases = torch.stack([attention.r_w_bias, attention.k_bias, attention.v_bias])
        self.qkv = nn.ModuleDict(
            {
                _key(parts): Int8Dense(weights[parts].flatten(0, 1), biases[parts].flatten())
                for parts in (slice(0, 3), slice(0, 1), slice(1, 3))
            }
        )
        del self.qkv_weight
        self.out_proj = _of_linear(attention.out_proj)
        self.eval()

    def _product(self, x: Tensor, parts: slice) -> Tensor:
        return self.qkv[_key(parts)](x)


def _key(parts: slice) -> str:
    return "qkv"[parts]


def _of_linear(linear: nn.Linear) -> Int8Dense:
    return Int8Dense(linear.weight, linear.bias)


@torch.no_grad()
def quantize_int8(model: Model) -> Model:
    """Make the products of every layer int8, in place: the float weights are given up.

    Args:
        model: a model or head in evaluation mode, float32, on a CPU.

    Returns:
        The same model. It can be evaluated, not trained, saved or moved; a sequence's results
        depend a little on the batch that it shares a scale with.

    Raises:
        ConfigError: the model is none of that, is int8 already, or PyTorch lacks the products.
    """
    layers = [module for module in model.modules() if isinstance(module, FunnelLayer)]
    _check(model, layers)
    for layer in layers:
        layer.attention = Int8Attention(layer.attention)
        layer.ffn.linear_1 = _of_linear(layer.ffn.linear_1)
        layer.ffn.linear_2 = _of_linear(layer.ffn.linear_2)
    return model


def _check(model: nn.Module, layers: list[FunnelLayer]) -> None:
    if not _IS_BUILT:
        raise ConfigError("int8: this PyTorch was built without oneDNN, which multiplies integers")
    if not layers:
        raise ConfigError(f"int8: {type(model).__name__} has no Funnel-Transformer layers")
    if any(isinstance(layer.attention, Int8Attention) for layer in layers):
        raise ConfigError("int8: the model is int8 already")
    if model.training:
        raise ConfigError("int8 is for inference: call model.eval() first")
    for parameter in model.parameters():
        if parameter.device.type != "cpu" or parameter.dtype != torch.float32:
            found = f"{parameter.device}, {parameter.dtype}"
            raise ConfigError(f"int8 takes a float32 model on a CPU; this one is on {found}")


def quantize(x: Tensor, levels: int = 255) -> Quantized:
    """Round to evenly spaced values from least to most, zero among them, at most ``levels`` + 1.

    Raises:
        RunError: a value is infinite or not a number.
    """
    low, high = (bound.item() for bound in torch.aminmax(x))
    low, high = min(low, 0.0), max(high, 0.0)
    if not math.isfinite(high - low):
        raise RunError("int8: a hidden state is infinite or not a number")
    # One step is left for what a whole zero point shifts, so that nothing has to be clamped.
    scale = max((high - low) / (levels - 1), torch.finfo(torch.float32).tiny)
    zero_point = math.ceil(-low / scale)
    # In int8 and back: conversion to uint8 is several times slower (torch 2.13).
    shifted = torch.add(torch.tensor(float(zero_point - _OFFSET)), x, alpha=1 / scale)
    values = shifted.round_().to(torch.int8).view(torch.uint8).add_(_OFFSET)
    return Quantized(values, scale, zero_point)


def _levels() -> int:
    """The largest uint8 that is multiplied without overflow.

    Without the VNNI instructions two products are summed in 16 bits.
    """
    has_vnni = getattr(torch.cpu, "_is_vnni_supported", lambda: False)
    return 255 if has_vnni() else 127
