"""Settings of fine-tuning and of its data; does not import PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from funnel.config.inputs import SEGMENT_FLAGS, SegmentIds
from funnel.config.settings import group, like, setting
from funnel.config.training.economy import EconomySettings, check_patience
from funnel.config.training.optimizer import OPTIMIZER_FLAGS, OptimizerConfig, ScheduleConfig
from funnel.utils.errors import ConfigError
from funnel_torch.data.config import BatchConfig
from funnel_torch.training.config import TrainerConfig


@dataclass(frozen=True)
class DataConfig:
    """The files of a task and how their texts become sequences.

    Without ``cache_dir`` texts are encoded in every run. ``length_step`` is that of
    :class:`~funnel_torch.data.batching.SequenceSource`.
    """

    data_dir: str = setting("", "directory with the task's files", is_path=True)
    cache_dir: str = setting("", "cache of encoded examples; empty: none", affects_result=False)
    max_length: int = setting(128, "tokens per example")
    overwrite: bool = setting(False, "rebuild that cache", affects_result=False)
    dev_fraction: float | None = like(EconomySettings, "dev_fraction")
    no_dev: bool | None = setting(
        None, "train without dev data: the last model is the final one", affects_result=False
    )
    segments: SegmentIds = group("", SegmentIds, names=SEGMENT_FLAGS)
    length_step: int = 1

    def __post_init__(self) -> None:
        if self.no_dev and self.dev_fraction is not None:
            raise ConfigError("--no_dev and --dev_fraction contradict each other")


@dataclass(frozen=True)
class FineTuneConfig:
    """A fine-tuning run, in epochs or steps.

    ``train_steps`` takes precedence over ``epochs``, ``warmup_steps`` over ``warmup_prop``.
    ``extend_to`` replaces the one that is in use, for a run that continues after its end.
    """

    batches: BatchConfig = group("", BatchConfig, names={"batch_size": "train_bsz"})
    optimizer: OptimizerConfig = group(
        "optimizer, in detail", OptimizerConfig, names=OPTIMIZER_FLAGS, omit=("adam_correction",)
    )
    lr: float = setting(1e-5, "peak learning rate")
    min_lr: float = like(ScheduleConfig, "min_lr")
    decay_method: str = like(ScheduleConfig, "decay_method")
    warmup_prop: float = setting(0.1, "share of the steps to warm up")
    warmup_steps: int | None = setting(None, "steps to warm up, instead of that share")
    epochs: int = setting(10, "passes over the training data")
    train_steps: int | None = setting(None, "optimizer steps, instead of epochs")
    extend_to: int | None = setting(
        None,
        "train the run in model_dir further, with its optimizer's state: up to so many epochs, or "
        "steps if train_steps is given",
        affects_result=False,
    )
    freeze: str | None = like(EconomySettings, "freeze")
    lora_rank: int | None = setting(
        None,
        "train adapters of this rank on query, key and value, and the head, and nothing else "
        "(needs peft)",
    )
    patience: int | None = like(EconomySettings, "patience")
    recompute_layers: bool = setting(
        False,
        "recompute activations in the backward pass to save memory",
        aliases=("gradient_checkpointing",),
        affects_result=False,
    )
    logs_per_epoch: int = setting(20, "log lines per epoch", affects_result=False)
    eval_steps: int | None = setting(None, "steps between evaluations; default: one epoch")
    save_steps: int | None = setting(
        None, "steps between checkpoints; default: one epoch", affects_result=False
    )
    save_minutes: float = like(TrainerConfig, "save_minutes")
    precision: str = "fp32"
    compile: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.warmup_prop <= 1.0:
            raise ConfigError(f"warmup_prop={self.warmup_prop}: must be from 0 to 1")
        if self.train_steps is None and self.epochs < 1:
            raise ConfigError(f"epochs={self.epochs}: must be at least 1")
        check_patience(self.patience)
        planned = self.epochs if self.train_steps is None else self.train_steps
        if self.extend_to is not None and self.extend_to <= planned:
            unit = "epochs" if self.train_steps is None else "train_steps"
            raise ConfigError(f"--extend_to={self.extend_to}: must be more than {unit}={planned}")
        # Contradictions are reported now, not after the data has been read.
        self.schedule(1)
        self.trainer(1)

    def total_steps(self, steps_per_epoch: int) -> int:
        """Return the number of optimizer steps of the run."""
        if self.train_steps is None:
            return (self.extend_to or self.epochs) * steps_per_epoch
        return self.extend_to or self.train_steps

    def schedule(self, steps_per_epoch: int) -> ScheduleConfig:
        """Return the learning rate over those steps."""
        total, warmup = self.total_steps(steps_per_epoch), self.warmup_steps
        if warmup is None:
            # An extended run has made the warm-up of the original one.
            original = self.train_steps or self.epochs * steps_per_epoch
            warmup = int(self.warmup_prop * original)
        return ScheduleConfig(
            lr=self.lr,
            total_steps=total,
            warmup_steps=warmup,
            min_lr=self.min_lr,
            decay_method=self.decay_method,
        )

    def trainer(self, steps_per_epoch: int) -> TrainerConfig:
        """Return the settings of the training loop."""
        return TrainerConfig(
            total_steps=self.total_steps(steps_per_epoch),
            precision=self.precision,
            clip=self.optimizer.clip,
            log_steps=max(1, steps_per_epoch // max(1, self.logs_per_epoch)),
            eval_steps=steps_per_epoch if self.eval_steps is None else self.eval_steps,
            save_steps=steps_per_epoch if self.save_steps is None else self.save_steps,
            save_minutes=self.save_minutes,
            patience=self.patience or 0,
        )
