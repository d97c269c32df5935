"""Training with a part of the training data held out as dev data, or without dev data."""

from __future__ import annotations

import logging
import os
from collections import Counter
from dataclasses import dataclass, fields, replace

import numpy as np

from funnel.tasks.base import Example, LoadedSplit, Task
from funnel.tasks.example_list import ExampleList
from funnel.tasks.labels import LabelMatcher
from funnel.utils.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

# The choice does not depend on the seed of a run: runs with several seeds have the same dev data.
_SEED = 0


@dataclass(frozen=True)
class HeldOutTask(Task):
    """A task whose split ``dev`` is a share of the examples in its training file.

    Attributes:
        dev_fraction: that share; ``train`` has the others.
    """

    dev_fraction: float = 0.0

    def read(self, data_dir: str | os.PathLike[str], split: str) -> LoadedSplit:
        """Read a split, see the base class.

        Raises:
            DataError: as there; or one of the two parts would be empty.
        """
        if split not in ("train", "dev"):
            return super().read(data_dir, split)
        loaded = super().read(data_dir, "train")
        held_out = choose_held_out(len(loaded.examples), self.dev_fraction)
        path = self.path(data_dir, "train")
        if not 0 < held_out.sum() < len(held_out):
            raise DataError(
                f"{path}: --dev_fraction={self.dev_fraction:g} of {len(held_out)} examples leaves "
                "no dev data or no training data"
            )
        if split == "dev":
            logger.info(
                "dev: %d of the %d examples of %s are held out, the same ones in every run",
                *(held_out.sum(), len(held_out), path),
            )
        chosen, examples = held_out if split == "dev" else ~held_out, ExampleList(Example)
        for example, is_chosen in zip(loaded.examples, chosen, strict=True):
            if is_chosen:
                examples.append(example)
        matcher = LabelMatcher(self.known_labels())
        report = self._report(examples, Counter(loaded.report.skipped), matcher)
        return LoadedSplit(examples, replace(report, respelled=loaded.report.respelled))


def choose_held_out(count: int, fraction: float) -> np.ndarray:
    """Return which of ``count`` examples are held out, bool [count]: the nearest number of them."""
    held_out = np.zeros(count, bool)
    order = np.random.default_rng(_SEED).permutation(count)
    held_out[order[: round(count * fraction)]] = True
    return held_out


def hold_out(task: Task, dev_fraction: float | None) -> Task:
    """Return a task whose dev data is held out from its training data; None changes nothing.

    Raises:
        ConfigError: the fraction is not between 0 and 1.
    """
    if dev_fraction is None:
        return task
    if not 0.0 < dev_fraction < 1.0:
        raise ConfigError(f"--dev_fraction={dev_fraction:g}: must be between 0 and 1")
    values = {part.name: getattr(task, part.name) for part in fields(task)}
    values["sources"] = {**without_dev(task).sources, "dev": task.sources["train"]}
    return HeldOutTask(**values, dev_fraction=dev_fraction)


def without_dev(task: Task) -> Task:
    """Return a task without the splits to evaluate on."""
    kept = {name: source for name, source in task.sources.items() if name not in task.eval_splits}
    return replace(task, sources=kept)
