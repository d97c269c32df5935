"""Products with weight matrices, by the faster of PyTorch's two libraries.

In float32 on a CPU PyTorch multiplies with MKL and runs GELU as a pass of its own. oneDNN, which
it ships too and uses for bfloat16, takes 10 to 30 % less time for the shapes of a Transformer, and
applies GELU while a tile is in the cache (``benchmarks/log.md``). Elsewhere (GPU, autocast, other
dtypes, a graph being recorded) these functions are PyTorch's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.utils.flop_counter import register_flop_formula

_IS_BUILT = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
# Multiplications below which oneDNN's preparation (16 us) costs more than it saves.
_SMALLEST = 2**25


class Dense(nn.Linear):
    """``nn.Linear`` with :func:`linear`, optionally followed by tanh-approximated GELU."""

    def forward(self, x: Tensor, gelu: bool = False) -> Tensor:
        """[..., in] to [..., out]."""
        return linear_gelu(x, self.weight, self.bias) if gelu else linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``: [..., in] and [out, in] to [..., out]."""
    if not _is_for_onednn(x, weight):
        return F.linear(x, weight, bias)
    if _needs_grad(x, weight, bias):
        return _Linear.apply(x, weight, bias)
    return _multiply(x, weight, bias)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """GELU (tanh approximation) of :func:`linear`."""
    if _is_for_onednn(x, weight) and not _needs_grad(x, weight, bias):
        return _multiply(x, weight, bias, "gelu", "tanh")
    return F.gelu(linear(x, weight, bias), approximate="tanh")


def gelu_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """:func:`linear` of the tanh-approximated GELU of ``x``, for training.

    Only ``x`` is kept for the backward pass, which computes its GELU again: a hundredth of a step
    in time for a tenth of what its layers keep.
    """
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if recorded or torch.is_autocast_enabled(x.device.type):
        return linear(F.gelu(x, approximate="tanh"), weight, bias)
    return _GeluLinear.apply(x, weight, bias)


def _is_for_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        _IS_BUILT
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() * len(weight) >= _SMALLEST
        and torch.backends.mkldnn.enabled
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )


def _needs_grad(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def _multiply(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none", kind: str = ""
) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], kind)


class _Linear(torch.autograd.Function):
    """The product and its gradients; made of differentiable products, so it can be repeated."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _multiply(x, weight, bias)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _gradients(grad, *ctx.saved_tensors, ctx.needs_input_grad)


class _GeluLinear(torch.autograd.Function):
    """The product with the GELU of its input, and its gradients, as differentiable."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return linear(F.gelu(x, approximate="tanh"), weight, bias)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        inner = F.gelu(x, approximate="tanh")
        grad_x, *others = _gradients(grad, inner, weight, ctx.needs_input_grad)
        if grad_x is not None:
            grad_x = torch.ops.aten.gelu_backward(grad_x, x, approximate="tanh")
        return grad_x, *others


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, needs: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Those of :func:`linear` by x, weight and bias, as far as ``needs`` asks for them."""
    needs_x, needs_weight, needs_bias = needs
    rows = grad.flatten(0, -2)
    grad_x = linear(grad, weight.t()) if needs_x else None
    grad_weight = linear(rows.t(), x.flatten(0, -2).t()) if needs_weight else None
    return grad_x, grad_weight, rows.sum(0) if needs_bias else None


if _IS_BUILT:

    @register_flop_formula(torch.ops.mkldnn._linear_pointwise)
    def _flops(x_shape: torch.Size, weight_shape: torch.Size, *_: Any, **__: Any) -> int:
        """For ``torch.utils.flop_counter``: 2 per multiply-add."""
        return 2 * x_shape.numel() * weight_shape[0]
