"""Linear layers that use the faster of PyTorch's two CPU matrix libraries.

In float32 on a CPU PyTorch multiplies with MKL and runs GELU as a separate pass. oneDNN, which
PyTorch ships too and uses for bfloat16, can apply GELU while a tile is in the cache. Which of the
two is faster depends on the processor and differs between a product and its gradients
(``benchmarks/log.md``), so it is measured, see :mod:`funnel_torch.kernels.choices`. Everywhere else
(GPU, autocast, other dtypes, a graph being traced) these functions are PyTorch's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from funnel_torch.kernels.choices import Run, choices, ones
from funnel_torch.kernels.config import AUTO, MKL, ONEDNN
from funnel_torch.kernels.dropout import Dropout
from funnel_torch.kernels.gelu import gelu, gelu_with_gradient

_IS_BUILT = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
# Multiply-adds below which oneDNN's set-up time (16 us) exceeds the time it saves.
_MIN_MULTIPLY_ADDS = 2**25
# The same with GELU, whose own pass takes several times as long per entry.
_MIN_GELU_MULTIPLY_ADDS = 2**23
# oneDNN's product with GELU as a pass of its own.
_ONEDNN_APART = "onednn, then GELU"
# Size of a measured product: a few milliseconds. Its free dimension (the number of tokens) does not
# belong to the class of shapes, so a run meets all its classes in its first step. With fewer tokens
# than that the gradient of a weight, a sum over them, says little of its speed in a real batch.
_SAMPLE_MULTIPLY_ADDS, _MIN_SAMPLE, _MAX_SAMPLE = 2**26, 256, 4096
# Inputs and outputs of the layer that says which library is usually the faster one.
_TYPICAL_SIZES = 1024, 1024
_USUAL_LIBRARY = "linear, near ties, {} thread(s)"


class Linear(nn.Linear):
    """``nn.Linear`` computed by :func:`linear`, with GELU (tanh approximation) fused if asked for.

    Parameters, their names and their initialization are those of ``nn.Linear``.
    """

    def forward(
        self,
        x: Tensor,
        gelu: bool = False,
        residual: Tensor | None = None,
        of_gelu: bool = False,
    ) -> Tensor:
        """Map [..., in] to [..., out], with one of three more steps at most.

        They are arguments, not methods, so that hooks run (pruning recomputes the weight in one).

        Args:
            x: the input.
            gelu: apply GELU to the result.
            residual: [..., out], is added to the result.
            of_gelu: apply the layer to the GELU of ``x``, by :func:`gelu_linear`.
        """
        if of_gelu:
            return gelu_linear(x, self.weight, self.bias)
        if residual is not None:
            return linear_add(x, self.weight, self.bias, residual)
        return linear_gelu(x, self.weight, self.bias) if gelu else linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute ``x @ weight.T + bias`` from [..., in] and [out, in] to [..., out]."""
    if not _is_for_onednn(x, weight) or choices.settings.linear_backend == MKL:
        return F.linear(x, weight, bias)
    if _needs_grad(x, weight, bias):
        return _Linear.apply(x, weight, bias)
    return _product(x, weight, bias)


def linear_add(x: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor) -> Tensor:
    """Compute :func:`linear` plus ``other`` [..., out]; oneDNN adds within the product.

    So it does where no gradient is needed.
    """
    if not _is_for_onednn(x, weight) or _needs_grad(x, weight, bias, other):
        return other + linear(x, weight, bias)
    if _choose(x, weight) == ONEDNN:
        add = torch.ops.mkldnn._linear_pointwise.binary
        return add(x, other.contiguous(), weight, bias, "add")
    return F.linear(x, weight, bias).add_(other)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute GELU (tanh approximation) of :func:`linear`, fused where no gradient is needed."""
    if not _is_for_onednn(x, weight, _MIN_GELU_MULTIPLY_ADDS) or _needs_grad(x, weight, bias):
        return gelu(linear(x, weight, bias))
    return _LINEAR_GELU[_choose(x, weight, gelu=True)](x, weight, bias)


def gelu_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute :func:`linear` of the tanh-approximated GELU of ``x``, for training.

    Only ``x`` is saved for the backward pass, which computes its GELU again together with the
    gradient: 10 % less activation memory per layer.
    """
    is_traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if is_traced or is_autocast_enabled(x.device):
        return linear(F.gelu(x, approximate="tanh"), weight, bias)
    return _GeluLinear.apply(x, weight, bias)


def add_residual(layer: nn.Module, x: Tensor, residual: Tensor, dropout: Dropout) -> Tensor:
    """Return ``residual + dropout(layer(x))``, as one product where dropout does nothing."""
    if isinstance(layer, Linear) and not dropout.training:
        return layer(x, residual=residual)
    return dropout.add(residual, layer(x))


def has_choice() -> bool:
    """Return whether PyTorch brings both libraries."""
    return _IS_BUILT and bool(torch.backends.mkldnn.enabled)


def is_autocast_enabled(device: torch.device) -> bool:
    """Return whether autocast is on; never on the device "meta", which has none."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def _is_for_onednn(x: Tensor, weight: Tensor, smallest: int | None = None) -> bool:
    return (
        _IS_BUILT
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() * len(weight) >= (_MIN_MULTIPLY_ADDS if smallest is None else smallest)
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


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute a product, without gradient, in the library chosen for its shape."""
    return _LINEAR[_choose(x, weight)](x, weight, bias)


