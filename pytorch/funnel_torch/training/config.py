"""Settings of the training loop; does not import PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from funnel.config.settings import setting
from funnel.utils.errors import ConfigError

PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass(frozen=True)
class TrainerConfig:
    """Length, precision and intervals of training, in optimizer steps.

    An interval of 0 means only after the last step. ``save_minutes`` adds checkpoints by the clock.
    ``patience`` evaluations in a row without a better score end training; 0: none do.
    """

    total_steps: int
    precision: str = "fp32"
    clip: float = 1.0
    log_steps: int = 100
    eval_steps: int = 0
    save_steps: int = 0
    save_minutes: float = setting(
        15.0, "minutes between further checkpoints; 0: none by the clock", affects_result=False
    )
    higher_is_better: bool = True
    patience: int = 0

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision={self.precision!r}: must be one of {list(PRECISIONS)}")
        if self.total_steps < 1:
            raise ConfigError(f"train_steps={self.total_steps}: must be at least 1")
        if self.patience < 0:
            raise ConfigError(f"patience={self.patience}: must not be negative")
        if not self.save_minutes >= 0:
            raise ConfigError(f"save_minutes={self.save_minutes:g}: must not be negative")
