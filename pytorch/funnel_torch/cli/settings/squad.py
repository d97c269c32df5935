"""Settings of ``squad.py``; does not import PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from funnel.cli.flags import check_given
from funnel.cli.squad import SquadWork, check_squad_numbers, list_checkpoints
from funnel.config.heads import AnswerConfig
from funnel.config.predictions import PredictionSettings
from funnel.config.settings import group, setting
from funnel.config.squad import AnswerSettings, EnsembleSettings, SquadFiles, WindowConfig
from funnel.utils.errors import ConfigError
from funnel_torch.cli.settings.base import EvaluationSettings, FineTuneSettings


@dataclass(frozen=True)
class SquadTaskSettings:
    """Actions of SQuAD."""

    do_train: bool = setting(False, "train; scored on predict_file, if given", affects_result=False)
    do_predict: bool = setting(False, "write the answers to predict_file", affects_result=False)


@dataclass(frozen=True)
class SquadCacheSettings:
    """Tokenization of the files and its cache."""

    output_dir: str = setting("", "cache of tokenized files; empty: none", affects_result=False)
    overwrite_data: bool = setting(False, "rebuild that cache", affects_result=False)
    prepro_split: str | None = setting(
        None, "only put this file into the cache", choices=("train", "eval"), affects_result=False
    )
    num_proc: int = setting(
        1, "processes that tokenize; worthwhile for huge files", affects_result=False
    )
    keep_accents: bool = setting(False, "SentencePiece: keep accents in the text")
    debug_mode: bool = setting(False, "only the first 100 questions of a file")


@dataclass(frozen=True)
class SquadSettings(FineTuneSettings):
    """All settings of SQuAD."""

    task: SquadTaskSettings = group("what to run", SquadTaskSettings)
    evaluation: EvaluationSettings = group(
        "training",
        EvaluationSettings,
        aliases={"valid_bsz": ("predict_batch_size", "eval_batch_size")},
    )
    files: SquadFiles = group("what to run", SquadFiles)
    predictions: PredictionSettings = group("what to run", PredictionSettings)
    cache: SquadCacheSettings = group("text to tokens", SquadCacheSettings)
    windows: WindowConfig = group(
        "text to tokens",
        WindowConfig,
        names={"max_seq_length": "max_length"},
        aliases={"max_seq_length": ("max_seq_length",)},
    )
    head: AnswerConfig = group("answers", AnswerConfig)
    answers: AnswerSettings = group("answers", AnswerSettings)
    ensemble: EnsembleSettings = group("ensemble", EnsembleSettings)

    @property
    def trains(self) -> bool:
        """Whether the run trains a model."""
        return self.task.do_train

    @property
    def trained_model(self) -> Path | None:
        """The model to evaluate without training; an ensemble names its own."""
        return None if self.ensemble.do_ensemble else super().trained_model

    @property
    def members(self) -> tuple[str, ...]:
        """The checkpoints of the ensemble."""
        return list_checkpoints(self.ensemble)

    def with_checkpoint(self, path: str) -> SquadSettings:
        """Return the same settings with another initial checkpoint."""
        return replace(self, init=replace(self.init, init_ckpt=path))

    def check(self) -> None:
        """Refuse what cannot work, before any file is read.

        Raises:
            ConfigError: a setting is missing, out of range or contradicts another.
        """
        self.check_paths()
        check_squad_numbers(self.head, self.answers, self.cache.num_proc)
        split, trains, predicts = self.cache.prepro_split, self.task.do_train, self.task.do_predict
        work = SquadWork(trains, predicts, split)
        required = work.required_flags(self.files, self.ensemble)
        if trains and not split and self.cache.output_dir:
            required.pop("train_file", None)  # the cache may take its place
        check_given(**required)
        if split:
            check_given(output_dir=self.cache.output_dir)
        elif self.ensemble.do_ensemble:
            for member in self.members:
                self.with_checkpoint(member).check_run(trains=False, only="--do_ensemble")
        else:
            self._check_run()

    def _check_run(self) -> None:
        trains, predicts = self.task.do_train, self.task.do_predict
        if predicts and not (self.files.predict_dir or self.run.model_dir):
            raise ConfigError("--predict_dir or --model_dir is needed: answers are written there")
        self.predictions.check(writes=predicts, flag="do_predict")
        self.check_run(trains=trains, only="--do_predict")
