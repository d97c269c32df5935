"""Evaluation of the checkpoints of a run: scores by step, best checkpoint, retention."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from funnel.utils.files import atomic_write_json
from funnel.utils.interruption import stop_requests
from funnel.utils.json_files import read_json_object
from funnel.utils.logging import RunLog
from funnel.utils.run_directory import BEST_RESULT
from funnel_tf.training.run_directory import SavedStep, retain, saved_steps

logger = logging.getLogger(__name__)

# Metrics by split; the main metric of the first split comes first.
Scores = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class BestCheckpoint:
    """The best checkpoint and its scores."""

    saved: SavedStep
    scores: Scores

    @property
    def main(self) -> tuple[str, str, float]:
        """Split, name and value of the metric by which checkpoints are compared."""
        split, metrics = next(iter(self.scores.items()))
        name, value = next(iter(metrics.items()))
        return split, name, value


@dataclass(frozen=True)
class Retention:
    """Which checkpoints to keep after training and evaluation: by default the best and the last.

    Attributes:
        everything: keep all.
        best_only: keep the best only.
    """

    everything: bool = False
    best_only: bool = False

    def apply(self, folder: str | Path, best: SavedStep) -> None:
        """Delete all other checkpoints from ``folder``."""
        if self.everything:
            return
        last = saved_steps(folder)[-1]
        deleted = retain(folder, {best.step} if self.best_only else {best.step, last.step})
        if deleted:
            logger.info(
                "%s: checkpoints of %d other steps deleted (--retain_all keeps them)",
                *(folder, len(deleted)),
            )


def evaluate_all(
    checkpoints: Sequence[SavedStep],
    evaluate: Callable[[Path], Scores],
    log: RunLog,
    higher_is_better: bool = True,
) -> BestCheckpoint:
    """Score every checkpoint and return the best one, the first of several with equal scores.

    Args:
        checkpoints: in the order of evaluation.
        evaluate: function of a checkpoint's prefix.
        log: destination of the scores.
        higher_is_better: whether the main metric is a score or a loss.

    Returns:
        The best checkpoint. One whose score is NaN is the best only if all scores are.
    """
    best: BestCheckpoint | None = None
    for saved in checkpoints:
        stop_requests.check()
        scores = evaluate(saved.prefix)
        for split, metrics in scores.items():
            log.log(saved.step, split, **metrics)
            text = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
            logger.info("step %d, %s: %s", saved.step, split, text)
        candidate = BestCheckpoint(saved, scores)
        if best is None or _beats(candidate.main[2], best.main[2], higher_is_better):
            best = candidate
    if best is None:
        raise ValueError("no checkpoint to evaluate")
    split, metric, value = best.main
    logger.info("best: step %d, %s %s %.4f", best.saved.step, split, metric, value)
    return best


def _beats(score: float, best: float, higher_is_better: bool) -> bool:
    if math.isnan(best) or math.isnan(score):
        return not math.isnan(score)
    return score > best if higher_is_better else score < best


def write_best(best: BestCheckpoint, model_dir: str | Path) -> None:
    """Write ``best_result.json`` to ``model_dir``.

    ``checkpoint`` in it is a file name if the checkpoint is in the same directory, else a path.
    """
    split, metric, score = best.main
    folder, prefix = Path(model_dir), best.saved.prefix
    is_here = prefix.parent.resolve() == folder.resolve()
    result = {
        "split": split,
        "metric": metric,
        "score": score if math.isfinite(score) else None,
        "step": best.saved.step,
        "checkpoint": prefix.name if is_here else str(prefix),
        "scores": {name: dict(metrics) for name, metrics in best.scores.items()},
    }
    atomic_write_json(folder / BEST_RESULT, result)


def best_checkpoint(model_dir: str | Path) -> Path | None:
    """Return the prefix recorded in ``best_result.json``; None if file or checkpoint is missing."""
    record = Path(model_dir) / BEST_RESULT
    if not record.is_file():
        return None
    name = read_json_object(record).get("checkpoint")
    prefix = Path(model_dir) / str(name)
    return prefix if Path(f"{prefix}.index").is_file() else None
