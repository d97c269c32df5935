"""Prediction files: one line per example, in order.

The original's ``test_results.txt`` and ``valid_results.txt`` hold bare predictions; submissions
have a header, and ``index<tab>prediction`` in every line.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from funnel.tasks.base import Task
from funnel.utils.errors import DataError
from funnel.utils.files import atomic_write_text


def write_predictions(
    path: str | os.PathLike[str],
    task: Task,
    predictions: Sequence[float] | np.ndarray,
    *,
    indexed: bool = False,
) -> None:
    """Write label texts, or regression scores with six decimals.

    Args:
        path: the file; its directory is created if needed.
        task: decides how predictions are written.
        predictions: class ids, or scores for regression, [n].
        indexed: write the form of submissions.

    Raises:
        DataError: a prediction is not a class of the task.
        FunnelError: the file cannot be written.
    """
    values = np.asarray(predictions).reshape(-1)
    if task.is_regression:
        texts = [f"{value:.6f}" for value in values]
    else:
        texts = label_texts(task, values)
    if indexed:
        write_rows(path, texts)
    else:
        atomic_write_text(path, "".join(f"{text}\n" for text in texts))


def label_texts(task: Task, class_ids: np.ndarray) -> list[str]:
    """Return the label of every class id.

    Raises:
        DataError: the labels are unknown, or an id is not a class of the task.
    """
    labels = task.known_labels()
    wrong = np.flatnonzero(~np.isin(class_ids, np.arange(len(labels))))
    if len(wrong):
        raise DataError(
            f"task {task.name}: prediction {wrong[0]} is {class_ids[wrong[0]]}, "
            f"not a class id from 0 to {len(labels) - 1}"
        )
    return [labels[int(class_id)] for class_id in class_ids]


def write_rows(path: str | os.PathLike[str], texts: Sequence[str]) -> None:
    """Write a header and the indexed prediction texts, atomically."""
    rows = [f"{index}\t{text}\n" for index, text in enumerate(texts)]
    atomic_write_text(path, "index\tprediction\n" + "".join(rows))
