"""Settings that the PyTorch programs share; they become flags. Does not import PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from funnel.cli.flags import check_at_least_one
from funnel.config.inputs import TokenizerSettings
from funnel.config.model import ModelConfig
from funnel.config.model_settings import ATTENTION_KERNELS, ModelSettings
from funnel.config.settings import group, result_affecting_config, setting
from funnel.config.training.series import SeriesSettings
from funnel.utils.errors import ConfigError, RunError
from funnel.utils.json_files import read_json_object
from funnel.utils.run_directory import PROGRESS, RUN_CONFIG
from funnel_torch.kernels.config import KernelSettings
from funnel_torch.tasks.config import FineTuneConfig

_ORIGINAL_MODEL = "model.pt"


@dataclass(frozen=True)
class RunSettings:
    """The directory of a run and what may happen to it."""

    model_dir: str = setting("", "output directory of the run", affects_result=False)
    resume: bool = setting(
        False, "continue (or, if finished, evaluate) the run in model_dir", affects_result=False
    )
    overwrite: bool = setting(False, "delete the run in model_dir", affects_result=False)
    debug: bool = setting(False, "write no directory and no log files", affects_result=False)
    log_path: str = setting("", "unused: logs are in model_dir", affects_result=False)
    verbose: bool = setting(False, "also show debug messages", affects_result=False)
    seed: int | None = setting(None, "random seed; drawn and recorded if not given")


@dataclass(frozen=True)
class InitSettings:
    """The initial weights and where the sizes of the model come from."""

    init_ckpt: str = setting("", "checkpoint of any kind; empty: random weights", is_path=True)
    init_ckpt_config: str = setting(
        "",
        "net_config.json or config.json; default: that of init_ckpt",
        aliases=("config", "model_config", "model_config_path"),
        is_path=True,
    )
    overwrite_keys: str = setting("", "comma list of settings taken from flags, not the config")
    attn_type: str = setting(
        ModelConfig.rel_attn_type,
        "implementation of relative attention",
        choices=("rel_shift", "factorized"),
    )
    truncate_seq: bool | None = setting(
        None,
        "drop the last position before pooling; default: as in the config, else yes",
        negatable=True,
    )
    new_head: bool = setting(False, "ignore the task head in init_ckpt")


@dataclass(frozen=True)
class DeviceSettings:
    """Device and number formats."""

    device_id: int = setting(0, "GPU; -1: CPU", affects_result=False)
    device: str = setting(
        "auto",
        "cpu, cuda, cuda:N or mps (Apple's GPU); auto: CUDA GPU device_id, else the CPU",
        affects_result=False,
    )
    bf16: bool = setting(False, "bfloat16 autocast", exclusive="precision")
    fp16: bool = setting(False, "float16 autocast with loss scaling", exclusive="precision")
    amp_opt: str = setting(
        "O2",
        "level of apex; native AMP is used, and with O0 none",
        choices=("O0", "O1", "O2"),
        affects_result=False,
    )
    compile: bool = setting(False, "torch.compile the training step")
    int8: bool = setting(False, "8-bit linear layers; evaluation on a CPU")
    attention: str = setting(
        ATTENTION_KERNELS[0],
        "fused: a GPU kernel without a matrix of scores, in half precision; sdpa: PyTorch's; auto: "
        "fused where it applies",
        choices=ATTENTION_KERNELS,
        affects_result=False,
    )
    kernels: KernelSettings = group("", KernelSettings)

    @property
    def precision(self) -> str:
        """``fp32``, ``bf16`` or ``fp16``."""
        # O0 is apex's name for no mixed precision.
        fp16 = self.fp16 and self.amp_opt != "O0"
        return "bf16" if self.bf16 else "fp16" if fp16 else "fp32"

    def length_step(self, max_length: int) -> int:
        """Return the number that padded lengths are multiples of."""
        # Every shape is compiled separately: allow four lengths.
        return max(1, max_length // 4) if self.compile else 1


@dataclass(frozen=True)
class DistributedSettings:
    """The place of this process among several, where no launcher sets it."""

    distributed_world_size: int | None = setting(
        None, "processes; default: all GPUs", affects_result=False
    )
    distributed_rank: int = setting(0, "number of this process", affects_result=False)
    distributed_init_method: str | None = setting(
        None, "tcp://host:port where processes meet", affects_result=False
    )
    distributed_port: int = setting(11111, "port, without init_method", affects_result=False)
    distributed_backend: str = setting(
        "nccl", "communication library; processes on CPUs always use gloo", affects_result=False
    )
    distributed_timeout: float = setting(
        60.0,
        "minutes to wait for another process, also while rank 0 prepares the data",
        affects_result=False,
    )
    ddp_backend: str = setting(
        "apex",
        "both: torch's DistributedDataParallel",
        choices=("pytorch", "apex"),
        affects_result=False,
    )
    log_all_processes: bool = setting(False, "console log of every process", affects_result=False)


@dataclass(frozen=True)
class EvaluationSettings:
    """Batch sizes without training."""

    valid_bsz: int = setting(32, "examples per step on the dev data", affects_result=False)
    test_bsz: int = setting(32, "examples per step on the test data", affects_result=False)

    def __post_init__(self) -> None:
        check_at_least_one(valid_bsz=self.valid_bsz, test_bsz=self.test_bsz)


def find_trained_model(model_dir: str) -> Path | None:
    """Return the model that a run has left in a directory, None without one.

    That is the best model, else the last one of a finished run that was never evaluated, else
    ``model.pt``, where the original programs wrote theirs.
    """
    if not model_dir:
        return None
    folder = Path(model_dir)
    if (folder / "best").is_dir():
        return folder / "best"
    progress = folder / "last" / PROGRESS
    if progress.is_file() and read_json_object(progress, RunError).get("finished"):
        return progress.parent
    original = folder / _ORIGINAL_MODEL
    return original if original.is_file() else None


def _absolute(path: str) -> str:
    """Return an absolute path; the name of a model on the hub is the same from everywhere."""
    from funnel.config.hub import parse_name

    return str(Path(path).resolve()) if parse_name(path) is None else path


@dataclass(frozen=True)
class ProgramSettings:
    """Settings of all programs that build a model; ``task`` is what the program adds.

    ``given`` are the names of the flags set on the command line.
    """

    given: frozenset[str] = frozenset()
    task: Any = None
    run: RunSettings = group("what to run", RunSettings)
    tokenizer: TokenizerSettings = group(
        "text to tokens", TokenizerSettings, names={"uncased": "not cased"}
    )
    training: Any = None
    init: InitSettings = group("initial checkpoint", InitSettings)
    device: DeviceSettings = group("device and speed", DeviceSettings)
    model: ModelSettings = group(
        "model sizes",
        ModelSettings,
        defaults={"vocab_size": -1, "pool_q_only": False, "separate_cls": False},
        omit=("decoder_size", "ff_activation", "init", "init_std", "init_range"),
        description="used without a config file, and for keys in --overwrite_keys",
    )
    distributed: DistributedSettings = group(
        "several processes (torchrun sets these itself)", DistributedSettings
    )

    @property
    def trains(self) -> bool:
        """Whether the run trains a model."""
        raise NotImplementedError

    @property
    def trained_model(self) -> Path | None:
        """The model to evaluate without training, if there is one besides --init_ckpt."""
        return find_trained_model(self.run.model_dir)

    def check_directory(self, *, trains: bool, only: str) -> None:
        """Refuse a run without a place for its results or, without training, without a model.

        Args:
            trains: whether the run trains.
            only: the flag of a run that does not.

        Raises:
            FunnelError: a directory or a path is missing.
        """
        self.check_paths()
        run = self.run
        if trains and not (run.model_dir or run.debug):
            raise ConfigError("--model_dir is needed (or --debug, which keeps nothing)")
        if trains:
            return
        if not self.init.init_ckpt and self.trained_model is None:
            raise ConfigError(f"{only}: no model in {run.model_dir}/best and no --init_ckpt")
        if self.init.new_head:
            raise ConfigError(f"{only}: a fresh head (--new_head) has to be trained first")

    def check_paths(self) -> None:
        """Refuse an initial checkpoint or a config that does not exist, before anything else.

        Raises:
            FunnelError: names the path, and where to get the checkpoint if that is known.
        """
        from funnel.checkpoints.locate import (
            require_checkpoint,
        )  # NumPy, which --help does not need

        # A run that resumes has its own model: the initial one may be gone.
        resumes = self.run.resume and (Path(self.run.model_dir) / RUN_CONFIG).is_file()
        if not resumes:
            require_checkpoint(self.init.init_ckpt, self.init.init_ckpt_config)

    def result_affecting_config(self) -> dict[str, Any]:
        """Return the flags that decide what a run computes: two runs are the same if these are."""
        found = result_affecting_config(self, _absolute)
        return found | {"fp16": self.device.precision == "fp16"}


@dataclass(frozen=True)
class FineTuneSettings(ProgramSettings):
    """Settings of the programs that fine-tune a model."""

    series: SeriesSettings = group("what to run", SeriesSettings)
    training: FineTuneConfig = group(
        "training", FineTuneConfig, names={"logs_per_epoch": "n_log_epoch"}
    )
    evaluation: EvaluationSettings = group("training", EvaluationSettings)

    def check_run(self, *, trains: bool, only: str) -> None:
        """Refuse contradictions of any fine-tuning run; see :meth:`check_directory`."""
        self.check_directory(trains=trains, only=only)
        device = self.device
        if device.int8 and (trains or device.bf16 or device.fp16):
            raise ConfigError(f"--int8 goes with {only}, without --bf16, --fp16 and training")
