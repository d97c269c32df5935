"""Settings of ``pretrain.py``; does not import PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from funnel.cli.flags import check_at_least_one, check_given
from funnel.config.heads import PretrainingConfig
from funnel.config.model_settings import ModelSettings
from funnel.config.pretraining import SPLITS, DatasetConfig, TargetSettings
from funnel.config.settings import group, like, setting
from funnel.config.training.optimizer import OPTIMIZER_FLAGS, OptimizerConfig, ScheduleConfig
from funnel_torch.cli.settings.base import DeviceSettings, InitSettings, ProgramSettings
from funnel_torch.data.config import BatchConfig
from funnel_torch.training.config import TrainerConfig

LOSS_TYPES = ("mlm", "electra")


@dataclass(frozen=True)
class ObjectiveSettings:
    """The objective and the splits."""

    loss_type: str = setting("mlm", "objective", choices=LOSS_TYPES)
    record_dir: str = setting("", "comma list of directories with records")
    eval_split: str = setting(
        "", "split to evaluate on; empty: none", choices=("", *SPLITS), affects_result=False
    )
    eval_only: bool = setting(
        False, "no training: evaluate model_dir or init_ckpt", affects_result=False
    )


@dataclass(frozen=True)
class RecordSettings:
    """The record files."""

    seq_len: int = setting(512, "tokens per record")
    num_passes: int = setting(1, "read the records of passes below this number")


@dataclass(frozen=True)
class PretrainTrainingSettings:
    """Batches, schedule and intervals, in optimizer steps."""

    batches: BatchConfig = group(
        "",
        BatchConfig,
        names={"batch_size": "train_bsz"},
        defaults={"batch_size": 32},
    )
    optimizer: OptimizerConfig = group(
        "optimizer, in detail",
        OptimizerConfig,
        names=OPTIMIZER_FLAGS,
        defaults={"name": "funnel_adamw"},
        omit=("adam_correction",),
    )
    lr: float = setting(1e-4, "peak learning rate", aliases=("learning_rate",))
    min_lr: float = like(ScheduleConfig, "min_lr")
    decay_method: str = like(ScheduleConfig, "decay_method")
    train_steps: int = setting(100_000, "optimizer steps")
    warmup_steps: int | None = setting(None, "steps to warm up; default: one in a hundred")
    valid_bsz: int = setting(64, "records per step in evaluation", affects_result=False)
    log_steps: int = setting(
        100, "steps between log lines", aliases=("log_freq",), affects_result=False
    )
    eval_steps: int = setting(1000, "steps between evaluations")
    save_steps: int = setting(1000, "steps between checkpoints", affects_result=False)
    save_minutes: float = like(TrainerConfig, "save_minutes")

    def __post_init__(self) -> None:
        check_at_least_one(
            valid_bsz=self.valid_bsz,
            log_steps=self.log_steps,
            eval_steps=self.eval_steps,
            save_steps=self.save_steps,
        )
        # Contradictions are reported now, not after the records have been found.
        self.schedule()
        self.trainer("fp32")

    def schedule(self) -> ScheduleConfig:
        """Return the learning rate over the steps."""
        warmup = self.train_steps // 100 if self.warmup_steps is None else self.warmup_steps
        return ScheduleConfig(
            lr=self.lr,
            total_steps=self.train_steps,
            warmup_steps=warmup,
            min_lr=self.min_lr,
            decay_method=self.decay_method,
        )

    def trainer(self, precision: str) -> TrainerConfig:
        """Return the settings of the training loop."""
        return TrainerConfig(
            total_steps=self.train_steps,
            precision=precision,
            clip=self.optimizer.clip,
            log_steps=self.log_steps,
            eval_steps=self.eval_steps,
            save_steps=self.save_steps,
            save_minutes=self.save_minutes,
            higher_is_better=False,
        )


@dataclass(frozen=True)
class OptimizerImportSettings:
    """The optimizer state of the initial checkpoint."""

    init_global_vars: bool = setting(
        True, "also load init_ckpt's Adam moments and step, if it has them", negatable=True
    )


@dataclass(frozen=True)
class ScaleSettings:
    """Memory and its measure of speed for large models."""

    recompute_layers: bool = setting(
        False,
        "recompute activations in the backward pass to save memory",
        aliases=("gradient_checkpointing",),
        affects_result=False,
    )
    fsdp: bool = setting(False, "shard weights and Adam moments", affects_result=False)
    peak_tflops: float | None = setting(
        None, "of a device, for the MFU; default: that of known GPUs", affects_result=False
    )


@dataclass(frozen=True)
class PretrainSettings(ProgramSettings):
    """All settings of pretraining."""

    task: ObjectiveSettings = group("what to run", ObjectiveSettings)
    training: PretrainTrainingSettings = group("training", PretrainTrainingSettings)
    init: InitSettings = group("initial checkpoint", InitSettings, omit=("new_head",))
    device: DeviceSettings = group("device and speed", DeviceSettings, omit=("int8",))
    model: ModelSettings = group(
        "model sizes",
        ModelSettings,
        defaults={"vocab_size": -1, "decoder_size": "2"},
        omit=("ff_activation",),
        description="used without a config file, and for keys in --overwrite_keys",
    )
    records: RecordSettings = group(
        "records",
        RecordSettings,
        names={"seq_len": "max_length"},
        aliases={"seq_len": ("seq_len",)},
    )
    stream: DatasetConfig = group("records", DatasetConfig)
    targets: TargetSettings = group("targets", TargetSettings)
    objective: PretrainingConfig = group("targets", PretrainingConfig)
    optimizer_import: OptimizerImportSettings = group("initial checkpoint", OptimizerImportSettings)
    scale: ScaleSettings = group("large models", ScaleSettings)

    @property
    def trains(self) -> bool:
        """Whether the run trains a model."""
        return not self.task.eval_only

    @property
    def num_predict(self) -> int:
        """Targets per record; by default the share of the reference."""
        return self.targets.count(self.records.seq_len)

    def check(self) -> None:
        """Refuse what cannot work, before any file is read.

        Raises:
            ConfigError: a setting is missing.
        """
        self.check_paths()
        check_given(record_dir=self.task.record_dir)
        if not self.trains:
            check_given(eval_split=self.task.eval_split)
        self.check_directory(trains=self.trains, only="--eval_only")

    def result_affecting_config(self) -> dict[str, Any]:
        """Return the flags that decide what a run computes: two runs are the same if these are."""
        # Runs record int8 although pretraining has no such flag.
        resolved = {"num_predict": self.num_predict, "int8": self.device.int8}
        return super().result_affecting_config() | resolved
