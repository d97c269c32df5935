"""Relative attention in one fused GPU kernel, whose memory grows linearly with the lengths.

The kernels are in ``triton_attention``; this module decides where they apply and connects them to
automatic differentiation. Triton is imported only when the kernel is used.
"""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

logger = logging.getLogger(__name__)

# Head sizes with which a tile fits into registers and shared memory.
_HEAD_SIZES = (16, 32, 64, 128)
_HALF = (torch.float16, torch.bfloat16)
# Programs of the backward pass for the distances: enough to fill a large GPU.
_POSITION_PROGRAMS = 512


@dataclass(frozen=True)
class Tile:
    """What one program computes at a time.

    Attributes:
        queries: at ratio 1; fewer at larger ratios where ``is_divided``.
        keys: number of keys.
        distances: a power of two, at least ``keys + ratio * (queries - 1)``.
        warps: number of warps that share the work.
        is_divided: whether the number of queries is divided by the ratio.
    """

    queries: int
    keys: int
    distances: int
    warps: int
    is_divided: bool = True

    def constants(self, ratio: int) -> dict[str, int]:
        """Return the constants of a kernel."""
        return {
            "BLOCK_M": self.queries // ratio if self.is_divided else self.queries,
            "BLOCK_N": self.keys,
            "WIDTH": self.distances,
            "num_warps": self.warps,
            "num_stages": 1,
        }


# The largest tiles of which nothing is spilled from the registers of sm_80 and sm_90, by the
# compiler's account (tests/torch/test_fused_compilation.py); they were never timed on a GPU.
TILES = {
    "forward": Tile(32, 64, 128, warps=8, is_divided=False),
    "backward_queries": Tile(32, 32, 64, warps=8),
    "backward_keys": Tile(32, 32, 64, warps=4),
    "backward_positions": Tile(32, 32, 64, warps=4),
}


@dataclass(frozen=True)
class FusedInputs:
    """Everything that one call computes with.

    Attributes:
        q: content queries (r_w_bias included) [N, B, Tq, d].
        k, v: keys and values [N, B, Tk, d].
        position_query: [N, B, Tq, d].
        position_keys: projected embeddings of R distances [N, R, d].
        bonus: extra score of keys of the query's own segment [N, B, Tq]; None without segments.
        cls_column: bias of the separate [CLS] key [N, B, Tq]; None without segments.
        query_segments, key_segments: segment ids [B, Tq] and [B, Tk], or None.
        key_bias: added to all scores of a key [B, Tk], or None.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    position_query: Tensor
    position_keys: Tensor
    bonus: Tensor | None = None
    cls_column: Tensor | None = None
    query_segments: Tensor | None = None
    key_segments: Tensor | None = None
    key_bias: Tensor | None = None


@dataclass(frozen=True)
class FusedSettings:
    """What is not a tensor.

    Attributes:
        scale: factor of the content scores.
        ratio, offset: query i meets key j at distance ``j - ratio * i + offset``.
        separate_cls: whether key 0 is a [CLS] without position and segment scores.
        dropout: rate at which attention weights are dropped.
    """

    scale: float
    ratio: int
    offset: int
    separate_cls: bool
    dropout: float


@cache
def has_triton() -> bool:
    """Return whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


def why_not_fused(q: Tensor, ratio: int) -> str | None:
    """Return the reason why the fused kernel cannot be used, or None where it can.

    Args:
        q: queries [N, B, Tq, d].
        ratio: keys per query in position.
    """
    if not q.is_cuda:
        return f"the device is {q.device.type}"
    if torch.version.hip is not None:
        return "the GPU is not one of NVIDIA"
    if torch.cuda.get_device_capability(q.device) < (8, 0):
        return "the GPU is older than compute capability 8.0"
    if not has_triton():
        return "triton is not installed"
    if q.dtype not in _HALF:
        return f"scores are computed in {str(q.dtype).removeprefix('torch.')}"
    if q.shape[-1] not in _HEAD_SIZES:
        return f"heads of size {q.shape[-1]}"
    if ratio not in (1, 2):
        return f"{ratio} keys per pooled query"
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return "the model is compiled or exported"
    return None


@cache
def log_fallback(reason: str) -> None:
    """Log once per process and reason that the fused kernel is not used."""
    logger.debug("Attention by PyTorch's kernels instead of the fused one: %s", reason)


def fused_attention(inputs: FusedInputs, settings: FusedSettings) -> Tensor:
    """Compute attention with relative positions, segments and padding.

    Returns:
        [N, B, Tq, d] of the dtype of ``q``, laid out as [B, Tq, N, d].
    """
    # Sampled by the CPU's generator: no wait for the GPU, and the seed of a run decides it.
    seed = int(torch.randint(2**31 - 1, (), device="cpu")) if settings.dropout else 0
    fields = [getattr(inputs, name) for name in FusedInputs.__dataclass_fields__]
    return _FusedAttention.apply(settings, seed, *fields)


class _FusedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, settings: FusedSettings, seed: int, *fields: Tensor | None) -> Tensor:
        call = _Call(settings, seed, _prepare(FusedInputs(*fields)))  # type: ignore[arg-type]
        out, log_sum = call.forward()
        ctx.call_settings, ctx.seed = settings, seed
        ctx.dtypes = [None if x is None else x.dtype for x in fields]
        ctx.save_for_backward(*call.fields(), out, log_sum)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *fields, out, log_sum = ctx.saved_tensors
        call = _Call(ctx.call_settings, ctx.seed, FusedInputs(*fields))
        gradients = call.backward(grad, out, log_sum)
        cast = [
            None if gradient is None else gradient.to(dtype)
            for gradient, dtype in zip(gradients, ctx.dtypes, strict=False)
        ]
        return (None, None, *cast, None, None, None)


