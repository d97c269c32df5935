"""Optimizers, learning-rate schedules, layer decay and weight-decay exclusion.

Two optimizers are offered. ``adamw`` is :class:`torch.optim.AdamW` with the constants of the
original PyTorch fine-tuner. ``funnel_adamw`` is the update of the original TensorFlow programs:
epsilon joins the root of the second moment *before* bias correction, and the bias correction
scales the weight decay too, so it is not the same update as ``torch.optim.AdamW``.
"""

import math
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from funnel.config.optimizer import (
    DECAY_METHODS,
    LAYER_DECAYS,
    OPTIMIZERS,
    OptimizerConfig,
    ScheduleConfig,
    layer_factors,
)
from funnel_torch.training.fsdp import local, whole

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
]

# The parameters that belong to a depth of the model, wherever a head keeps its `funnel` body.
_EMBEDDING = re.compile(r"^(?:funnel\.)?embeddings\.")
_LAYER = re.compile(r"^(?:funnel\.)?(encoder|decoder)\.layers\.(\d+)\.")
# Fused or renamed biases that are plain `bias` variables in the canonical names.
_BIAS_NAMES = frozenset({"bias", "k_bias", "v_bias"})


class FunnelAdamW(torch.optim.Optimizer):
    """AdamW as in the original trees (see the module docstring), vectorised over all tensors.

    With t counted from 1: ``m = b1 m + (1-b1) g``, ``v = b2 v + (1-b2) g^2``,
    ``p -= lr sqrt(1-b2^t)/(1-b1^t) (m / (sqrt(v) + eps) + wd p)``.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        correct_bias: bool = True,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "correct_bias": correct_bias,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update of every parameter that has a gradient; returns the closure's loss."""
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
        beta1, beta2 = group["betas"]
        # One count per group: all its parameters are updated together. It lives in the group, so
        # that a parameter without a gradient now and then does not fall behind the others.
        group["step"] = group.get("step", 0) + 1
        for p in params:
            if not self.state[p]:
                self.state[p] = {"m": torch.zeros_like(p), "v": torch.zeros_like(p)}
        # Every element has its own update: of a sharded tensor this process's part will do.
        grads = [local(p.grad) for p in params]
        first = [local(self.state[p]["m"]) for p in params]
        second = [local(self.state[p]["v"]) for p in params]
        params = [local(p) for p in params]

        torch._foreach_mul_(first, beta1)
        torch._foreach_add_(first, grads, alpha=1.0 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, grads, grads, value=1.0 - beta2)
        update = torch._foreach_sqrt(second)
        torch._foreach_add_(update, group["eps"])
        update = torch._foreach_div(first, update)
        if group["weight_decay"] != 0.0:
            torch._foreach_add_(update, params, alpha=group["weight_decay"])

        size = group["lr"]
        if group["correct_bias"]:
            t = group["step"]
            size *= math.sqrt(1.0 - beta2**t) / (1.0 - beta1**t)
        torch._foreach_add_(params, update, alpha=-size)


def parameter_layers(names: Iterable[str]) -> dict[str, int | None]:
    """The depth of every parameter: 0 the input embedding, k+1 parameter layer k, None elsewhere.

    Decoder layers count on after the encoder's. Heads, the input projection and a generator have
    no depth: layer decay leaves them alone.
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
    """Whether weight-decay exclusion still decays this parameter.

    Left out are layer norms and everything that is a ``bias`` in the canonical names; the tables,
    ``seg_embed`` and the relative ``r_*_bias`` are decayed, as in the original.
    """
    return "layer_norm" not in name and name.rsplit(".", 1)[-1] not in _BIAS_NAMES


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Parameters in groups of equal decay and layer factor, in the order of the model.

    Each group carries ``grad_scale`` (see :func:`scale_gradients`) and ``lr_scale`` (see
    :func:`set_learning_rate`).
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    factors = layer_factors(parameter_layers(n for n, _ in named), config.layer_decay_rate)
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
    """The optimizer named by ``config`` over all trainable parameters of ``model``."""
    groups = parameter_groups(model, config)
    betas = (config.beta1, config.beta2)
    if config.name == "funnel_adamw":
        return FunnelAdamW(
            groups, betas=betas, eps=config.epsilon, correct_bias=config.adam_correction
        )
    devices = {p.device.type for group in groups for p in group["params"]}
    fused = devices <= {"cuda", "cpu"}
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=config.epsilon, fused=fused)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group ``lr`` times its layer's ``lr_scale``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


@torch.no_grad()
def scale_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Multiply the (already clipped) gradients by their layer's ``grad_scale``, in place."""
    for group in optimizer.param_groups:
        scale = group.get("grad_scale", 1.0)
        grads = [local(p.grad) for p in group["params"] if p.grad is not None]
        if scale != 1.0 and grads:
            torch._foreach_mul_(grads, scale)


@torch.no_grad()
def clip_gradients(parameters: Iterable[torch.Tensor], clip: float) -> torch.Tensor:
    """Scale all gradients by ``min(1, clip / norm)`` in place; returns the norm before that.

    ``clip`` of 0 or less only measures. The norm is that of the dense gradient.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    norm = whole(torch.nn.utils.get_total_norm(grads))
    if clip > 0.0:
        # clamp keeps a NaN norm NaN: the caller sees it and skips the step
        factor = torch.clamp(clip / norm, max=1.0)
        torch._foreach_mul_([local(grad) for grad in grads], factor)
    return norm
