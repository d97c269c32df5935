"""Fully sharded training (FSDP2): weights, gradients and moments are divided among the processes.

Checkpoints hold full tensors, so that a run can be resumed sharded or not:

    sharded = ShardedModel(model, world)  # before the optimizer is built
    ...
    sharded.gather()  # in every process
    sharded.cpu_copy.save_pretrained(folder)  # on rank 0
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn

from funnel.config.limits import describe, first_line
from funnel.utils.errors import CheckpointError, ConfigError
from funnel_torch.models.layers import FunnelLayer
from funnel_torch.training.distributed import DistributedContext

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


class ShardedModel:
    """Shards a model in place, one unit per layer, and one for embeddings and heads.

    Attributes:
        cpu_copy: the full model on the CPU as of the last :meth:`gather`; None except on rank 0.

    Raises:
        ConfigError: there is only one process.
    """

    def __init__(self, model: nn.Module, world: DistributedContext) -> None:
        if world.size == 1:
            raise ConfigError("--fsdp shares a model among processes: start several with torchrun")
        # Imported on use: the import takes half a second.
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        self.cpu_copy = copy.deepcopy(model).cpu() if world.is_rank_zero else None
        self._model = model
        mesh = init_device_mesh(world.device.type, (world.size,))
        for module in list(model.modules()):
            if isinstance(module, FunnelLayer):
                fully_shard(module, mesh=mesh)
        fully_shard(model, mesh=mesh)

    def gather(self) -> None:
        """Copy the current weights to :attr:`cpu_copy`; to be called in every process."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state = get_model_state_dict(self._model, options=options)  # empty except on rank 0
        if self.cpu_copy is not None:
            self.cpu_copy.load_state_dict(state)


def full_tensor(tensor: Tensor) -> Tensor:
    """Return the full tensor of a sharded one, on every process; any other tensor unchanged."""
    return tensor.full_tensor() if _is_sharded(tensor) else tensor


def local_tensor(tensor: Tensor) -> Tensor:
    """Return the local shard of a sharded tensor (shared memory); any other tensor unchanged."""
    return tensor.to_local() if _is_sharded(tensor) else tensor


def distribute_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Return a full ``tensor`` on the device of ``parameter``, sharded as that is."""
    tensor = tensor.to(parameter.device)
    if not _is_sharded(parameter):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements)


# torch.distributed.checkpoint.state_dict.get_optimizer_state_dict is not used here: it keys the
# state by parameter name, while an unsharded optimizer's (and so the format of
# training_state.pt) is keyed by number, and it takes an optimizer step to create missing state.
def full_optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the ``state_dict`` of an optimizer with full tensors; to be called in every process.

    The state of an optimizer of sharded parameters is moved to the CPU.
    """
    state = optimizer.state_dict()
    if not _has_sharded_parameters(optimizer):
        return state
    entries = {
        index: {
            key: full_tensor(value).cpu() if isinstance(value, Tensor) else value
            for key, value in entry.items()
        }
        for index, entry in state["state"].items()
    }
    return {**state, "state": entries}


def load_full_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load the result of :func:`full_optimizer_state`, also into an optimizer that is sharded.

    Raises:
        CheckpointError: the state is that of another model or optimizer.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    _check_optimizer_state(parameters, state)
    if _has_sharded_parameters(optimizer):
        entries = {
            index: {key: _distribute(value, parameters[index]) for key, value in entry.items()}
            for index, entry in state["state"].items()
        }
        state = {**state, "state": entries}
    try:
        optimizer.load_state_dict(dict(state))
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"the optimizer's state does not fit: {first_line(error)}") from error


def _check_optimizer_state(parameters: Sequence[Tensor], state: Mapping[str, Any]) -> None:
    """Compare the shapes of the moments with those of the parameters, which torch does not."""
    entries = state.get("state")
    if not isinstance(entries, Mapping):
        raise CheckpointError("the optimizer's state does not fit: it has no entries")
    for index, entry in entries.items():
        is_known = isinstance(index, int) and 0 <= index < len(parameters)
        if not is_known or not isinstance(entry, Mapping):
            raise CheckpointError(f"the optimizer's state does not fit: entry {describe(index)}")
        for key, value in entry.items():
            is_moment = isinstance(value, Tensor) and value.dim() > 0
            if is_moment and value.shape != parameters[index].shape:
                raise CheckpointError(
                    f"the optimizer's state does not fit: {key} of parameter {index} is "
                    f"{list(value.shape)}, not {list(parameters[index].shape)}"
                )


def _distribute(value: Any, parameter: Tensor) -> Any:
    # Step counters are tensors without dimensions, replicated in every process.
    is_moment = isinstance(value, Tensor) and value.dim() > 0
    return distribute_like(value, parameter) if is_moment else value


def _has_sharded_parameters(optimizer: torch.optim.Optimizer) -> bool:
    return any(_is_sharded(p) for group in optimizer.param_groups for p in group["params"])


def _is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    # Not isinstance: it would import torch.distributed.tensor, which takes half a second.
    return hasattr(tensor, "full_tensor")
