"""Settings of the optimizer and the learning-rate schedule, and their arithmetic.

The update rule itself is implemented per framework: ``funnel_torch.training.optimizer`` and
``funnel_tf.training.optimizer``.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from funnel.config.settings import setting
from funnel.utils.errors import ConfigError

logger = logging.getLogger(__name__)

OPTIMIZERS = ("adamw", "funnel_adamw")
DECAY_METHODS = ("poly", "cos")
LAYER_DECAYS = ("gradient", "lr")


# Names of the optimizer's flags, the same in both backends.
OPTIMIZER_FLAGS = {
    "name": "optimizer",
    "beta1": "adam_beta1",
    "beta2": "adam_beta2",
    "epsilon": "adam_epsilon",
    "layer_decay_rate": "lr_layer_decay_rate",
}


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with decoupled weight decay, gradient clipping and layer-wise decay.

    ``layer_decay_rate`` q scales layer l of L by q^(L-1-l): with ``layer_decay="gradient"`` its
    clipped gradient (the original's form, which Adam all but cancels), with ``"lr"`` its learning
    rate. ``clip`` bounds the global gradient norm; 0 or less switches clipping off.
    """

    name: str = setting("adamw", "torch's AdamW, or TensorFlow's update rule", choices=OPTIMIZERS)
    beta1: float = setting(0.9, "decay of the first moment")
    beta2: float = setting(0.99, "decay of the second moment")
    epsilon: float = setting(1e-6, "added to the root of the second moment")
    weight_decay: float = setting(0.01, "decoupled weight decay")
    use_wd_exclusion: bool = setting(False, "no weight decay for LayerNorm weights and biases")
    adam_correction: bool = setting(True, "bias correction of the step size")
    layer_decay_rate: float = setting(1.0, "factor per layer from top to bottom")
    layer_decay: str = setting(
        "gradient", "where that factor applies: gradient or learning rate", choices=LAYER_DECAYS
    )
    clip: float = setting(1.0, "bound on the global gradient norm; 0 or less: none")

    def __post_init__(self) -> None:
        _check_choice("optimizer", self.name, OPTIMIZERS)
        _check_choice("layer_decay", self.layer_decay, LAYER_DECAYS)
        for key in ("beta1", "beta2"):
            if not 0.0 <= getattr(self, key) < 1.0:
                raise ConfigError(f"{key}={getattr(self, key)}: must be at least 0 and below 1")
        for flag, value in {
            "adam_epsilon": self.epsilon,
            "weight_decay": self.weight_decay,
        }.items():
            if not 0.0 <= value < math.inf:
                raise ConfigError(f"{flag}={value}: must be a number from 0 on")
        if not 0.0 < self.layer_decay_rate < math.inf:
            raise ConfigError(f"lr_layer_decay_rate={self.layer_decay_rate}: must be above 0")
        if math.isnan(self.clip):
            raise ConfigError("clip=nan: must be a number")
        if self.name == "adamw" and not self.adam_correction:
            raise ConfigError("adam_correction=False needs optimizer=funnel_adamw")


@dataclass(frozen=True)
class ScheduleConfig:
    """Linear warm-up to ``lr``, then ``poly`` (linear) or ``cos`` decay to ``min_lr``."""

    lr: float
    total_steps: int
    warmup_steps: int = 0
    min_lr: float = setting(0.0, "final learning rate")
    decay_method: str = setting(
        "poly", "decay after warm-up: linear or cosine", choices=DECAY_METHODS
    )

    def __post_init__(self) -> None:
        _check_choice("decay_method", self.decay_method, DECAY_METHODS)
        if self.lr < 0.0 or not 0.0 <= self.min_lr <= max(self.lr, 0.0):
            raise ConfigError(f"lr={self.lr}, min_lr={self.min_lr}: need 0 <= min_lr <= lr")
        if math.isinf(self.lr):
            raise ConfigError(f"lr={self.lr}: must be finite")
        if self.warmup_steps < 0 or self.total_steps < 0:
            raise ConfigError(
                f"warmup_steps={self.warmup_steps}, train_steps={self.total_steps}: "
                "neither may be negative"
            )

    def lr_at(self, step: int) -> float:
        """Return the learning rate of the update that follows ``step`` earlier ones.

        The ramp starts at ``min_lr``: with ``min_lr`` 0 the first update changes nothing.
        """
        if step < self.warmup_steps:
            share = step / self.warmup_steps
        else:
            x = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
            x = min(x, 1.0)
            share = 1.0 - x if self.decay_method == "poly" else 0.5 * (1.0 + math.cos(math.pi * x))
        return self.min_lr + (self.lr - self.min_lr) * share

    def warn_of_warmup(self) -> None:
        """Log a warm-up that does not end before the run does: the peak is then not reached."""
        if 0 < self.total_steps <= self.warmup_steps:
            logger.warning(
                "WARNING: warmup_steps=%d, but the run has %d steps: the learning rate rises to "
                "%.3g instead of %.3g and does not decay",
                *(self.warmup_steps, self.total_steps),
                *(self.lr_at(self.total_steps - 1), self.lr),
            )


def _check_choice(key: str, value: str, allowed: Iterable[str]) -> None:
    if value not in allowed:
        raise ConfigError(f"{key}={value!r}: must be one of {', '.join(allowed)}")


def layer_factors(layers: Mapping[str, int | None], rate: float) -> dict[str, float]:
    """Return the factor q^(L-1-l) of every parameter by its layer l; q is ``rate``.

    A parameter outside of all layers (None) has factor 1. L is the number of layers of this model,
    so the deepest one has factor 1.
    """
    depth = 1 + max((layer for layer in layers.values() if layer is not None), default=0)
    return {
        name: 1.0 if layer is None else rate ** (depth - 1 - layer)
        for name, layer in layers.items()
    }
