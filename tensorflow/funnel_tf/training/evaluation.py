"""Evaluation of the checkpoints of a run: scores by step, best checkpoint, retention."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from funnel.runs.scores import format_scores
from funnel.utils.errors import CheckpointError
from funnel.utils.files import atomic_write_json
from funnel.utils.interruption import stop_requests
from funnel.utils.json_files import read_json_object
from funnel.utils.logging import MetricsLog, RunLog
from funnel.utils.run_directory import BEST_RESULT
from funnel_tf.training.run_directory import SavedStep, retain, saved_steps

logger = logging.getLogger(__name__)

# The original's keys of best_result.json, and the metrics that they are here.
_ORIGINAL_KEYS = {"accuracy": "accu", "f1": "f1", "matthews_corr": "corr", "pearson": "corr"}

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

    @property
    def _compared(self) -> float:
        """The main metric; NaN if a loss is not finite, as metrics make one class of no numbers."""
        losses = [metrics["loss"] for metrics in self.scores.values() if "loss" in metrics]
        return self.main[2] if all(map(math.isfinite, losses)) else math.nan

    def beats(self, other: BestCheckpoint, higher_is_better: bool = True) -> bool:
        """Return whether this one, which was evaluated later, replaces the best one so far."""
        score, best = self._compared, other._compared
        if math.isnan(best) or math.isnan(score):
            return not math.isnan(score)
        if score == best:
            return other.saved.step == 0
        return score > best if higher_is_better else score < best


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
    checkpoints: Iterable[SavedStep],
    evaluate: Callable[[Path], Scores],
    log: RunLog,
    higher_is_better: bool = True,
) -> BestCheckpoint:
    """Score every checkpoint and return the best one, the first of several with equal scores.

    Step 0, which is not trained, is the best only if its score is better than all others.

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
            logger.info("step %d, %s: %s", saved.step, split, format_scores(metrics))
        candidate = BestCheckpoint(saved, scores)
        if best is None or candidate.beats(best, higher_is_better):
            best = candidate
    if best is None:
        raise ValueError("no checkpoint to evaluate")
    split, metrics = next(iter(best.scores.items()))
    logger.info("best: step %d, %s: %s", best.saved.step, split, format_scores(metrics))
    return best


def write_best(best: BestCheckpoint, model_dir: str | Path) -> None:
    """Write ``best_result.json`` to ``model_dir``.

    ``checkpoint`` in it is a file name if the checkpoint is in the same directory, else a path.
    ``path``, ``accu``, ``f1`` and ``corr`` are the original's keys, for programs that read them.
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
        "path": str(prefix),
    }
    for name, value in best.scores[split].items():
        if name in _ORIGINAL_KEYS:
            result[_ORIGINAL_KEYS[name]] = value if math.isfinite(value) else None
    atomic_write_json(folder / BEST_RESULT, result)


def best_checkpoint(model_dir: str | Path) -> Path | None:
    """Return the prefix recorded in ``best_result.json``; None without that file.

    The original recorded it as ``path``, relative to the working directory of its run: if it is not
    there, the checkpoint of that name in ``model_dir`` is meant.

    Raises:
        CheckpointError: the file names no checkpoint, or one that does not exist.
    """
    record = Path(model_dir) / BEST_RESULT
    if not record.is_file():
        return None
    content = read_json_object(record, CheckpointError)
    name, path = content.get("checkpoint"), content.get("path")
    places = [Path(model_dir, name)] if isinstance(name, str) and name else []
    if isinstance(path, str) and path:
        places += [Path(path), Path(model_dir, Path(path).name)]
    for prefix in places:
        if Path(f"{prefix}.index").is_file():
            return prefix
    if not places:
        raise CheckpointError(f"{record}: names no checkpoint (key 'checkpoint' or 'path')")
    raise CheckpointError(
        f"{record}: the best checkpoint, {name or path}, is missing; --do_eval records the best of "
        "those that are left"
    )


class _ReopenedLog:
    """Writes to the log of a run that trains in another process, which may replace the files."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def log(self, step: int, split: str, **scalars: float) -> None:
        log = MetricsLog(self._folder)
        log.log(step, split, **scalars)
        log.close()

    def close(self) -> None:
        """Do nothing: no file is open."""


def open_evaluation_log(folder: str, is_waiting: bool, replaces: bool) -> RunLog:
    """Return the log of an evaluation.

    Args:
        folder: directory of the log.
        is_waiting: whether the run still trains elsewhere.
        replaces: whether evaluations of an interrupted start are replaced.
    """
    return _ReopenedLog(folder) if is_waiting else MetricsLog(folder, replaces=replaces)
