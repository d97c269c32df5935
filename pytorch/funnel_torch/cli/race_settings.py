"""Settings of ``race.py``; does not import PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from funnel.cli.flags import check_given
from funnel.config.inputs import RaceConfig
from funnel.config.settings import group, setting
from funnel.utils.errors import ConfigError
from funnel_torch.cli.settings import EvaluationSettings, FineTuneSettings


@dataclass(frozen=True)
class RaceTaskSettings:
    """Files and actions of RACE."""

    do_train: bool = setting(False, "train, with evaluations on the dev data", affects_result=False)
    do_eval: bool = setting(False, "evaluate the best model on eval_split", affects_result=False)
    eval_split: str = setting(
        "dev", "split that do_eval evaluates", choices=("dev", "test"), affects_result=False
    )
    data_dir: str = setting("", "directory with train/, dev/ and test/", is_path=True)
    eval_model_dir: str = setting("", "run to evaluate, instead of the one in model_dir")


@dataclass(frozen=True)
class UnusedCacheSettings:
    """Flags of the original for a cache, which RACE does not need here."""

    output_dir: str = setting(
        "", "accepted and unused: texts are encoded in every run", affects_result=False
    )
    overwrite_data: bool = setting(
        False, "accepted and unused, as output_dir", affects_result=False
    )


@dataclass(frozen=True)
class RaceSettings(FineTuneSettings):
    """All settings of RACE."""

    task: RaceTaskSettings = group("what to run", RaceTaskSettings)
    evaluation: EvaluationSettings = group(
        "training",
        EvaluationSettings,
        aliases={"valid_bsz": ("eval_batch_size",), "test_bsz": ("eval_batch_size",)},
    )
    sequences: RaceConfig = group(
        "text to tokens",
        RaceConfig,
        names={"max_seq_length": "max_length"},
        aliases={"max_seq_length": ("max_seq_length",)},
    )
    cache: UnusedCacheSettings = group("text to tokens", UnusedCacheSettings)

    def with_evaluated_run(self) -> RaceSettings:
        """Return the settings with the best model of --eval_model_dir as initial checkpoint.

        Raises:
            ConfigError: there is no such model, or another one is given too.
        """
        task = self.task
        if not task.eval_model_dir:
            return self
        if task.do_train or self.init.init_ckpt:
            raise ConfigError("--eval_model_dir goes without --do_train and --init_ckpt")
        best = Path(task.eval_model_dir) / "best"
        if not best.is_dir():
            raise ConfigError(f"--eval_model_dir={task.eval_model_dir}: no model in {best}")
        return replace(self, init=replace(self.init, init_ckpt=str(best)))

    def check(self) -> None:
        """Refuse what cannot work, before any file is read.

        Raises:
            ConfigError: a setting is missing or contradicts another.
        """
        if not (self.task.do_train or self.task.do_eval):
            raise ConfigError("nothing to do: --do_train, --do_eval or both are needed")
        self.check_paths()
        check_given(data_dir=self.task.data_dir)
        self.check_run(trains=self.task.do_train, only="--do_eval")
