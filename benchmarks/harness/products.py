"""The matrix products of a model alone: what is left of its time if everything else cost nothing.

Optimizing whatever is not a product cannot make a model faster than its products. Their time over
that of another model is therefore a bound of the ratio of the two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

# PyTorch's, in place or not, and oneDNN's with a bias, GELU or a sum within. Composite ones arrive
# undivided in inference mode, divided otherwise.
PRODUCTS = frozenset(
    {
        "aten::addmm", "aten::baddbmm", "aten::bmm", "aten::einsum", "aten::linear", "aten::matmul",
        "aten::mm", "aten::scaled_dot_product_attention",
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
        "mkldnn::_linear_pointwise",
    }
)  # fmt: skip
# Elements of the memory that stands for the operands: 512 MiB, more than a cache.
_ELEMENTS = 2**27
_ALIGNMENT = 16


class _Memory:
    """Random numbers of which every operand gets the next ones, in its shape and strides.

    To keep the operands themselves would take the memory of all activations of all steps. Numbers
    are random, since products of denormal ones are slow.
    """

    def __init__(self, elements: int) -> None:
        self._values = torch.randn(elements)
        self._next = 0

    def stand_in(self, value: Any) -> Any:
        """Return a tensor of the same form for a tensor; anything else as it is."""
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        pairs = zip(value.shape, value.stride(), strict=True)
        needed = 1 + sum((size - 1) * stride for size, stride in pairs)
        values = self._values.view(value.dtype) if value.dtype != torch.float32 else self._values
        if self._next + needed > len(self._values):
            self._next = 0
        start, self._next = self._next, self._next + -(-needed // _ALIGNMENT) * _ALIGNMENT
        return torch.as_strided(values, value.shape, value.stride(), start)


class _Recorder(TorchDispatchMode):
    """Keeps every product that is computed meanwhile, with stand-ins of its operands."""

    def __init__(self, memory: _Memory) -> None:
        super().__init__()
        self.calls: list[Callable[[], object]] = []
        self._memory = memory

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        if func.name().split(".")[0].removesuffix("_") in PRODUCTS:
            made = tree_map(self._memory.stand_in, (args, kwargs or {}))
            self.calls.append(lambda: func(*made[0], **made[1]))
        return func(*args, **kwargs or {})


def record_products(run: Callable[[], object]) -> Callable[[], object]:
    """Return a callable that computes the matrix products of ``run`` and nothing else.

    Args:
        run: a forward pass or some training steps, on a CPU; called twice: the first call may
            measure which implementation is the fastest.

    Raises:
        ValueError: ``run`` computes no product that is known here.
    """
    run()
    with _Recorder(_Memory(_ELEMENTS)) as recorder:
        run()
    if not recorder.calls:
        raise ValueError("no matrix product was seen")

    @torch.no_grad()
    def replay() -> None:
        for call in recorder.calls:
            call()

    return replay
