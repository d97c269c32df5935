"""Answers and scores from what a model says about windows, whichever framework it runs in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from funnel.features.squad import SquadWindows
from funnel.features.squad_predictions import (
    AnswerSettings,
    BeamOutputs,
    SquadAnswers,
    find_answers,
)
from funnel.tasks.squad import SquadData
from funnel.tasks.squad_metrics import evaluate_v1, evaluate_v2
from funnel.utils.errors import ConfigError

# Names of a model's outputs, in the order of BeamOutputs.
BEAM_FIELDS = (
    *("start_top_log_probs", "start_top_index", "end_top_log_probs", "end_top_index"),
    "cls_logits",
)
# Metrics of SQuAD 2.0 that say how much or where, not how good.
_NO_SCORES = ("thresh", "threshold", "total")


@dataclass(frozen=True)
class SquadScorer:
    """Turns the outputs for windows into answers and scores.

    ``version`` is that of the metrics; ``target`` the metric by which the best model is chosen;
    ``threshold`` is where "no answer" begins for the breakdown of 2.0, None for the best for F1.

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
        nothing = {question.id: "" for question in self.data.questions}
        known = self._metrics(nothing, dict.fromkeys(nothing, 0.0))
        names = [name for name in known if name.rpartition("_")[2] not in _NO_SCORES]
        if self.target not in names:
            raise ConfigError(
                f"target_eval_key={self.target!r} is no score of {self.data.path} in version "
                f"{self.version}; it can be {', '.join(names)}"
            )

    @property
    def has_gold(self) -> bool:
        """Whether the answers are known, so that there is something to score."""
        return all(question.answers is not None for question in self.data.questions)

    def answers(self, outputs: Mapping[str, np.ndarray]) -> SquadAnswers:
        """The answers that the outputs :data:`BEAM_FIELDS` of all windows amount to."""
        beams = [outputs[name] for name in BEAM_FIELDS]
        for place in (1, 3):  # positions may have gone through the same float32 as everything else
            beams[place] = beams[place].astype("int64")
        return find_answers(self.data, self.windows, BeamOutputs(*beams), self.settings)

    def score(self, answers: SquadAnswers) -> dict[str, float]:
        """The metrics of answers, the target first."""
        metrics = self._metrics(answers.predictions, answers.null_odds)
        return {self.target: metrics[self.target], **metrics}

    def _metrics(
        self, predictions: Mapping[str, str], null_odds: Mapping[str, float]
    ) -> dict[str, float]:
        if self.version == "v1":
            return evaluate_v1(self.data, predictions)
        return evaluate_v2(self.data, predictions, null_odds, self.threshold)
