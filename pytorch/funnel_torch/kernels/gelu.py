"""GELU in its tanh approximation, with its gradient, in a few passes over tensors in a CPU's cache.

    gelu(x) = x / 2 (1 + tanh(u)) = x s,   u = sqrt(2 / pi) (x + 0.044715 x^3),   s = sigmoid(2 u)

PyTorch's kernels evaluate this in one pass, with a tanh that takes most of the time, and the
gradient evaluates it again. Here a piece at a time that stays in the cache goes through several
cheap passes, and the gradient shares s with the result. Which of the two is faster is measured, see
:mod:`funnel_torch.kernels.choices`. On other devices, for other dtypes, and where the gradient
itself is to be differentiated, PyTorch's functions serve.
"""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from funnel_torch.kernels.choices import Run, choices
from funnel_torch.kernels.config import AUTO, NATIVE, PARTS

# 2 u = _SLOPE (x + _CUBIC x^3)
_SLOPE, _CUBIC = 2 * math.sqrt(2 / math.pi), 0.044715
# Elements below which several calls take longer than one.
_MIN_ELEMENTS = 2**14
# Elements of a piece, for each thread: 256 KiB, so that a piece and what is computed from it fit
# into the L2 cache of a core.
_PIECE = 2**16


def gelu(x: Tensor, in_place: bool = False) -> Tensor:
    """Return GELU of ``x``, of any shape.

    Args:
        x: the input.
        in_place: ``x`` may be overwritten; only where no gradient is needed.
    """
    if not _is_divided(x):
        return F.gelu(x, approximate="tanh")
    return _in_parts(x, x if in_place else torch.empty_like(x))


def gelu_with_gradient(x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return GELU of ``x`` and the gradient by ``x``, given that by GELU's result.

    Args:
        x: the input, of any shape.
        gradient: of the same shape; may be overwritten where it needs no gradient itself.
    """
    if torch.is_grad_enabled() or not (_is_divided(x) and _is_plain(gradient)):
        backward = torch.ops.aten.gelu_backward
        return F.gelu(x, approximate="tanh"), backward(gradient, x, approximate="tanh")
    result, pieces = torch.empty_like(x), _pieces(x)
    scratch = torch.empty_like(pieces[0])
    for piece, value, grad in zip(pieces, _pieces(result), _pieces(gradient), strict=True):
        _evaluate_with_gradient(piece, value, grad, scratch[: len(piece)])
    return result, gradient


def _is_plain(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and x.is_contiguous()


def _is_divided(x: Tensor) -> bool:
    """Return whether ``x`` is evaluated in pieces."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    needs_grad = torch.is_grad_enabled() and x.requires_grad
    return _is_plain(x) and x.numel() >= _MIN_ELEMENTS and not needs_grad and _prefers_parts()


def _prefers_parts() -> bool:
    wanted = choices.settings.gelu
    if wanted != AUTO:
        return wanted == PARTS
    name = f"GELU, {torch.get_num_threads()} thread(s)"
    return choices.choose(name, (PARTS, NATIVE), _samples) == PARTS


def _samples() -> list[Run]:
    length = 4 * _PIECE * torch.get_num_threads()
    x = torch.linspace(-3, 3, length, dtype=torch.float32, device="cpu")
    return [partial(_in_parts, x, torch.empty_like(x)), partial(F.gelu, x, approximate="tanh")]


def _pieces(x: Tensor) -> tuple[Tensor, ...]:
    return x.view(-1).split(_PIECE * torch.get_num_threads())


def _in_parts(x: Tensor, result: Tensor) -> Tensor:
    """Write GELU of ``x`` into ``result``, which may be ``x`` itself."""
    pieces = _pieces(x)
    scratch = torch.empty_like(pieces[0]) if result is x else None
    for piece, value in zip(pieces, _pieces(result), strict=True):
        share = value if scratch is None else scratch[: len(piece)]
        torch.mul(piece, piece, out=share)
        _double_u(piece, share, share).sigmoid_()
        torch.mul(piece, share, out=value)
    return result


def _double_u(x: Tensor, square: Tensor, out: Tensor) -> Tensor:
    """Write ``2 u`` in two passes, given x^2."""
    return torch.addcmul(x, square, x, value=_CUBIC, out=out).mul_(_SLOPE)


def _evaluate_with_gradient(x: Tensor, result: Tensor, gradient: Tensor, slope: Tensor) -> None:
    """Write GELU of ``x`` into ``result``, and multiply ``gradient`` by its derivative.

    The derivative is ``s + x s (1 - s) (2 u)'``. ``slope`` is overwritten.
    """
    torch.mul(x, x, out=slope)
    share = _double_u(x, slope, result).sigmoid_()
    slope.mul_(3 * _CUBIC * _SLOPE).add_(_SLOPE)
    torch.ops.aten.sigmoid_backward.grad_input(slope, share, grad_input=slope)
    # x comes last: x^3 is infinite long before x^2 is, and s (1 - s) is 0 there.
    gradient.mul_(torch.addcmul(share, slope, x, out=slope))
    share.mul_(x)
