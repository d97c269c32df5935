"""``softmax(scale * q k' + bias) v``, forward and backward, by what is fastest where it runs.

On a GPU, and on a CPU without dropout and gradient of the bias, that is PyTorch's fused kernel. Its
fallback for a training step on a CPU keeps three matrices of scores for the backward pass; here
one is kept, and one byte per score for the dropout.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from funnel_torch.kernels.dropout import draw_kept


def attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float, dropout: float
) -> Tensor:
    """[N, B, Tq, d] from ``q`` of that shape, ``k`` and ``v`` [N, B, Tk, d].

    Args:
        q: queries.
        k: keys.
        v: values.
        bias: added to the scaled products, broadcast to [N, B, Tq, Tk].
        scale: of the products.
        dropout: rate at which weights are dropped.
    """
    needs_grad = torch.is_grad_enabled() and bias is not None and bias.requires_grad
    if q.is_cuda or not (dropout or needs_grad):
        return F.scaled_dot_product_attention(q, k, v, bias, dropout, scale=scale)
    if q.device.type == "cpu" and not torch.compiler.is_compiling():
        # Autocast does not reach inside; scores are added up in the precision of the bias.
        with torch.autocast(q.device.type, enabled=False):
            return _Attend.apply(q, k, v, bias, scale, dropout)
    scores = torch.matmul(q * scale, k.transpose(-1, -2))
    if bias is not None:
        scores = scores + bias
    weights = F.dropout(torch.softmax(scores, -1), dropout)
    return torch.matmul(weights.to(v.dtype), v)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
        scale: float,
        rate: float,
    ) -> Tensor:
        q = q * scale
        scores = torch.matmul(q, k.transpose(-1, -2))
        if bias is not None:
            scores.add_(bias)
        weights = torch.softmax(scores, -1)
        kept = draw_kept(weights.shape, rate) if rate else None
        ctx.save_for_backward(q, k, v, weights, kept)
        ctx.scale, ctx.bias_shape = scale, None if bias is None else bias.shape
        ctx.gain = 1 / (1 - rate)
        return torch.matmul(_drop(weights, kept), v).mul_(ctx.gain)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights, kept = ctx.saved_tensors
        grad = grad * ctx.gain
        grad_v = torch.matmul(_drop(weights, kept).transpose(-1, -2), grad)
        grad_weights = torch.matmul(grad, v.transpose(-1, -2))
        if kept is not None:
            grad_weights.mul_(kept)
        grad_scores = torch.ops.aten._softmax_backward_data(
            grad_weights, weights, -1, weights.dtype
        )
        grad_q = torch.matmul(grad_scores, k).mul_(ctx.scale)
        grad_k = torch.matmul(grad_scores.transpose(-1, -2), q)
        has_bias = ctx.bias_shape is not None and ctx.needs_input_grad[3]
        grad_bias = grad_scores.sum_to_size(ctx.bias_shape) if has_bias else None
        return grad_q, grad_k, grad_v, grad_bias, None, None


def _drop(weights: Tensor, kept: Tensor | None) -> Tensor:
    return weights if kept is None else weights * kept
