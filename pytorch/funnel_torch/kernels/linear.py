"""Linear layers that use the faster of PyTorch's two CPU matrix libraries.

In float32 on a CPU PyTorch multiplies with MKL and runs GELU as a separate pass. oneDNN, which
PyTorch ships too and uses for bfloat16, takes 10 to 30 % less time for the shapes of a Transformer
and applies GELU while a tile is in the cache (``benchmarks/log.md``). Everywhere else (GPU,
autocast, other dtypes, a graph being traced) these functions are PyTorch's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

_IS_BUILT = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
# Multiply-adds below which oneDNN's set-up time (16 us) exceeds the time it saves.
_MIN_MULTIPLY_ADDS = 2**25


class Linear(nn.Linear):
    """``nn.Linear`` computed by :func:`linear`, with GELU (tanh approximation) fused if asked for.

    Parameters, their names and their initialization are those of ``nn.Linear``.
    """

    def forward(self, x: Tensor, gelu: bool = False) -> Tensor:
        """Map [..., in] to [..., out]; ``gelu`` applies GELU to the result."""
        return linear_gelu(x, self.weight, self.bias) if gelu else linear(x, self.weight, self.bias)

    def forward_from_gelu(self, x: Tensor) -> Tensor:
        """Apply the layer to the GELU of ``x`` [..., in] by :func:`gelu_linear`."""
        return gelu_linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute ``x @ weight.T + bias`` from [..., in] and [out, in] to [..., out]."""
    if not _is_for_onednn(x, weight):
        return F.linear(x, weight, bias)
    if _needs_grad(x, weight, bias):
        return _Linear.apply(x, weight, bias)
    return _onednn_linear(x, weight, bias)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute GELU (tanh approximation) of :func:`linear`, fused where no gradient is needed."""
    if _is_for_onednn(x, weight) and not _needs_grad(x, weight, bias):
        return _onednn_linear(x, weight, bias, "gelu", "tanh")
    return F.gelu(linear(x, weight, bias), approximate="tanh")


def gelu_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute :func:`linear` of the tanh-approximated GELU of ``x``, for training.

    Only ``x`` is saved for the backward pass, which recomputes its GELU: 1 % more time per step
    for 10 % less activation memory per layer.
    """
    is_traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if is_traced or is_autocast_enabled(x.device):
        return linear(F.gelu(x, approximate="tanh"), weight, bias)
    return _GeluLinear.apply(x, weight, bias)


def is_autocast_enabled(device: torch.device) -> bool:
    """Return whether autocast is on; never on the device "meta", which has none."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def _is_for_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        _IS_BUILT
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() * len(weight) >= _MIN_MULTIPLY_ADDS
        and bool(torch.backends.mkldnn.enabled)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )


def _needs_grad(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def _onednn_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none", variant: str = ""
) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], variant)


class _Linear(torch.autograd.Function):
    """oneDNN's linear layer, whose operator has no gradient of its own.

    The backward pass is made of differentiable operations, so it can be differentiated again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _onednn_linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return _linear_gradients(grad, x, weight, ctx.needs_input_grad)


class _GeluLinear(torch.autograd.Function):
    """A linear layer after GELU that saves GELU's input instead of its output."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return linear(F.gelu(x, approximate="tanh"), weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        inner = F.gelu(x, approximate="tanh")
        grad_x, *others = _linear_gradients(grad, inner, weight, ctx.needs_input_grad)
        if grad_x is not None:
            grad_x = torch.ops.aten.gelu_backward(grad_x, x, approximate="tanh")
        return grad_x, *others


def _linear_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, needs: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Return the gradients of :func:`linear` by x, weight and bias, None where not needed."""
    needs_x, needs_weight, needs_bias = needs
    rows = grad.flatten(0, -2)
    grad_x = linear(grad, weight.t()) if needs_x else None
    grad_weight = linear(rows.t(), x.flatten(0, -2).t()) if needs_weight else None
    return grad_x, grad_weight, rows.sum(0) if needs_bias else None


if _IS_BUILT:

    @register_flop_formula(torch.ops.mkldnn._linear_pointwise)
    def _count_flops(x_shape: torch.Size, weight_shape: torch.Size, *_: Any, **__: Any) -> int:
        """Count 2 per multiply-add, for ``torch.utils.flop_counter``."""
        return 2 * x_shape.numel() * weight_shape[0]
