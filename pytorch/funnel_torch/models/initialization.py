"""Initial weights: the TensorFlow tree's distributions, or by name the original PyTorch ones."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from funnel.config.model import ModelConfig

_ZERO_PARAMETERS = ("k_bias", "v_bias", "bias")
_is_filling: ContextVar[bool] = ContextVar("is_filling", default=True)


@torch.no_grad()
def initialize(module: nn.Module, config: ModelConfig, only: Collection[str] | None = None) -> None:
    """Fill the parameters of ``module``, or those named in ``only``; inside :func:`unfilled`, none.

    Biases are 0 and normalisation gains 1. Every other parameter is drawn as ``config.init``
    says; ``"pytorch"`` stands for the original PyTorch code's choices, which Hugging Face kept:
    dense N(0, 1 / (fan_in + fan_out)), embeddings N(0, 1), relative parameters uniform in 0..0.1.
    """
    if not _is_filling.get():
        return
    for prefix, owner in module.named_modules():
        for name, parameter in owner.named_parameters(prefix, recurse=False):
            if only is not None and name not in only:
                continue
            last = name.rpartition(".")[2]
            if last in _ZERO_PARAMETERS:
                parameter.zero_()
            elif isinstance(owner, nn.LayerNorm):
                parameter.fill_(1.0)
            elif config.init == "pytorch":
                _draw_like_original_pytorch(owner, last, parameter)
            else:
                _draw(parameter, config)


@contextlib.contextmanager
def unfilled() -> Iterator[None]:
    """Modules made inside get parameters with undefined values, as of ``torch.empty``.

    Loading weights into them takes no time for random ones first. (The device "meta" would do the
    same, but torch imports for a second before it makes an ``nn.Embedding`` there.)
    """
    token = _is_filling.set(False)
    try:
        with _NothingFilled():
            yield
    finally:
        _is_filling.reset(token)


class _NothingFilled(TorchFunctionMode):
    """``torch.nn.init``, by which torch's own modules begin, does nothing."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def _draw(parameter: Tensor, config: ModelConfig) -> None:
    if config.init == "uniform":
        parameter.uniform_(-config.init_range, config.init_range)
    elif config.init == "normal":
        parameter.normal_(0.0, config.init_std)
    else:
        bound = 2 * config.init_std
        nn.init.trunc_normal_(parameter, 0.0, config.init_std, -bound, bound)


def _draw_like_original_pytorch(owner: nn.Module, name: str, parameter: Tensor) -> None:
    if isinstance(owner, nn.Embedding):
        parameter.normal_(0.0, 1.0)
    elif name == "qkv_weight":
        rows, width = parameter.shape
        parameter.normal_(0.0, math.sqrt(1 / (rows // 3 + width)))
    elif parameter.dim() == 2 and isinstance(owner, nn.Linear):
        parameter.normal_(0.0, math.sqrt(1 / sum(parameter.shape)))
    else:
        parameter.uniform_(0.0, 0.1)
