"""Settings of ``squad.py`` that both backends share, and the checks on them."""

from __future__ import annotations

from dataclasses import dataclass

from funnel.config.heads import AnswerConfig
from funnel.config.settings import setting
from funnel.features.squad import WindowConfig
from funnel.features.squad_cache import SquadSource
from funnel.features.squad_predictions import AnswerSettings
from funnel.tasks.squad import VERSIONS
from funnel.utils.errors import ConfigError

_DEBUG_QUESTIONS = 100
_FILES = {"train": "train_file", "eval": "predict_file"}  # split -> flag


@dataclass(frozen=True)
class EnsembleSettings:
    """Several models that answer together."""

    do_ensemble: bool = setting(False, "average the answers of several checkpoints")
    ensemble_ckpts: str | None = setting(None, "comma list of checkpoints")
    ensemble_output_file: str = setting("", "JSON file for the answers")
    na_threshold: float = setting(0.0, "null odds above this: no answer")
    search_threshold: bool = setting(False, "use the threshold that is best for F1 instead")

    def checkpoints(self) -> list[str]:
        """Return the checkpoints in the list.

        Raises:
            ConfigError: the list is empty.
        """
        paths = [path.strip() for path in (self.ensemble_ckpts or "").split(",")]
        if not any(paths):
            raise ConfigError(f"--ensemble_ckpts={self.ensemble_ckpts}: names no checkpoint")
        return [path for path in paths if path]


@dataclass(frozen=True)
class SquadSettings:
    """Files of a run and the work to do with them."""

    do_train: bool = setting(False, "fine-tune on train_file")
    do_predict: bool = setting(False, "write the answers to predict_file")
    train_file: str = setting("", "SQuAD JSON to train on")
    predict_file: str = setting("", "SQuAD JSON to answer")
    train_version: str = setting("v2", "v1: no unanswerable questions", choices=VERSIONS)
    eval_version: str = setting("v2", "the same of predict_file; metrics", choices=VERSIONS)
    predict_dir: str = setting("", "directory for the answers; default model_dir")
    target_eval_key: str = setting("best_f1", "metric of the best model; with v1 always f1")
    prepro_split: str | None = setting(
        None, "only write the cache of this file", choices=("train", "eval")
    )
    num_proc: int = setting(1, "processes that tokenize; pays off for large files")
    debug_mode: bool = setting(False, "use only the first 100 questions of a file")

    @property
    def target(self) -> str:
        """Metric by which the best model is selected."""
        return "f1" if self.eval_version == "v1" else self.target_eval_key

    def build_source(
        self, split: str, windows: WindowConfig, *, overwrite: bool = False
    ) -> SquadSource:
        """Return the file of a split (``train`` or ``eval``) and how it is cut."""
        return SquadSource(
            getattr(self, _FILES[split]),
            getattr(self, f"{split}_version"),
            windows,
            limit=_DEBUG_QUESTIONS if self.debug_mode else None,
            overwrite=overwrite,
        )

    def check(self, model: AnswerConfig, answers: AnswerSettings) -> None:
        """Check values that can be wrong before any file is read.

        Raises:
            ConfigError: a number is below 1, or a version or split is unknown.
        """
        numbers = {
            "start_n_top": model.start_n_top,
            "end_n_top": model.end_n_top,
            "n_best_size": answers.n_best_size,
            "max_answer_length": answers.max_answer_length,
            "num_proc": self.num_proc,
        }
        for name, number in numbers.items():
            if number < 1:
                raise ConfigError(f"--{name}={number}: must be at least 1")
        for name in ("train_version", "eval_version"):
            if (version := getattr(self, name)) not in VERSIONS:
                raise ConfigError(f"--{name}={version}: should be {' or '.join(VERSIONS)}")
        if self.prepro_split not in (None, "", *_FILES):
            raise ConfigError(f"--prepro_split={self.prepro_split}: should be train or eval")

    def required_flags(self, ensemble: EnsembleSettings) -> list[str]:
        """Return the flags without which the requested work cannot be done.

        Raises:
            ConfigError: no work is requested, or work that excludes other work.
        """
        if self.prepro_split:
            return [_FILES[self.prepro_split]]
        if ensemble.do_ensemble:
            if self.do_train or self.do_predict:
                raise ConfigError("--do_ensemble goes without --do_train and --do_predict")
            return ["ensemble_ckpts", "predict_file", "ensemble_output_file"]
        if not (self.do_train or self.do_predict):
            raise ConfigError(
                "nothing to do: --do_train, --do_predict or both, --do_ensemble or --prepro_split"
            )
        files = {"train_file": self.do_train, "predict_file": self.do_predict}
        return [name for name, is_needed in files.items() if is_needed]
