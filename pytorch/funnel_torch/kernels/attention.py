"""Scaled dot-product attention with an additive bias, by the fastest kernel for the device.

On a GPU, and on a CPU without dropout and without a gradient of the bias, that is PyTorch's fused
kernel. PyTorch's fallback for a training step on a CPU keeps three matrices of scores for the
backward pass; the one here keeps a single matrix, and one byte per score for the dropout.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from funnel_torch.kernels.dropout import apply_mask, sample_keep_mask
from funnel_torch.kernels.short_attention import attend_in_parts, prefers_parts


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    scale: float,
    dropout: float,
    owns_bias: bool = False,
) -> Tensor:
    """Compute ``softmax(scale * q @ k.T + bias) @ v``.

    The two batch dimensions (B, N) come in any order.

    Args:
        q: queries [B, N, Tq, d].
        k: keys [B, N, Tk, d].
        v: values [B, N, Tk, d].
        bias: added to the scaled scores, broadcast to [B, N, Tq, Tk]; None adds nothing.
        scale: factor of the scores.
        dropout: rate at which attention weights are dropped.
        owns_bias: ``bias`` is contiguous, [N, B, Tq, Tk], and may be overwritten.

    Returns:
        [B, N, Tq, d].
    """
    needs_grad = torch.is_grad_enabled() and bias is not None and bias.requires_grad
    if not (dropout or torch.is_grad_enabled()) and _may_divide(q, k, bias):
        assert bias is not None
        scores = bias if owns_bias else q.new_empty(*q.shape[:3], k.shape[2]).copy_(bias)
        return attend_in_parts(q, k, v, scores, scale)
    # A trace can neither be saved with a function of Python in it, nor may it depend on gradients:
    # PyTorch checks it without them.
    if q.is_cuda or torch.jit.is_tracing() or not (dropout or needs_grad):
        return F.scaled_dot_product_attention(q, k, v, bias, dropout, scale=scale)
    if q.device.type == "cpu" and not torch.compiler.is_compiling():
        # Autocast must not cast inside: scores are summed in the precision of the bias.
        with torch.autocast(q.device.type, enabled=False):
            return _Attention.apply(q, k, v, bias, scale, dropout)
    scores = torch.matmul(q * scale, k.transpose(-1, -2))
    if bias is not None:
        scores = scores + bias
    weights = F.dropout(torch.softmax(scores, -1), dropout)
    return torch.matmul(weights.to(v.dtype), v)


def _may_divide(q: Tensor, k: Tensor, bias: Tensor | None) -> bool:
    # First of all: a comparison of lengths in a traced graph would make them constants.
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return (
        bias is not None
        and q.device.type == "cpu"
        and q.dtype == bias.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and prefers_parts(q, k)
    )


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float, rate: float
    ) -> Tensor:
        q = q * scale
        scores = torch.matmul(q, k.transpose(-1, -2))
        if bias is not None:
            scores.add_(bias)
        weights = torch.softmax(scores, -1)
        keep = sample_keep_mask(weights.shape, rate) if rate else None
        ctx.save_for_backward(q, k, v, weights, keep)
        ctx.scale, ctx.bias_shape = scale, None if bias is None else bias.shape
        # Dropout's factor goes onto the result, which is smaller than the matrix of weights.
        ctx.gain = 1 / (1 - rate)
        return torch.matmul(_drop(weights, keep), v).mul_(ctx.gain)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights, keep = ctx.saved_tensors
        grad = grad * ctx.gain
        grad_v = torch.matmul(_drop(weights, keep).transpose(-1, -2), grad)
        grad_weights = torch.matmul(grad, v.transpose(-1, -2))
        if keep is not None:
            grad_weights = apply_mask(grad_weights, keep)
        grad_scores = torch.ops.aten._softmax_backward_data(
            grad_weights, weights, -1, weights.dtype
        )
        grad_q = torch.matmul(grad_scores, k).mul_(ctx.scale)
        # The saved q carries the scale already.
        grad_k = torch.matmul(grad_scores.transpose(-1, -2), q)
        needs_bias = ctx.bias_shape is not None and ctx.needs_input_grad[3]
        grad_bias = grad_scores.sum_to_size(ctx.bias_shape) if needs_bias else None
        return grad_q, grad_k, grad_v, grad_bias, None, None


def _drop(weights: Tensor, keep: Tensor | None) -> Tensor:
    return weights if keep is None else apply_mask(weights, keep)
