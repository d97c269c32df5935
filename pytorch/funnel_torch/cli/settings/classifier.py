"""Settings of ``classifier.py`` and ``multigpu_classifier.py``; does not import PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from funnel.cli.flags import check_given
from funnel.config.inputs import CustomTaskSettings
from funnel.config.predictions import PredictionSettings
from funnel.config.settings import group, setting
from funnel.config.training.losses import LossSettings
from funnel.utils.errors import ConfigError
from funnel_torch.cli.settings.base import FineTuneSettings
from funnel_torch.tasks.config import DataConfig


@dataclass(frozen=True)
class ClassificationSettings:
    """The task and the files to write about it."""

    dataset: str | None = setting(
        None,
        "task, e.g. CoLA; or tsv, csv, jsonl, json, parquet for own files",
        aliases=("task_name",),
    )
    task_module: str | None = setting(
        None,
        "Python file that registers a task of your own, see docs/extending.md",
        affects_result=False,
    )
    test_only: bool = setting(
        False, "no training: evaluate model_dir or init_ckpt", affects_result=False
    )
    write_prediction: bool = setting(
        False, "write predictions: {test,valid}_results.txt", affects_result=False
    )
    indexed_predictions: bool = setting(
        False, "in these files, a header and index<tab>label", affects_result=False
    )
    do_submit: bool = setting(False, "write the GLUE submission files", affects_result=False)
    submit_dir: str = setting(
        "", "their directory; default: model_dir/submit", affects_result=False
    )


@dataclass(frozen=True)
class ClassifierSettings(FineTuneSettings):
    """All settings of the classifier."""

    task: ClassificationSettings = group("what to run", ClassificationSettings)
    predictions: PredictionSettings = group("what to run", PredictionSettings)
    data: DataConfig = group(
        "text to tokens",
        DataConfig,
        names={"cache_dir": "output_dir", "overwrite": "overwrite_data"},
    )
    custom: CustomTaskSettings = group(
        "own data (--dataset=tsv|csv|jsonl|json|parquet)",
        CustomTaskSettings,
        names={"header": "not no_header"},
    )

    losses: LossSettings = group("training", LossSettings)

    @property
    def trains(self) -> bool:
        """Whether the run trains a model."""
        return not self.task.test_only

    def check(self) -> None:
        """Refuse what cannot work, before any file is read.

        Raises:
            ConfigError: a setting is missing or contradicts another.
        """
        self.check_paths()
        check_given(dataset=self.task.dataset, data_dir=self.data.data_dir)
        if not self.run.model_dir and (self.task.do_submit or self.task.write_prediction):
            raise ConfigError("--model_dir is needed: predictions are written there")
        if self.custom.multi_label and self.task.do_submit:
            raise ConfigError("--do_submit: goes with benchmarks, which have one label per text")
        self.predictions.check(writes=self.task.write_prediction, flag="write_prediction")
        self.check_run(trains=self.trains, only="--test_only")
