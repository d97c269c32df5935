"""LoRA (Hu et al. 2021) through ``peft``: low-rank adapters instead of all weights.

The adapters are on the query, key and value projections, which are one parameter here. The weights
of the model, its embeddings included, are frozen; heads are trained in full. Saved models are
merged, so that they are ordinary ones; what a run needs to resume is in its training state.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from funnel.utils.errors import CheckpointError, ConfigError

M = TypeVar("M", bound=nn.Module)

_PARAMETER = "qkv_weight"
_TARGET = f"attention.{_PARAMETER}"
_ADAPTER = "default"  # peft's name


def add_adapters(model: nn.Module, rank: int) -> None:
    """Put adapters of a rank on a model, once, and freeze all weights below its head.

    The product of both adapters is scaled by 1; it is 0 at first.

    Raises:
        ConfigError: the rank is not positive, or peft is not installed.
    """
    if rank < 1:
        raise ConfigError(f"--lora_rank={rank}: must be at least 1")
    if has_adapters(model):
        return
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ConfigError("--lora_rank: peft is not installed; `pip install peft`") from None
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=[], target_parameters=[_TARGET])
    inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name or not name.startswith("funnel."))


def check_adapters(model: nn.Module, frozen: str) -> None:
    """Check that freezing parts of a model has left adapters to train, if it has any.

    Raises:
        ConfigError: all of them are frozen, so that only the head would be trained.
    """
    adapters = [p for name, p in model.named_parameters() if "lora_" in name]
    if adapters and not any(parameter.requires_grad for parameter in adapters):
        raise ConfigError(
            f"--freeze={frozen}: freezes all adapters of --lora_rank, which freezes the weights "
            "below them itself"
        )


def has_adapters(model: nn.Module) -> bool:
    """Return whether a model has adapters."""
    return next(_wrappers(model), None) is not None


def merged_copy(model: M) -> M:
    """Return a copy of a model with its adapters merged into the weights, without wrappers."""
    merged = copy.deepcopy(model)
    for name, wrapper in list(_wrappers(merged)):
        parent, _, attribute = name.rpartition(".")
        base = wrapper.unload_and_optionally_merge_module(True, False, [_ADAPTER])
        setattr(merged.get_submodule(parent), attribute, base)
    return merged


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the adapters and the weights below them, by name; empty without adapters."""
    return {
        f"{name}.{part}": tensor.detach().clone()
        for name, wrapper in _wrappers(model)
        for part, tensor in _tensors(wrapper).items()
    }


@torch.no_grad()
def load_adapter_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load the result of :func:`adapter_state`.

    Raises:
        CheckpointError: it is that of another model.
    """
    for name, wrapper in _wrappers(model):
        for part, tensor in _tensors(wrapper).items():
            saved = state.get(f"{name}.{part}")
            if saved is None or saved.shape != tensor.shape:
                raise CheckpointError(f"the adapters do not fit: {name}.{part}")
            tensor.copy_(saved)


def _wrappers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield peft's wrappers of attention layers, with their names."""
    for name, module in model.named_modules():
        if getattr(module, "parameter_name", None) == _PARAMETER:
            yield name, module


def _tensors(wrapper: Any) -> dict[str, Tensor]:
    return {
        "base": getattr(wrapper.get_base_layer(), _PARAMETER),
        "lora_A": wrapper.lora_A[_ADAPTER].weight,
        "lora_B": wrapper.lora_B[_ADAPTER].weight,
    }
