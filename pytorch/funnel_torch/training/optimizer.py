"""Optimizers, layer-wise learning-rate decay, weight-decay exclusion and gradient clipping.

There are two optimizers. ``adamw`` is :class:`torch.optim.AdamW` with the constants of the original
PyTorch fine-tuner. ``funnel_adamw`` is the update rule of the original TensorFlow programs, which
differs from ``torch.optim.AdamW``: epsilon is added to the root of the second moment *before* bias
correction, and bias correction also scales the weight decay.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import nn

from funnel.config.training.optimizer import (
    DECAY_METHODS,
    LAYER_DECAYS,
    OPTIMIZERS,
    OptimizerConfig,
    ScheduleConfig,
    layer_factors,
)
from funnel_torch.training.fsdp import full_tensor, local_tensor

__all__ = [
    "DECAY_METHODS",
    "LAYER_DECAYS",
    "OPTIMIZERS",
    "FunnelAdamW",
    "OptimizerConfig",
    "ScheduleConfig",
    "build_optimizer",
    "clip_gradients",
    "is_decayed",
    "parameter_groups",
    "parameter_layers",
    "scale_gradients",
    "set_learning_rate",
    "step_if_finite",
]

# Parameters that belong to a layer; models with a head keep the transformer under `funnel`.
_EMBEDDING = re.compile(r"^(?:funnel\.)?embeddings\.")
_LAYER = re.compile(r"^(?:funnel\.)?(encoder|decoder)\.layers\.(\d+)\.")
# Parameters that are `bias` variables in the canonical names (k and v are fused or renamed here).
_BIAS_NAMES = frozenset({"bias", "k_bias", "v_bias"})
# A step count t for which beta^t is 0 in float32.
_ENDLESS = 1e12


class FunnelAdamW(torch.optim.Optimizer):
    """AdamW of the original TensorFlow programs (see the module docstring), vectorised.

    With t counted from 1::

        m = b1 m + (1 - b1) g
        v = b2 v + (1 - b2) g^2
        p = p - lr sqrt(1 - b2^t) / (1 - b1^t) (m / (sqrt(v) + eps) + wd p)

    ``correct_bias=False`` replaces the factor sqrt(1 - b2^t) / (1 - b1^t) by 1.

    ``fused`` computes the update of a group in one kernel, PyTorch's of AdamW. As PyTorch's own
    fused optimizers, it takes ``found_inf`` from the attribute of this name, a float tensor without
    dimensions: where that is 1, a step changes nothing.
    """

    # Of a copy, too: PyTorch copies no other attributes of an optimizer than its state. The second
    # one is the mark by which torch.amp.GradScaler recognises optimizers that take found_inf.
    _fused = _step_supports_amp_scaling = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        correct_bias: bool = True,
        fused: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "correct_bias": correct_bias,
        }
        super().__init__(params, defaults)
        self._fused = self._step_supports_amp_scaling = fused

    def state_dict(self) -> dict[str, Any]:
        """Return the state; step counts are numbers in either form of the optimizer."""
        state = super().state_dict()
        for group in state["param_groups"]:
            if "step" in group:
                group["step"] = int(group["step"])
        return state

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update every parameter that has a gradient; return the loss of the closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._update(group, params)
        return loss

    def _update(self, group: dict[str, Any], params: list[torch.Tensor]) -> None:
        for p in params:
            if not self.state[p]:
                self.state[p] = {"m": torch.zeros_like(p), "v": torch.zeros_like(p)}
        # The update is elementwise: each process updates its local shards.
        grads = [local_tensor(p.grad) for p in params if p.grad is not None]
        first = [local_tensor(self.state[p]["m"]) for p in params]
        second = [local_tensor(self.state[p]["v"]) for p in params]
        params = [local_tensor(p) for p in params]
        # One step count per group, not per parameter: a parameter that has no gradient in some
        # steps must not fall behind the others in its bias correction.
        if self._fused:
            self._update_fused(group, params, grads, (first, second))
            return
        group["step"] = group.get("step", 0) + 1
        beta1, beta2 = group["betas"]

        torch._foreach_mul_(first, beta1)
        torch._foreach_add_(first, grads, alpha=1.0 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, grads, grads, value=1.0 - beta2)
        # Epsilon is added before bias correction, as in the original: in the first steps, where
        # 1 - beta2^t is small, it weighs more than in torch.optim.AdamW.
        update = torch._foreach_sqrt(second)
        torch._foreach_add_(update, group["eps"])
        update = torch._foreach_div(first, update)
        if group["weight_decay"] != 0.0:
            torch._foreach_add_(update, params, alpha=group["weight_decay"])

        # The factor applies to the weight decay too, which is part of the update by now.
        step_size = group["lr"]
        if group["correct_bias"]:
            t = group["step"]
            step_size *= math.sqrt(1.0 - beta2**t) / (1.0 - beta1**t)
        torch._foreach_add_(params, update, alpha=-step_size)

    def _update_fused(
        self,
        group: dict[str, Any],
        params: list[torch.Tensor],
        grads: list[torch.Tensor],
        moments: tuple[list[torch.Tensor], list[torch.Tensor]],
    ) -> None:
        # The step count is a tensor: whether the last step counted is not known here yet.
        step, device = group.get("step", 0), params[0].device
        if not isinstance(step, torch.Tensor):
            step = torch.full((), float(step), device=device)
        found_inf = getattr(self, "found_inf", None)
        counted = step + 1.0
        group["step"] = counted if found_inf is None else counted - found_inf
        beta1, beta2 = group["betas"]
        step_size = torch.full_like(step, group["lr"])
        if group["correct_bias"]:
            step_size *= _one_minus_power(beta2, counted).sqrt() / _one_minus_power(beta1, counted)
        # Bias correction is part of the step size, and also scales the weight decay. With so large
        # a step count the kernel's own correction is 1.
        torch._fused_adamw_(
            params,
            grads,
            *moments,
            [],
            [torch.full_like(step, _ENDLESS)] * len(params),
            lr=step_size,
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
            grad_scale=getattr(self, "grad_scale", None),
            found_inf=found_inf,
        )


def _one_minus_power(beta: float, exponent: torch.Tensor) -> torch.Tensor:
    # 1 - beta^t with all digits of float32, also for small t; Apple's GPUs have no float64.
    return -torch.expm1(exponent * (math.log(beta) if beta > 0.0 else -math.inf))


def parameter_layers(names: Iterable[str]) -> dict[str, int | None]:
    """Return the layer of every parameter for layer decay.

    The input embedding (with its LayerNorm) is layer 0, encoder layer k is layer k + 1, and decoder
    layers follow those of the encoder. Heads, the input projection and a generator have no layer
    (None) and are not scaled.
    """
    names = list(names)
    matches = {name: _LAYER.match(name) for name in names}
    encoder = [int(m.group(2)) for m in matches.values() if m and m.group(1) == "encoder"]
    first_decoder = 1 + max(encoder, default=-1)
    layers: dict[str, int | None] = {}
    for name, match in matches.items():
        if match:
            base = first_decoder if match.group(1) == "decoder" else 0
            layers[name] = 1 + base + int(match.group(2))
        else:
            layers[name] = 0 if _EMBEDDING.match(name) else None
    return layers


def is_decayed(name: str) -> bool:
    """Return whether a parameter is decayed with ``use_wd_exclusion``.

    LayerNorms and biases (``bias`` in the canonical names) are not decayed; the embeddings,
    ``seg_embed`` and the relative ``r_*_bias`` are, as in the original.
    """
    return "layer_norm" not in name and name.rsplit(".", 1)[-1] not in _BIAS_NAMES


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Return parameter groups of equal weight decay and layer factor, in the order of the model.

    Layer l of L has the factor q^(L - 1 - l), with q = ``layer_decay_rate``. By default it scales
    the clipped gradient, as in the original; since Adam divides by the gradient's magnitude, that
    hardly changes the updates. ``layer_decay="lr"`` scales the learning rate instead. The groups
    have the factor as ``grad_scale`` (see :func:`scale_gradients`) or ``lr_scale`` (see
    :func:`set_learning_rate`).
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    # Frozen layers count: the factors of the others do not depend on them.
    layers = parameter_layers(name for name, _ in model.named_parameters())
    factors = layer_factors(layers, config.layer_decay_rate)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in named:
        factor = factors[name]
        excluded = config.use_wd_exclusion and not is_decayed(name)
        decay = 0.0 if excluded else config.weight_decay
        group = groups.setdefault(
            (decay, factor),
            {
                "params": [],
                "weight_decay": decay,
                "grad_scale": factor if config.layer_decay == "gradient" else 1.0,
                "lr_scale": factor if config.layer_decay == "lr" else 1.0,
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Build the optimizer of all trainable parameters of ``model``."""
    groups = parameter_groups(model, config)
    betas = (config.beta1, config.beta2)
    devices = {p.device.type for group in groups for p in group["params"]}
    if config.name == "funnel_adamw":
        return FunnelAdamW(
            groups,
            betas=betas,
            eps=config.epsilon,
            correct_bias=config.adam_correction,
            fused=devices == {"cuda"},
        )
    # One kernel for all parameters; elsewhere one call per operation, not per parameter.
    kind = "fused" if devices <= {"cuda", "cpu"} else "foreach"
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=config.epsilon, **{kind: True})


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group to ``lr`` times its ``lr_scale``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


