"""The prediction files of ``classifier.py``, ``race.py`` and ``squad.py`` of both backends."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from funnel.config.predictions import PredictionSettings
from funnel.features.squad_predictions import SquadAnswers
from funnel.inference.files import open_rows, write_rows_of_arrays
from funnel.inference.rows import (
    MULTIPLE_CHOICE,
    QUESTION_ANSWERING,
    Answer,
    RowFormat,
    name_choice,
)
from funnel.tasks.base import Task
from funnel.tasks.predictions import decide, write_predictions
from funnel.tasks.race import RaceData
from funnel.tasks.tables import read_records
from funnel.utils.files import atomic_path

ANSWERS_NAME = "predictions"  # with .csv or .jsonl


def task_row_format(task: Task, settings: PredictionSettings) -> RowFormat:
    """Return how predictions for a task become rows."""
    return RowFormat(task.problem_type, task.known_labels(), settings.write_logits)


def write_task_predictions(
    path: str | os.PathLike[str],
    task: Task,
    logits: np.ndarray,
    settings: PredictionSettings,
    *,
    indexed: bool = False,
    ids: Iterable[str] | None = None,
) -> None:
    """Write the predictions for a split.

    Args:
        path: the file without suffix, which is that of its format.
        task: decides what the logits mean.
        logits: [n, labels].
        settings: which files, and what they hold.
        indexed: the text file has the form of submissions.
        ids: ids of the examples; None without any.
    """
    if settings.writes_text:
        write_predictions(f"{path}.txt", task, decide(task, logits), indexed=indexed)
    if (kind := settings.row_format) is not None:
        form = task_row_format(task, settings)
        write_rows_of_arrays(f"{path}.{kind}", kind, form, logits, ids)


def read_ids(task: Task, data_dir: str | os.PathLike[str], split: str) -> Iterator[str] | None:
    """Return the ids of the examples of a split, read from its file once more.

    None if the task has no column of ids.
    """
    source = task.sources[split]
    return None if source.id is None else _read_ids(task, task.path(data_dir, split), split)


def _read_ids(task: Task, path: Path, split: str) -> Iterator[str]:
    # The records that Task.read makes examples of, in the same order.
    for record in read_records(path, task.sources[split], task.labels or ()):
        if not task.skips(record):
            yield record.id or ""


def write_race_predictions(
    path: str | os.PathLike[str],
    logits: np.ndarray,
    settings: PredictionSettings,
    data: RaceData | None = None,
) -> None:
    """Write the chosen options of a split.

    Args:
        path: the file without suffix, which is that of its format.
        logits: [n, options].
        settings: which files, and what they hold.
        data: the questions, for their ids; needed for a file of rows only.
    """
    if settings.writes_text:
        with atomic_path(f"{path}.txt") as temporary, temporary.open("w") as stream:
            for choice in logits.argmax(axis=1).tolist():
                stream.write(f"{name_choice(choice)}\n")
    if (kind := settings.row_format) is not None:
        form = RowFormat(MULTIPLE_CHOICE, (), settings.write_logits)
        ids = None if data is None else (question.id for question in data.questions)
        write_rows_of_arrays(f"{path}.{kind}", kind, form, logits, ids)


def write_answer_rows(
    folder: str | os.PathLike[str],
    answers: SquadAnswers,
    settings: PredictionSettings,
    prefix: str = "",
) -> None:
    """Write the answers as rows, if the settings ask for them, by the ids of the questions."""
    if (kind := settings.row_format) is None:
        return
    form = RowFormat(QUESTION_ANSWERING, (), settings.write_logits)
    found = (
        Answer(answers.nbest[name], answers.null_odds[name], text)
        for name, text in answers.predictions.items()
    )
    path = Path(folder) / f"{prefix}{ANSWERS_NAME}.{kind}"
    with open_rows(path, kind, form) as writer:
        writer.write(form.rows(found, ids=list(answers.predictions)))
