"""8-bit linear layers for inference on a CPU (dynamic quantization).

The weights of every attention and feed-forward layer become int8 with one scale per output
channel; their inputs become uint8 on the fly, with one scale and zero point per product. Sums are
exact, in int32. Attention scores, normalizations, embeddings and heads stay float32.
``docs/inference.md`` reports speed and accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from funnel.utils.errors import ConfigError, RunError
from funnel_torch.kernels.linear import Linear

_IS_BUILT = torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qlinear_pointwise")
_MAX_WEIGHT = 127
_UINT8_OFFSET = 128

Model = TypeVar("Model", bound=nn.Module)


class Quantized(NamedTuple):
    """``x ≈ scale * (values - zero_point)`` with ``values`` in uint8."""

    values: Tensor
    scale: float
    zero_point: int


@runtime_checkable
class PackedLinears(Protocol):
    """A module that stores several linear layers in one parameter."""

    def convert_linears(self, convert: Callable[[Tensor, Tensor], nn.Module]) -> None:
        """Replace them by ``convert(weight [out, in], bias [out])`` and release the parameter."""
        ...


class Int8Linear(nn.Module):
    """``x @ weight.T + bias`` with an int8 weight; replaces a :class:`Linear`.

    Args:
        weight: float32 [out, in].
        bias: float32 [out].
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        weight, bias = weight.detach(), bias.detach().clone()
        scale = weight.abs().amax(1) / _MAX_WEIGHT
        scale = torch.where(scale > 0, scale, 1.0)
        values = (weight / scale[:, None]).round_().to(torch.int8)
        # Not buffers: the packed weight is opaque, and nothing here can move to another device.
        self._weight = torch.ops.onednn.qlinear_prepack(values, None)
        self._scale, self._zero_point = scale, torch.zeros(len(scale), dtype=torch.long)
        self._bias = bias
        self.levels = _max_level()
        self.eval()

    def forward(self, x: Tensor, gelu: bool = False) -> Tensor:
        """Map [..., in] to [..., out]; ``gelu`` applies GELU (tanh approximation) to the result.

        Raises:
            RunError: ``x`` is not a float32 tensor on the CPU, or not finite.
        """
        if x.device.type != "cpu" or x.dtype != torch.float32:
            raise RunError(f"an int8 model computes on a CPU, float32; not {x.device}, {x.dtype}")
        if x.numel() == 0:
            return x.new_empty(*x.shape[:-1], len(self._scale))
        activation, variant = ("gelu", "tanh") if gelu else ("none", "")
        return torch.ops.onednn.qlinear_pointwise(
            *quantize(x, self.levels),
            *(self._weight, self._scale, self._zero_point, self._bias),
            *(1.0, 0, torch.float32),  # scale, zero point and dtype of the output
            *(activation, [], variant),
        )

    def train(self, mode: bool = True) -> Int8Linear:
        """Stay in evaluation mode.

        Raises:
            RunError: training mode was requested.
        """
        if mode:
            raise RunError("an int8 model cannot be trained: it has no float weights")
        return super().train(mode)


@torch.no_grad()
def quantize_int8(model: Model, keep_float: Collection[str] = ("input_projection",)) -> Model:
    """Convert the linear layers of every encoder and decoder layer to int8, in place.

    Replaces each :class:`Linear` in the model, and the linear layers of every module that
    follows :class:`PackedLinears`. Heads are ``nn.Linear`` and stay float32.

    Args:
        model: a model in evaluation mode, float32, on a CPU.
        keep_float: names of submodules that stay float32 (by default the projection of the
            embeddings).

    Returns:
        The same model. It can be evaluated, but not trained, saved or moved. All sequences of a
        batch share a scale, so results depend slightly on the other sequences.

    Raises:
        ConfigError: the model does not meet the above, is int8 already, or PyTorch was built
            without int8 kernels.
    """
    _check(model, keep_float)
    for module in list(model.modules()):
        for name, child in _find_linears(module, keep_float):
            setattr(module, name, Int8Linear(child.weight, child.bias))
        if isinstance(module, PackedLinears):
            module.convert_linears(Int8Linear)
    return model


def is_int8(model: nn.Module) -> bool:
    """Return whether a model was converted by :func:`quantize_int8`."""
    return any(isinstance(module, Int8Linear) for module in model.modules())


def _find_linears(module: nn.Module, keep_float: Collection[str]) -> list[tuple[str, Linear]]:
    """Return the direct children of ``module`` to convert, with their names."""
    return [
        (name, child)
        for name, child in module.named_children()
        if isinstance(child, Linear) and name not in keep_float
    ]


def _check(model: nn.Module, keep_float: Collection[str]) -> None:
    if not _IS_BUILT:
        raise ConfigError("int8: this PyTorch was built without oneDNN, which multiplies integers")
    if is_int8(model):
        raise ConfigError("int8: the model is int8 already")
    if not any(_find_linears(module, keep_float) for module in model.modules()):
        raise ConfigError(f"int8: {type(model).__name__} has no Funnel-Transformer layers")
    if model.training:
        raise ConfigError("int8 is for inference: call model.eval() first")
    for parameter in model.parameters():
        if parameter.device.type != "cpu" or parameter.dtype != torch.float32:
            found = f"{parameter.device}, {parameter.dtype}"
            raise ConfigError(f"int8 takes a float32 model on a CPU; this one is on {found}")


def quantize(x: Tensor, levels: int = 255) -> Quantized:
    """Round ``x`` to evenly spaced values from its minimum to its maximum, with 0 among them.

    Args:
        x: float32, any shape.
        levels: largest quantized value, at most 255.

    Raises:
        RunError: a value is infinite or NaN.
    """
    low, high = (bound.item() for bound in torch.aminmax(x))
    low, high = min(low, 0.0), max(high, 0.0)
    if not math.isfinite(high - low):
        raise RunError("int8: a hidden state is infinite or not a number")
    # Rounding the zero point up shifts all values by up to one step: one level is left free for
    # that, so that nothing has to be clamped.
    scale = max((high - low) / (levels - 1), torch.finfo(torch.float32).tiny)
    zero_point = math.ceil(-low / scale)
    # To int8, then shifted to uint8: direct conversion to uint8 is several times slower
    # (torch 2.13).
    shifted = torch.add(torch.tensor(float(zero_point - _UINT8_OFFSET)), x, alpha=1 / scale)
    values = shifted.round_().to(torch.int8).view(torch.uint8).add_(_UINT8_OFFSET)
    return Quantized(values, scale, zero_point)


def _max_level() -> int:
    """Return the largest uint8 value that can be multiplied without overflow.

    Without the VNNI instructions two products are summed in 16 bits, which only 7-bit inputs fit.
    """
    has_vnni = getattr(torch.cpu, "_is_vnni_supported", lambda: False)
    return 255 if has_vnni() else 127
