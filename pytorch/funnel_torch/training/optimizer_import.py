"""Going on with somebody else's pretraining: Adam moments and step counter of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from funnel.checkpoints.names import GLOBAL_STEP, SLOTS
from funnel.utils.errors import CheckpointError
from funnel_torch.models.pretrained import PretrainedModel
from funnel_torch.models.weight_mapping import variable_views
from funnel_torch.training.fsdp import split_like
from funnel_torch.training.optimizer import FunnelAdamW

_MOMENTS = ("m", "v")


def global_step(state: Mapping[str, np.ndarray]) -> int:
    """Updates made before a checkpoint was written; 0 if it does not say."""
    return int(state[GLOBAL_STEP]) if GLOBAL_STEP in state else 0


@torch.no_grad()
def read_moments(
    model: PretrainedModel, state: Mapping[str, np.ndarray]
) -> dict[str, dict[str, Tensor]]:
    """Adam's moments by the names of the model's parameters, ``{name: {"m": …, "v": …}}``.

    Call it before the model is sharded.

    Args:
        model: whose parameters are asked for.
        state: a checkpoint's optimizer variables by their TensorFlow names
            (:attr:`funnel.checkpoints.Checkpoint.optimizer`).

    Raises:
        CheckpointError: moments of some variables are missing or of another shape.
    """
    moments: dict[str, dict[str, Tensor]] = {}
    wrong: list[str] = []
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
    return moments


def set_moments(
    optimizer: FunnelAdamW,
    parameters: Mapping[str, Tensor],
    moments: Mapping[str, Mapping[str, Tensor]],
    step: int,
) -> None:
    """Give the optimizer the ``moments`` of the ``parameters``, as after ``step`` updates."""
    for name, parameter in parameters.items():
        entry = {key: split_like(value, parameter) for key, value in moments[name].items()}
        optimizer.state[parameter] = entry
    for group in optimizer.param_groups:
        group["step"] = step
