"""Settings of training and evaluation with TPUEstimator."""

from __future__ import annotations

from dataclasses import dataclass, field

from funnel.config.training.optimizer import OptimizerConfig, ScheduleConfig
from funnel.utils.errors import ConfigError


@dataclass(frozen=True)
class TpuAddress:
    """Address of a TPU; all None without one. On a TPU VM, ``name`` is ``local``."""

    name: str | None = None
    zone: str | None = None
    project: str | None = None
    job_name: str | None = None
    master: str | None = None


@dataclass(frozen=True)
class RunSettings:
    """Length, intervals, batch sizes and devices of a run.

    Attributes:
        model_dir: directory of the checkpoints.
        train_steps: step at which training ends.
        train_batch_size: global batch size, as all batch sizes here.
        eval_batch_size: in evaluation.
        predict_batch_size: in prediction.
        save_steps: steps between checkpoints; None saves the last step only.
        save_minutes: minutes between further checkpoints, which only serve to resume; 0: none.
        max_save: number of checkpoints to keep; 0 keeps all.
        iterations: steps per call of a TPU, between which the host gets no results.
        log_freq: steps between log lines.
        seed: seed of initial weights and dropout.
        use_tpu: run on a TPU.
        use_bfloat16: compute products in bfloat16.
        num_hosts: hosts of the TPU.
        num_core_per_host: cores per host of the TPU; elsewhere the maximum number of devices for
            training, which divide the batch.
        address: of the TPU.
    """

    model_dir: str
    train_steps: int = 0
    train_batch_size: int = 1
    eval_batch_size: int = 8
    predict_batch_size: int = 8
    save_steps: int | None = None
    save_minutes: float = 15.0
    max_save: int = 0
    iterations: int = 1000
    log_freq: int = 100
    seed: int = 0
    use_tpu: bool = False
    use_bfloat16: bool = False
    num_hosts: int = 1
    num_core_per_host: int = 1
    address: TpuAddress = field(default_factory=TpuAddress)

    def __post_init__(self) -> None:
        for key in ("train_batch_size", "eval_batch_size", "predict_batch_size", "num_hosts"):
            if getattr(self, key) < 1:
                raise ConfigError(f"--{key}={getattr(self, key)}: must be at least 1")
        if self.use_tpu:  # elsewhere the first is a limit, and the second is not used
            variables = {"num_core_per_host": "CORES", "iterations": "ITERATIONS or SAVE_STEPS"}
            for key, variable in variables.items():
                if getattr(self, key) < 1:
                    raise ConfigError(
                        f"--{key}={getattr(self, key)} ({variable} in the scripts): must be at "
                        "least 1 on a TPU"
                    )
        if self.max_save < 0:
            raise ConfigError(f"--max_save={self.max_save}: must not be negative; 0 keeps all")
        if self.save_steps is not None and self.save_steps < 1:
            raise ConfigError(f"--save_steps={self.save_steps}: must be at least 1")
        if not self.save_minutes >= 0:
            raise ConfigError(f"--save_minutes={self.save_minutes:g}: must not be negative")


@dataclass(frozen=True)
class TrainConfig:
    """Optimizer settings; see :func:`funnel_tf.training.optimizer.create_train_op`.

    ``freeze``: see :func:`funnel.config.training.freezing.frozen_names`.
    """

    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    per_core_clip: bool = True
    skip_nan_grad: bool = False
    freeze: str | None = None
