"""Settings of ``race.py``; does not import PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from funnel.cli.flags import check_given
from funnel.config.inputs import RaceConfig
from funnel.config.predictions import PredictionSettings
from funnel.config.settings import group, setting
from funnel.utils.errors import ConfigError
from funnel_torch.cli.settings.base import EvaluationSettings, FineTuneSettings, find_trained_model


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
    write_prediction: bool = setting(
        False,
        "write the options chosen for eval_split: {test,valid}_results.txt",
        affects_result=False,
    )


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
    predictions: PredictionSettings = group("what to run", PredictionSettings)
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

    @property
    def trained_model(self) -> Path | None:
        """The model of --eval_model_dir, else of --model_dir."""
        return find_trained_model(self.task.eval_model_dir or self.run.model_dir)

    @property
    def trains(self) -> bool:
        """Whether the run trains a model."""
        return self.task.do_train

    def check(self) -> None:
        """Refuse what cannot work, before any file is read.

        Raises:
            ConfigError: a setting is missing or contradicts another.
        """
        if not (self.task.do_train or self.task.do_eval):
            raise ConfigError("nothing to do: --do_train, --do_eval or both are needed")
        self.check_paths()
        check_given(data_dir=self.task.data_dir)
        if other := self.task.eval_model_dir:
            if self.task.do_train or self.init.init_ckpt:
                raise ConfigError("--eval_model_dir goes without --do_train and --init_ckpt")
            if self.trained_model is None:
                raise ConfigError(f"--eval_model_dir={other}: no model in {Path(other) / 'best'}")
        if self.task.write_prediction and not (self.task.do_eval and self.run.model_dir):
            raise ConfigError("--write_prediction goes with --do_eval and --model_dir")
        self.predictions.check(writes=self.task.write_prediction, flag="write_prediction")
        self.check_run(trains=self.task.do_train, only="--do_eval")
