"""Fully sharded training (FSDP2): every process holds a part of weights, gradients and moments.

What is saved is whole, so a run may go on sharded or not:

    sharded = ShardedModel(model, world)     # before the optimizer is built
    ...
    sharded.collect()                        # in every process
    sharded.twin.save_pretrained(folder)     # in the first one
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from funnel.utils.errors import ConfigError
from funnel_torch.models.layers import FunnelLayer
from funnel_torch.training.distributed import DistributedContext


class ShardedModel:
    """Shards a model in place, layer by layer; embeddings and heads are one more unit.

    Attributes:
        twin: in the first process, the whole model on the CPU as of the last :meth:`collect`;
            None in the others.

    Raises:
        ConfigError: there is one process only.
    """

    def __init__(self, model: nn.Module, world: DistributedContext) -> None:
        if world.size == 1:
            raise ConfigError("--fsdp shares a model among processes: start several with torchrun")
        # Imported here: it takes half a second, which runs of other kinds need not wait.
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        self.twin = copy.deepcopy(model).cpu() if world.is_rank_zero else None
        self._model = model
        mesh = init_device_mesh(world.device.type, (world.size,))
        for module in list(model.modules()):
            if isinstance(module, FunnelLayer):
                fully_shard(module, mesh=mesh)
        fully_shard(model, mesh=mesh)

    @torch.no_grad()
    def collect(self) -> None:
        """Bring :attr:`twin` up to date; every process has to call it."""
        targets = dict(self.twin.named_parameters()) if self.twin is not None else {}
        for name, parameter in self._model.named_parameters():
            full = whole(parameter)
            if name in targets:
                targets[name].copy_(full)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor of which each process holds a part; any other as it is."""
    return tensor.full_tensor() if _is_part(tensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """This process's part of such a tensor, sharing its memory; any other as it is."""
    return tensor.to_local() if _is_part(tensor) else tensor


def split_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A whole ``tensor`` on the device of ``parameter``, and in parts if that is."""
    tensor = tensor.to(parameter.device)
    if not _is_part(parameter):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements)


def whole_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's ``state_dict`` with whole tensors; every process has to call it."""
    state = optimizer.state_dict()
    if not _is_sharded(optimizer):
        return state
    entries = {
        index: {key: _whole_on_cpu(value) for key, value in entry.items()}
        for index, entry in state["state"].items()
    }
    return {**state, "state": entries}


def load_whole_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load what :func:`whole_state` returned, into an optimizer that may be sharded or not."""
    if _is_sharded(optimizer):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        entries = {
            index: {key: _split_value(value, parameters[index]) for key, value in entry.items()}
            for index, entry in state["state"].items()
        }
        state = {**state, "state": entries}
    optimizer.load_state_dict(dict(state))


def _is_sharded(optimizer: torch.optim.Optimizer) -> bool:
    return any(_is_part(p) for group in optimizer.param_groups for p in group["params"])


def _is_part(tensor: Tensor) -> bool:
    """Whether this is a ``DTensor``, told without importing it."""
    return hasattr(tensor, "full_tensor")


def _whole_on_cpu(value: Any) -> Any:
    return whole(value).cpu() if isinstance(value, Tensor) else value


def _split_value(value: Any, parameter: Tensor) -> Any:
    # Counters are tensors of no dimension, the same everywhere.
    is_moment = isinstance(value, Tensor) and value.dim() > 0
    return split_like(value, parameter) if is_moment else value
