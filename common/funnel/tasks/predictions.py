"""Prediction files: one line per example, in order.

The original's ``test_results.txt`` and ``valid_results.txt`` hold bare predictions; submissions
have a header, and ``index<tab>prediction`` in every line.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from funnel.config.heads import SINGLE_LABEL
from funnel.tasks.base import Task
from funnel.utils.errors import DataError
from funnel.utils.files import atomic_path, atomic_write_text

HEADER = "index\tprediction\n"
_CHUNK = 4096  # predictions made into text at a time


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
        predictions: those of :func:`decide`.
        indexed: write the form of submissions.

    Raises:
        DataError: a prediction is not a class of the task.
        FunnelError: the file cannot be written.
    """
    values = np.asarray(predictions)
    if not task.is_multi_label:
        values = values.reshape(-1)
    if task.problem_type == SINGLE_LABEL:
        check_class_ids(task, values)
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        if indexed:
            stream.write(HEADER)
        for start in range(0, len(values), _CHUNK):
            part = values[start : start + _CHUNK]
            texts = _texts(task, part)
            for index, text in enumerate(texts, start=start):
                stream.write(f"{index}\t{text}\n" if indexed else f"{text}\n")


def decide(task: Task, logits: np.ndarray) -> np.ndarray:
    """Return the predictions of logits [n, num_labels].

    Returns:
        Class ids [n], the numbers of a regression [n], or 0 or 1 for every label, [n, num_labels],
        where several can hold: 1 from a probability of one half on.
    """
    if task.is_multi_label:
        return (logits >= 0).astype(np.int64)
    return logits[:, 0] if task.is_regression else logits.argmax(axis=1)


def _texts(task: Task, values: np.ndarray) -> list[str]:
    if task.label_separator is not None:
        names = np.array(task.known_labels(), object)
        return [task.label_separator.join(names[row > 0]) for row in values]
    return [f"{x:.6f}" for x in values] if task.is_regression else label_texts(task, values)


def label_texts(task: Task, class_ids: np.ndarray) -> list[str]:
    """Return the label of every class id.

    Raises:
        DataError: the labels are unknown, or an id is not a class of the task.
    """
    labels = task.known_labels()
    check_class_ids(task, class_ids)
    return [labels[int(class_id)] for class_id in class_ids]


def check_class_ids(task: Task, class_ids: np.ndarray) -> None:
    """Check that predictions are classes of a task.

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


def write_rows(path: str | os.PathLike[str], texts: Sequence[str]) -> None:
    """Write a header and the indexed prediction texts, atomically."""
    rows = [f"{index}\t{text}\n" for index, text in enumerate(texts)]
    atomic_write_text(path, HEADER + "".join(rows))