@torch.no_grad()
def scale_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Multiply the (already clipped) gradients by the ``grad_scale`` of their group, in place."""
    for group in optimizer.param_groups:
        scale = group.get("grad_scale", 1.0)
        grads = [local_tensor(p.grad) for p in group["params"] if p.grad is not None]
        if scale != 1.0 and grads:
            torch._foreach_mul_(grads, scale)


def step_if_finite(optimizer: torch.optim.Optimizer, norm: torch.Tensor) -> None:
    """Make a step of the optimizer if the gradient norm is finite; otherwise change nothing.

    Fused optimizers decide on the device, so that this process need not wait for the norm. The
    others count their steps here, and this process asks whether it counts.

    Args:
        optimizer: its gradients are not scaled (any more).
        norm: no dimensions; equal in all processes.
    """
    is_finite = torch.isfinite(norm)
    if not getattr(optimizer, "_step_supports_amp_scaling", False):
        if is_finite:
            optimizer.step()
        return
    fused = cast(Any, optimizer)
    fused.grad_scale, fused.found_inf = None, is_finite.logical_not().float()
    try:
        optimizer.step()
    finally:
        del fused.grad_scale, fused.found_inf


@torch.no_grad()
def clip_gradients(parameters: Iterable[torch.Tensor], clip: float) -> torch.Tensor:
    """Multiply all gradients by ``min(1, clip / norm)`` in place; return the norm before clipping.

    With ``clip`` 0 or less the gradients are not changed. The norm is that of the dense gradient.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    norm = full_tensor(torch.nn.utils.get_total_norm(grads))
    if clip > 0.0:
        # clamp propagates NaN, so a step with a NaN norm is still recognised and skipped. A tensor
        # as factor avoids waiting for the GPU.
        factor = torch.clamp(clip / norm, max=1.0)
        torch._foreach_mul_([local_tensor(grad) for grad in grads], factor)
    return norm
