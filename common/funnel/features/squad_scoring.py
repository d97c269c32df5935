"""Scores of model outputs for SQuAD windows, for one model or an ensemble."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from funnel.config.squad import EnsembleSettings
from funnel.features.squad import SquadWindows
from funnel.features.squad_predictions import (
    LOGITS_FILE,
    AnswerSettings,
    BeamOutputs,
    SquadAnswers,
    combine_answers,
    find_answers,
)
from funnel.formats.json_spool import write_json_array
from funnel.tasks.squad import Question, SquadData
from funnel.tasks.squad_metrics import evaluate_v1, evaluate_v2
from funnel.utils.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

# Names of a model's outputs, in the order of BeamOutputs.
BEAM_FIELDS = (
    *("start_top_log_probs", "start_top_index", "end_top_log_probs", "end_top_index"),
    "cls_logits",
)
# Metrics of SQuAD 2.0 that are thresholds or counts: the best model is not selected by them.
_NO_SCORES = ("thresh", "threshold", "total")


@dataclass(frozen=True)
class SquadScorer:
    """Converts the outputs for windows into answers and scores.

    Attributes:
        data: the questions.
        windows: their windows.
        settings: how answers are selected.
        version: version of the metrics, ``v1`` or ``v2``.
        target: metric by which the best model is selected.
        threshold: null odds above which a question counts as unanswerable in the breakdown of 2.0;
            ``None`` selects the threshold that is best for F1.

    Raises:
        ConfigError: there is no such metric.
    """

    data: SquadData
    windows: SquadWindows
    settings: AnswerSettings
    version: str = "v2"
    target: str = "best_f1"
    threshold: float | None = None

    def __post_init__(self) -> None:
        if not self.has_gold:
            return
        # Which metrics there are depends on the kinds of questions: one of each, and no answers.
        kinds: dict[bool, Question] = {}
        for question in self.data.questions:
            kinds.setdefault(bool(question.answers), question)
        some = replace(self.data, questions=tuple(kinds.values()))
        nothing = {question.id: "" for question in some.questions}
        known = self._metrics(some, nothing, dict.fromkeys(nothing, 0.0))
        names = [name for name in known if name.rpartition("_")[2] not in _NO_SCORES]
        if self.target not in names:
            raise ConfigError(
                f"target_eval_key={self.target!r} is no score of {self.data.path} in version "
                f"{self.version}; it can be {', '.join(names)}"
            )

    @functools.cached_property
    def has_gold(self) -> bool:
        """Whether every question has gold answers, without which there are no scores."""
        return all(question.answers is not None for question in self.data.questions)

    def answers(self, outputs: Mapping[str, np.ndarray]) -> SquadAnswers:
        """Return the answers for the outputs :data:`BEAM_FIELDS` of all windows."""
        beams = BeamOutputs(*(outputs[name] for name in BEAM_FIELDS))
        return find_answers(self.data, self.windows, beams, self.settings)

    def write_logits(
        self, outputs: Mapping[str, np.ndarray], directory: str | os.PathLike[str], prefix: str = ""
    ) -> None:
        """Write ``logits.json``: the outputs :data:`BEAM_FIELDS` of every window, and its id.

        Raises:
            FunnelError: the file cannot be written.
        """
        fields = [outputs[name] for name in BEAM_FIELDS]
        rows = (
            {"unique_id": int(unique_id)}
            | {name: value.tolist() for name, value in zip(BEAM_FIELDS, values, strict=True)}
            for unique_id, *values in zip(self.windows.unique_ids, *fields, strict=True)
        )
        write_json_array(Path(directory) / f"{prefix}{LOGITS_FILE}", rows)

    def score(self, answers: SquadAnswers) -> dict[str, float]:
        """Return the metrics of answers, the target first."""
        metrics = self._metrics(self.data, answers.predictions, answers.null_odds)
        return {self.target: metrics[self.target], **metrics}

    def _metrics(
        self, data: SquadData, predictions: Mapping[str, str], null_odds: Mapping[str, float]
    ) -> dict[str, float]:
        if self.version == "v1":
            return evaluate_v1(data, predictions)
        return evaluate_v2(data, predictions, null_odds, self.threshold)


class EnsembleResult(NamedTuple):
    """Predictions of an ensemble by question id, and its scores (empty without gold answers)."""

    predictions: Mapping[str, str]
    scores: dict[str, float]


def score_ensemble(
    scorer: SquadScorer, members: Sequence[SquadAnswers], settings: EnsembleSettings
) -> EnsembleResult:
    """Combine the answers of several models and apply the null threshold.

    Questions whose mean null odds exceed the threshold get an empty prediction; in version v1 every
    question has an answer, so there is no threshold.

    Raises:
        DataError: the threshold is to be searched but there are no gold answers.
    """
    answers = combine_answers(members, scorer.settings.n_best_size)
    scores = scorer.score(answers) if scorer.has_gold else {}
    if scorer.version == "v1":
        return EnsembleResult(answers.predictions, scores)
    if settings.search_threshold and not scores:
        raise DataError(f"{scorer.data.path}: has no answers to search the threshold by")
    threshold = scores["best_f1_thresh"] if settings.search_threshold else settings.na_threshold
    logger.info("no answer where the null odds exceed %.4f", threshold)
    return EnsembleResult(answers.apply_null_threshold(threshold), scores)