_Function = Callable[[Tensor, Tensor, Tensor | None], Tensor]
_LINEAR: dict[str, _Function] = {
    ONEDNN: lambda x, weight, bias: _onednn_linear(x, weight, bias),
    MKL: F.linear,
}
_LINEAR_GELU: dict[str, _Function] = {
    ONEDNN: lambda x, weight, bias: _onednn_linear(x, weight, bias, "gelu", "tanh"),
    MKL: lambda x, weight, bias: gelu(F.linear(x, weight, bias), in_place=True),
    _ONEDNN_APART: lambda x, weight, bias: gelu(_onednn_linear(x, weight, bias), in_place=True),
}


def _choose(x: Tensor, weight: Tensor, gelu: bool = False) -> str:
    """Return MKL, ONEDNN or, with GELU, _ONEDNN_APART."""
    backend = choices.settings.linear_backend
    if backend != AUTO:
        return backend
    is_flipped = x.dim() == 2 and x.stride(0) == 1 != x.stride(1)
    return choose_linear(
        # The operand whose size is that of the batch is the free one.
        (x.shape[0] if is_flipped else x.shape[-1], len(weight)),
        (is_flipped, weight.stride(0) == 1 != weight.stride(1)),
        gelu,
    )


def choose_linear(sizes: tuple[int, int], is_flipped: tuple[bool, bool], gelu: bool = False) -> str:
    """Return the library for a class of products, measured if it has not been yet.

    Args:
        sizes: inputs and outputs of ``x @ weight.T``; rows of ``x`` and outputs if ``x`` is
            flipped.
        is_flipped: whether ``x`` and whether ``weight`` are the transposed views of tensors.
        gelu: whether GELU follows.
    """
    threads = torch.get_num_threads()
    views = "".join(
        f", {name} flipped" for name, is_one in zip("xw", is_flipped, strict=True) if is_one
    )
    name = f"linear {sizes[0]} x {sizes[1]}{views}{', GELU' * gelu}, {threads} thread(s)"
    usual = _choose_usual()
    options = [usual, MKL if usual == ONEDNN else ONEDNN]
    options += [_ONEDNN_APART] if gelu else []
    return choices.choose(name, options, lambda: _samples(sizes, is_flipped, gelu, options))


def _choose_usual() -> str:
    """Return the library that near ties go to: that of a typical layer and its gradients.

    A default that does not depend on the processor would lose up to the margin in every product.
    """

    def prepare() -> list[Run]:
        kinds = [(False, False), (False, True), (True, True)]
        runs = [_samples(_TYPICAL_SIZES, is_flipped, False, libraries) for is_flipped in kinds]
        return [partial(_run_all, of_one) for of_one in zip(*runs, strict=True)]

    libraries = [MKL, ONEDNN]
    return choices.choose(_USUAL_LIBRARY.format(torch.get_num_threads()), libraries, prepare)


def _run_all(runs: Sequence[Run]) -> None:
    for run in runs:
        run()


def _samples(
    sizes: tuple[int, int], is_flipped: tuple[bool, bool], gelu: bool, options: Sequence[str]
) -> list[Run]:
    """Return products to time, one per option."""
    first, columns = (min(size, _MAX_SAMPLE) for size in sizes)
    free = max(_MIN_SAMPLE, _SAMPLE_MULTIPLY_ADDS // (first * columns)) * torch.get_num_threads()
    rows, inner = (first, free) if is_flipped[0] else (free, first)

    x = ones(inner, rows).t() if is_flipped[0] else ones(rows, inner)
    weight = ones(inner, columns).t() if is_flipped[1] else ones(columns, inner)
    # MKL adds a bias in a pass of its own; the products of gradients have none.
    bias = None if any(is_flipped) else ones(columns)
    functions = _LINEAR_GELU if gelu else _LINEAR
    return [partial(functions[option], x, weight, bias) for option in options]


class _Linear(torch.autograd.Function):
    """A linear layer of chosen libraries; oneDNN's operator has no gradient of its own.

    The backward pass is made of differentiable operations, so it can be differentiated again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return _linear_gradients(grad, x, weight, ctx.needs_input_grad)


class _GeluLinear(torch.autograd.Function):
    """A linear layer after GELU that saves GELU's input instead of its output."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return linear(gelu(x), weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, *needs = ctx.needs_input_grad
        if not needs_x:
            return _linear_gradients(grad, gelu(x), weight, (False, *needs))
        grad_x, *_ = _linear_gradients(grad, x, weight, (True, False, False))
        assert grad_x is not None
        inner, grad_x = gelu_with_gradient(x, grad_x)
        return grad_x, *_linear_gradients(grad, inner, weight, (False, *needs))[1:]


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
    def _count_flops(x_shape: torch.Size, *others: Any, **__: Any) -> int:
        """Count 2 per multiply-add, for ``torch.utils.flop_counter``."""
        # With a sum that is the second argument, and the weight the third.
        is_sum = len(others) == len(("other", "weight", "bias", "operation"))
        return 2 * x_shape.numel() * others[1 if is_sum else 0][0]
