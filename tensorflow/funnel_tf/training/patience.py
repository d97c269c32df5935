"""Early stopping: training in parts, each followed by the evaluation of its checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from funnel_tf.training.evaluation import BestCheckpoint, Scores
from funnel_tf.training.prediction import Predictions
from funnel_tf.training.run_directory import saved_steps

logger = logging.getLogger(__name__)


@dataclass
class CachedScores:
    """Scores checkpoints, each of them once; inside of :meth:`session` only."""

    evaluate: Callable[[Predictions, Path], Scores]
    found: dict[Path, Scores] = field(default_factory=dict)
    predictions: Predictions = field(default_factory=Predictions)

    @contextmanager
    def session(self) -> Iterator[None]:
        """Evaluate in one graph and session. None may be open while another one trains."""
        with self.predictions:
            yield

    def __call__(self, checkpoint: Path) -> Scores:
        """Return the scores of a checkpoint."""
        if checkpoint not in self.found:
            self.found[checkpoint] = self.evaluate(self.predictions, checkpoint)
        return self.found[checkpoint]


def is_exhausted(scored: Sequence[BestCheckpoint], patience: int) -> bool:
    """Return whether the last ``patience`` checkpoints are not better than one before them."""
    best = 0
    for number, candidate in enumerate(scored):
        if number and candidate.beats(scored[best]):
            best = number
    return len(scored) - 1 - best >= patience


def train_with_patience(
    train_until: Callable[[int, int], int],
    evaluate: CachedScores,
    folder: Path,
    steps: tuple[int, int, int],
    patience: int,
) -> int:
    """Train in parts, until the scores do not improve; return the last step.

    Args:
        train_until: trains from the last checkpoint, of the first step, up to the second.
        evaluate: scores a checkpoint.
        folder: directory of the checkpoints. Those of an interrupted run are scored again, but
            not the one that its interruption has left.
        steps: the one to start from, those between evaluations, and the last one.
        patience: evaluations without a better score that end training.
    """
    step, every, total = steps
    while step < total:
        found = saved_steps(folder) if step else []
        # Others only serve to resume: an interrupted run must not end earlier by them.
        saved = [one for one in found if one.step > 0 and one.step % every == 0]
        with evaluate.session():
            scored = [BestCheckpoint(one, evaluate(one.prefix)) for one in saved]
        if scored and is_exhausted(scored, patience):
            logger.info("step %d: no better score in %d evaluations", step, patience)
            break
        step = train_until(step, min(total, (step // every + 1) * every))
    return step
