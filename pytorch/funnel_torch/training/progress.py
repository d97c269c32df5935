"""How far training came: steps, skipped steps, and the best evaluation so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

# Metrics by split. The first metric of the first split selects the best model.
Scores = Mapping[str, Mapping[str, float]]

# fp16 starts with a loss scale of 2^16 and skips a step whenever it has to halve it.
_SCALING_SKIPS = 10


@dataclass
class Progress:
    """Progress of training, saved in checkpoints.

    ``loss_sum`` is the sum of the losses of the ``loss_steps`` steps since the last log line.
    ``best`` holds the scores at ``best_step``; ``evaluations_since_best`` counts those that were
    not better. The evaluation after ``step`` is still to be done if ``evaluation_pending``;
    ``evaluation_is_finite`` is about the loss in the last one. ``stopped_early``: training ended
    before its last step, because the scores did not improve.
    """

    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    loss_sum: float = 0.0
    loss_steps: int = 0
    best_step: int = -1
    best_score: float = math.nan
    best: dict[str, dict[str, float]] = field(default_factory=dict)
    evaluation_pending: bool = False
    evaluation_is_finite: bool = True
    evaluations_since_best: int = 0
    stopped_early: bool = False

    def divergence(self, precision: str) -> list[str]:
        """Return how training has ended without a usable model, in words; empty if it has not."""
        # Loss scaling skips single steps at any time, and several while it looks for the scale.
        skips = _SCALING_SKIPS if precision == "fp16" else 1
        if self.skipped == self.step > 0:
            return ["no step had finite gradients"]
        if (last := self.skipped_in_a_row) >= skips:
            steps = "step" if last == 1 else f"{last} steps"
            return [f"the gradients of the last {steps} were not finite"]
        return [] if self.evaluation_is_finite else ["the loss in the evaluation is not finite"]

    def add_evaluation(self, scores: Scores, higher_is_better: bool, patience: int) -> bool:
        """Record the scores at the current step; return whether they are the best so far.

        Any number is better than NaN, and a score counts as NaN if a loss is not finite: the
        outputs are then no numbers, of which metrics make one class for all examples.
        ``patience`` evaluations in a row that are not better end
        training; 0: none do.
        """
        losses = [metrics["loss"] for metrics in scores.values() if "loss" in metrics]
        self.evaluation_is_finite = all(map(math.isfinite, losses))
        score = next(iter(next(iter(scores.values())).values()))
        if not self.evaluation_is_finite:
            score = math.nan
        if self._is_better(score, higher_is_better):
            self.best_step, self.best_score = self.step, score
            self.best = {name: dict(values) for name, values in scores.items()}
            self.evaluations_since_best = 0
            return True
        self.evaluations_since_best += 1
        self.stopped_early = 0 < patience <= self.evaluations_since_best
        return False

    def _is_better(self, score: float, higher_is_better: bool) -> bool:
        if self.best_step < 0 or math.isnan(self.best_score):
            return self.best_step < 0 or not math.isnan(score)
        return score > self.best_score if higher_is_better else score < self.best_score
