"""Import TensorFlow's Adam state to continue pretraining: moments and step of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from funnel.checkpoints.names import GLOBAL_STEP, SLOTS
from funnel.utils.errors import CheckpointError
from funnel_torch.models.pretrained import PretrainedModel
from funnel_torch.models.weight_mapping import variable_views
from funnel_torch.training.fsdp import distribute_like
from funnel_torch.training.optimizer import FunnelAdamW

_MOMENTS = ("m", "v")


@dataclass(frozen=True)
class AdamState:
    """Adam's state after ``step`` updates.

    ``moments`` are full CPU tensors by parameter name and moment,
    ``{name: {"m": ..., "v": ...}}``.
    """

    step: int
    moments: Mapping[str, Mapping[str, Tensor]]


def global_step(state: Mapping[str, np.ndarray]) -> int:
    """Return the number of updates made before a checkpoint was written, 0 if not recorded."""
    return int(state[GLOBAL_STEP]) if GLOBAL_STEP in state else 0


@torch.no_grad()
def read_adam_state(model: PretrainedModel, state: Mapping[str, np.ndarray]) -> AdamState:
    """Convert a checkpoint's Adam state to the parameters of ``model``.

    Args:
        model: the model, not yet sharded.
        state: optimizer variables of a checkpoint by their TensorFlow names
            (:attr:`funnel.checkpoints.Checkpoint.optimizer`).

    Raises:
        CheckpointError: moments of variables are missing or have another shape.
    """
    moments: dict[str, dict[str, Tensor]] = {}
    wrong: list[str] = []
    # A parameter may consist of several variables (query, key and value are fused): each variable
    # is copied to its part of the parameter's moments.
    for name, parameter, view in variable_views(model, model.config):
        entry = moments.setdefault(
            name, {key: torch.zeros_like(parameter, device="cpu") for key in _MOMENTS}
        )
        for key, suffix in zip(_MOMENTS, SLOTS, strict=True):
            array = state.get(view.name + suffix)
            if array is None or array.shape != view.shape:
                wrong.append(view.name + suffix)
            else:
                view.select(entry[key]).copy_(torch.from_numpy(np.array(array)))
    if wrong:
        raise CheckpointError(
            f"Adam moments are missing or of another shape for {len(wrong)} variables, "
            f"first {wrong[0]}; --no-init_global_vars starts with fresh ones"
        )
    return AdamState(global_step(state), moments)


def load_adam_state(
    optimizer: FunnelAdamW, parameters: Mapping[str, Tensor], state: AdamState
) -> None:
    """Load an Adam state into the optimizer of ``parameters``, which may be sharded."""
    for name, parameter in parameters.items():
        moments = state.moments[name]
        optimizer.state[parameter] = {
            key: distribute_like(value, parameter) for key, value in moments.items()
        }
    for group in optimizer.param_groups:
        group["step"] = state.step
