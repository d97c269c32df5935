"""Settings of ``tagger.py``; does not import PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from funnel.cli.flags import check_given
from funnel.config.predictions import PredictionSettings
from funnel.config.settings import group, setting
from funnel.config.tagging import DecoderSettings, TaggingFiles, TaggingWindows
from funnel.utils.errors import ConfigError
from funnel_torch.cli.settings.base import FineTuneSettings


@dataclass(frozen=True)
class TaggerTaskSettings:
    """The files and what to write about them."""

    dataset: str | None = setting(
        None, "format of the files: conll or jsonl", aliases=("task_name",)
    )
    data_dir: str = setting("", "directory with the files", is_path=True)
    test_only: bool = setting(
        False, "no training: evaluate model_dir or init_ckpt", affects_result=False
    )
    write_prediction: bool = setting(
        False, "write {valid,test}_results.conll", affects_result=False
    )


@dataclass(frozen=True)
class TaggerSettings(FineTuneSettings):
    """All settings of the tagger."""

    task: TaggerTaskSettings = group("what to run", TaggerTaskSettings)
    predictions: PredictionSettings = group("what to run", PredictionSettings)
    files: TaggingFiles = group("tagged sentences", TaggingFiles)
    windows: TaggingWindows = group("text to tokens", TaggingWindows)
    decoder: DecoderSettings = group("initial checkpoint", DecoderSettings)

    @property
    def trains(self) -> bool:
        """Whether the run trains a model."""
        return not self.task.test_only

    def check(self) -> None:
        """Refuse contradictions before any file is read.

        Raises:
            ConfigError: a setting is missing or contradicts another.
        """
        self.check_paths()
        check_given(dataset=self.task.dataset, data_dir=self.task.data_dir)
        if not self.run.model_dir and self.task.write_prediction:
            raise ConfigError("--model_dir is needed: predictions are written there")
        self.predictions.check(writes=self.task.write_prediction, flag="write_prediction")
        self.check_run(trains=self.trains, only="--test_only")
