"""Several labels per text: cells of labels, the vectors that stand for them, and their scores."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from funnel.tasks.labels import LabelMatcher, clean_label
from funnel.utils.errors import DataError
from funnel.utils.text import join_names

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)

DEFAULT_SEPARATOR = "|"
# Main metric -> all metrics.
METRICS = {
    "micro_f1": ("micro_f1", "macro_f1", "subset_accuracy"),
    "macro_f1": ("macro_f1", "micro_f1", "subset_accuracy"),
    "subset_accuracy": ("subset_accuracy", "micro_f1", "macro_f1"),
}


def split_labels(cell: str, separator: str, where: str = "") -> list[str]:
    """Return the different labels in a cell: a JSON list of names, or names with a separator.

    An empty cell has no label. ``where`` (``file:line``) begins the message of an error.

    Raises:
        DataError: a list holds something other than names and numbers.
    """
    names: Iterable[str] = cell.split(separator)
    if clean_label(cell).startswith("["):
        try:
            values = json.loads(cell)
        except (ValueError, RecursionError):
            values = None
        if isinstance(values, list):
            if not all(isinstance(value, str | int | float) for value in values):
                raise DataError(
                    f"{where}: label {cell[:60]!r}: a list of labels should hold names and numbers"
                )
            names = (x if isinstance(x, str) else json.dumps(x) for x in values)
    return [name for name in dict.fromkeys(map(clean_label, names)) if name]


def find_labels(
    cell: str, separator: str, matcher: LabelMatcher, count: int, where: str = ""
) -> tuple[tuple[int, ...], str | None]:
    """Return 0 or 1 for each of ``count`` labels, and the first name that is no label, if any."""
    holds = [0] * count
    for name in split_labels(cell, separator, where):
        found = matcher.find(name)
        if found is None:
            return tuple(holds), name
        holds[found] = 1
    return tuple(holds), None


def warn_of_separator(labels: Sequence[str], separator: str) -> None:
    """Log which labels hold the separator, so that text files of predictions are ambiguous."""
    if found := [label for label in labels if separator in label]:
        logger.warning(
            "labels that hold the separator %r: %s; in text files of predictions they read as "
            "several: choose another --label_separator, or --prediction_format=jsonl",
            *(separator, join_names([repr(label) for label in found])),
        )


def count_holding(labels: Sequence[str], vectors: Iterable[Sequence[int]]) -> Mapping[str, int]:
    """Return the number of examples for which each label holds."""
    totals = [0] * len(labels)
    for vector in vectors:
        for index, value in enumerate(vector):
            totals[index] += value
    return dict(zip(labels, totals, strict=True))


def score_labels(predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return micro and macro F1, and the share of examples whose labels are all right.

    A label that is neither predicted nor given has an F1 of 0.

    Args:
        predictions, labels: 0 or 1 for every label, [n, L].

    Raises:
        ValueError: the arrays are empty or of different shapes.
    """
    if predictions.shape != labels.shape or not predictions.size:
        raise ValueError(f"{predictions.shape} predictions for {labels.shape} labels")
    found, gold = predictions > 0, labels > 0
    both = (found & gold).sum(axis=0)
    either = found.sum(axis=0) + gold.sum(axis=0)
    by_label = [
        2 * hits / total if total else 0.0 for hits, total in zip(both, either, strict=True)
    ]
    total = int(either.sum())
    return {
        "micro_f1": float(2 * both.sum() / total) if total else 0.0,
        "macro_f1": float(sum(by_label) / len(by_label)),
        "subset_accuracy": float((found == gold).all(axis=1).mean()),
    }