def _prepare(inputs: FusedInputs) -> FusedInputs:
    """Bring the inputs into the layout and types that the kernels read."""

    def typed(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        return None if x is None else x.to(dtype).contiguous()

    dtype = inputs.q.dtype
    q, k, v, query = (
        x if x.stride(-1) == 1 else x.contiguous()
        for x in (inputs.q, inputs.k, inputs.v, inputs.position_query.to(dtype))
    )
    return FusedInputs(
        q, k, v, query,
        inputs.position_keys.to(dtype).contiguous(),
        typed(inputs.bonus, torch.float32),
        typed(inputs.cls_column, torch.float32),
        typed(inputs.query_segments, torch.int32),
        typed(inputs.key_segments, torch.int32),
        typed(inputs.key_bias, torch.float32),
    )  # fmt: skip


class _Call:
    """One call of the kernels, forward or backward."""

    def __init__(self, settings: FusedSettings, seed: int, inputs: FusedInputs) -> None:
        from funnel_torch.kernels import triton_attention, triton_tiles

        self.kernels: ModuleType = triton_attention
        self.tiles: ModuleType = triton_tiles
        self.settings, self.inputs = settings, inputs
        self.heads, self.batch, self.queries, self.size = inputs.q.shape
        self.keys, self.distances = inputs.k.shape[2], inputs.position_keys.shape[1]
        self.sizes = self.tiles.Sizes(
            self.batch, self.queries, self.keys, self.distances, settings.offset,
            settings.scale, float(settings.dropout), seed,
        )  # fmt: skip
        self.pointers = self.tiles.Inputs(*self.fields())

    def fields(self) -> list[Tensor | None]:
        """Return the inputs in order."""
        return [getattr(self.inputs, name) for name in FusedInputs.__dataclass_fields__]

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return the result and the logarithms of the sums of exponentials [N, B, Tq]."""
        q = self.inputs.q
        out = q.new_empty(self.batch, self.queries, self.heads, self.size).permute(2, 0, 1, 3)
        log_sum = q.new_empty(q.shape[:3], dtype=torch.float32)
        grid = (self._blocks("forward", "BLOCK_M", self.queries), self.heads * self.batch)
        self._run("forward", grid, self._strides(out), out, log_sum)
        return out, log_sum

    def backward(self, grad: Tensor, out: Tensor, log_sum: Tensor) -> list[Tensor | None]:
        """Return the gradients of the floating-point inputs, in the order of the fields."""
        grad = grad if grad.stride(-1) == 1 else grad.contiguous()
        delta = (grad.float() * out.float()).sum(-1).contiguous()
        strides, saved = self._strides(grad), self.tiles.Saved(grad, log_sum, delta)
        dq, d_query = self._empty(self.queries), self._empty(self.queries)
        dk, dv = self._empty(self.keys), self._empty(self.keys)
        d_bonus, d_column = (
            None if x is None else torch.empty_like(x)
            for x in (self.inputs.bonus, self.inputs.cls_column)
        )
        pairs = self.heads * self.batch
        grid = (self._blocks("backward_queries", "BLOCK_M", self.queries), pairs)
        self._run("backward_queries", grid, strides, saved, dq, d_query, d_bonus, d_column)
        grid = (self._blocks("backward_keys", "BLOCK_N", self.keys), pairs)
        self._run("backward_keys", grid, strides, saved, dk, dv)
        d_positions = self._backward_positions(strides, saved)
        return [dq, dk, dv, d_query, d_positions, d_bonus, d_column]

    def _backward_positions(self, strides: Any, saved: Any) -> Tensor:
        """Return the gradient of the projected embeddings [N, R, d], summed over the batch."""
        blocks = self._blocks("backward_positions", "BLOCK_N", self.distances)
        # The batch is divided into shares until there are programs enough.
        shares = max(1, min(self.batch, _POSITION_PROGRAMS // (blocks * self.heads)))
        share = -(-self.batch // shares)
        shares = -(-self.batch // share)
        shape = (shares, self.heads, self.distances, self.size)
        partial = self.inputs.q.new_empty(shape, dtype=torch.float32)
        grid = (blocks, self.heads, shares)
        self._run("backward_positions", grid, strides, saved, partial, share)
        return partial.sum(0)

    def _run(self, name: str, grid: tuple[int, ...], strides: Any, *arguments: Any) -> None:
        """Start a kernel."""
        getattr(self.kernels, name)[grid](
            self.pointers, strides, self.sizes, *arguments,
            SIZE=self.size, RATIO=self.settings.ratio, SEPARATE_CLS=self.settings.separate_cls,
            DROPOUT=self.settings.dropout > 0,
            # Single precision is computed exactly; it serves the tests.
            PRECISION="ieee" if self.inputs.q.dtype == torch.float32 else "tf32",
            **TILES[name].constants(self.settings.ratio),
        )  # fmt: skip

    def _blocks(self, name: str, constant: str, length: int) -> int:
        """Return how many blocks of a kernel's tile cover ``length``."""
        return -(-length // TILES[name].constants(self.settings.ratio)[constant])

    def _empty(self, length: int) -> Tensor:
        return self.inputs.q.new_empty(self.heads, self.batch, length, self.size)

    def _strides(self, out: Tensor) -> Any:
        x = self.inputs
        return self.tiles.Strides(*(t.stride()[:3] for t in (x.q, x.k, x.v, x.position_query, out)))
