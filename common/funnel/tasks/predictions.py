"""Prediction files: a header, then ``index<tab>prediction`` for every example in order."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from funnel.tasks.base import Task
from funnel.utils.errors import DataError
from funnel.utils.files import atomic_write_text


def write_predictions(
    path: str | os.PathLike[str], task: Task, predictions: Sequence[float] | np.ndarray
) -> None:
    """Write label texts, or regression scores with six decimals.

    Args:
        path: the file; its directory is created if needed.
        task: decides how predictions are written.
        predictions: class ids, or scores for regression, [n].

    Raises:
        DataError: a prediction is not a class of the task.
        FunnelError: the file cannot be written.
    """
    values = np.asarray(predictions).reshape(-1)
    if task.is_regression:
        write_rows(path, [f"{value:.6f}" for value in values])
    else:
        write_rows(path, label_texts(task, values))


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
    """Write the file for prediction texts, atomically."""
    rows = [f"{index}\t{text}\n" for index, text in enumerate(texts)]
    atomic_write_text(path, "index\tprediction\n" + "".join(rows))
