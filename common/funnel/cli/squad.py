"""Checks on the settings of ``squad.py`` that both backends share, and the files they describe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from funnel.cli.flags import check_at_least_one, split_list
from funnel.config.heads import AnswerConfig
from funnel.config.squad import AnswerSettings, EnsembleSettings, SquadFiles, WindowConfig
from funnel.utils.errors import ConfigError

if TYPE_CHECKING:
    from funnel.features.squad_cache import SquadSource

_DEBUG_QUESTIONS = 100
_FILES = {"train": "train_file", "eval": "predict_file"}  # split -> flag


@dataclass(frozen=True)
class SquadWork:
    """The requested work: preprocessing, an ensemble, or training and prediction."""

    do_train: bool = False
    do_predict: bool = False
    prepro_split: str | None = None

    def required_flags(self, files: SquadFiles, ensemble: EnsembleSettings) -> dict[str, Any]:
        """Return the flags without which the work cannot be done, with their values.

        Raises:
            ConfigError: no work is requested, or work that excludes other work.
        """
        if self.prepro_split not in (None, "", *_FILES):
            raise ConfigError(f"--prepro_split={self.prepro_split}: should be train or eval")
        if self.prepro_split:
            return _values(files, _FILES[self.prepro_split])
        if ensemble.do_ensemble:
            if self.do_train or self.do_predict:
                raise ConfigError("--do_ensemble goes without --do_train and --do_predict")
            return {
                **_values(ensemble, "ensemble_ckpts"),
                **_values(files, "predict_file"),
                **_values(ensemble, "ensemble_output_file"),
            }
        if not (self.do_train or self.do_predict):
            raise ConfigError(
                "nothing to do: --do_train, --do_predict or both, --do_ensemble or --prepro_split"
            )
        needed = {"train_file": self.do_train, "predict_file": self.do_predict}
        return _values(files, *(name for name, is_needed in needed.items() if is_needed))


def check_squad_numbers(head: AnswerConfig, answers: AnswerSettings, num_proc: int) -> None:
    """Check the sizes of the beam and of the answers.

    Raises:
        ConfigError: a number is below 1.
    """
    check_at_least_one(
        start_n_top=head.start_n_top,
        end_n_top=head.end_n_top,
        n_best_size=answers.n_best_size,
        max_answer_length=answers.max_answer_length,
        num_proc=num_proc,
    )


def build_source(
    files: SquadFiles,
    split: str,
    windows: WindowConfig,
    *,
    debug_mode: bool = False,
    overwrite: bool = False,
) -> SquadSource:
    """Return the file of a split (``train`` or ``eval``) and how it is cut.

    ``debug_mode`` uses the first 100 questions only.
    """
    # Imports NumPy, which the settings of the programs do without.
    from funnel.features.squad_cache import SquadSource

    return SquadSource(
        getattr(files, _FILES[split]),
        getattr(files, f"{split}_version"),
        windows,
        limit=_DEBUG_QUESTIONS if debug_mode else None,
        overwrite=overwrite,
    )


def list_checkpoints(ensemble: EnsembleSettings) -> tuple[str, ...]:
    """Return the checkpoints of an ensemble.

    Raises:
        ConfigError: the list is empty.
    """
    paths = split_list(ensemble.ensemble_ckpts)
    if not paths:
        raise ConfigError(f"--ensemble_ckpts={ensemble.ensemble_ckpts}: names no checkpoint")
    return paths


def _values(settings: SquadFiles | EnsembleSettings, *names: str) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in names}
