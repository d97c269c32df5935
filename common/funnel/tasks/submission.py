"""Test predictions in the format of the GLUE server, one file per task."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from funnel.tasks import get_task
from funnel.tasks.base import Task
from funnel.tasks.predictions import label_texts, write_rows
from funnel.utils.errors import DataError
from funnel.utils.text_files import find_file

logger = logging.getLogger(__name__)

_FALLBACK_NAME = "predictions.tsv"  # for tasks without a benchmark that defines a file name


def write_submission(
    task: Task, predictions: Sequence[float] | np.ndarray, directory: str | os.PathLike[str]
) -> Path:
    """Write the predictions for a test set, in its order, and return the file's path.

    Labels are written as text; regression scores are clipped to the task's range and rounded to
    three decimals. Every line of WNLI gets the majority class, whatever the predictions are.

    Args:
        task: decides the file name and how predictions are written.
        predictions: class ids, or scores for regression, [n].
        directory: created if needed.

    Raises:
        DataError: a prediction is not a class of the task or not a number.
        FunnelError: the file cannot be written.
    """
    values = np.asarray(predictions).reshape(-1)
    if task.constant_prediction is not None:
        values = np.full(len(values), task.constant_prediction)
    texts = _score_texts(task, values) if task.is_regression else label_texts(task, values)
    path = Path(directory) / (task.submission_file or _FALLBACK_NAME)
    write_rows(path, texts)
    return path


def find_companion(task: Task, data_dir: str | os.PathLike[str]) -> tuple[Task, Path] | None:
    """Return the task whose test set is submitted with ``task``'s, and the directory of its data.

    Only MNLI-matched has one, the diagnostic set (AX). Its file is searched in ``data_dir``, then
    where the GLUE download puts it: in ``diagnostic``, ``AX`` and ``MNLI`` of the parent directory,
    and in that directory itself. ``None``, with a warning, if it is not found.
    """
    if task.also_submits is None:
        return None
    # One model predicts both, so both have their labels in the order of its outputs.
    other = replace(get_task(task.also_submits), labels=task.labels)
    here = Path(data_dir)
    directories = [
        here,
        *(here.resolve().parent / name for name in ("diagnostic", "AX", "MNLI", "")),
    ]
    names = other.sources["test"].names
    for directory in directories:
        if any(find_file(directory, name) for name in names):
            return other, directory
    logger.warning(
        "no %s in %s or next to it: %s is not written",
        " or ".join(names),
        here,
        other.submission_file,
    )
    return None


def _score_texts(task: Task, values: np.ndarray) -> list[str]:
    wrong = np.flatnonzero(~np.isfinite(values.astype(np.float64)))
    if len(wrong):
        raise DataError(f"task {task.name}: prediction {wrong[0]} is not a number")
    if task.label_range is not None:
        values = np.clip(values, *task.label_range)
    return [f"{value:.3f}" for value in values]
