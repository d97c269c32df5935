"""Initial weights: the original TensorFlow code's distributions, or the original PyTorch code's."""

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
_is_enabled: ContextVar[bool] = ContextVar("initialization_is_enabled", default=True)


@torch.no_grad()
def initialize(module: nn.Module, config: ModelConfig, only: Collection[str] | None = None) -> None:
    """Initialize the parameters of ``module``, in place; does nothing inside :func:`skip_init`.

    Biases become 0 and normalization gains 1. All other parameters, including the relative biases
    ``r_w_bias``, ``r_r_bias`` and ``r_s_bias``, are sampled as ``config.init`` names it, in the
    order of ``named_modules``: a seed gives the same weights only while that order stays.
    ``"pytorch"`` selects the distributions of the original PyTorch code, which transformers kept:
    linear layers N(0, 1 / (fan_in + fan_out)), embeddings N(0, 1), relative parameters uniform in
    [0, 0.1].

    Args:
        module: a model or a part of one.
        config: ``init``, ``init_std`` and ``init_range`` are used.
        only: names of the parameters to initialize; None means all.
    """
    if not _is_enabled.get():
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
                _sample_like_original_pytorch(owner, last, parameter)
            else:
                _sample(parameter, config)


@contextlib.contextmanager
def skip_init() -> Iterator[None]:
    """Build modules with uninitialized parameters, as from ``torch.empty``.

    Saves the time for random values that a checkpoint is about to replace, and leaves the random
    generator alone. (``torch.nn.utils.skip_init`` does this through the device "meta", but torch
    imports for a second before it makes an ``nn.Embedding`` there.)
    """
    token = _is_enabled.set(False)
    try:
        with _SkipTorchInit():
            yield
    finally:
        _is_enabled.reset(token)


class _SkipTorchInit(TorchFunctionMode):
    """Turns the functions of ``torch.nn.init``, which torch's own modules call, into no-ops."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def _sample(parameter: Tensor, config: ModelConfig) -> None:
    if config.init == "uniform":
        parameter.uniform_(-config.init_range, config.init_range)
    elif config.init == "normal":
        parameter.normal_(0.0, config.init_std)
    else:
        # TensorFlow's truncated_normal cuts at two standard deviations.
        bound = 2 * config.init_std
        nn.init.trunc_normal_(parameter, 0.0, config.init_std, -bound, bound)


def _sample_like_original_pytorch(owner: nn.Module, name: str, parameter: Tensor) -> None:
    if isinstance(owner, nn.Embedding):
        parameter.normal_(0.0, 1.0)
    elif name == "qkv_weight":
        # Three matrices in one: the fan-out is that of a single projection.
        rows, width = parameter.shape
        parameter.normal_(0.0, math.sqrt(1 / (rows // 3 + width)))
    elif parameter.dim() == 2 and isinstance(owner, nn.Linear):
        parameter.normal_(0.0, math.sqrt(1 / sum(parameter.shape)))
    else:
        parameter.uniform_(0.0, 0.1)
