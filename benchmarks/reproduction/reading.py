"""SQuAD and RACE cut to a number of questions, in their own formats."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from funnel.tasks.race import LETTERS, LEVELS, RaceQuestion, read_race
from funnel.tasks.squad import Question, read_squad
from funnel.utils.files import atomic_write_json
from reproduction.tasks import Task

# Answerable questions of the training articles of 1.1, and the dev articles of both versions.
SQUAD_FILES = {"train": "train-answerable.json", "dev": "dev-v2.0.json"}


def sample(rows: Sequence[Any], count: int) -> list[Any]:
    """Return at most ``count`` of the rows, the same ones in every run."""
    return random.Random(1).sample(rows, min(count, len(rows)))


def write_squad(task: Task, source: Path, target: Path) -> None:
    """Write ``train.json`` and ``dev.json`` with answerable questions, unless they are there."""
    for split, count in (("train", task.train_rows), ("dev", task.eval_rows)):
        path = target / f"{split}.json"
        if path.exists():
            continue
        data = read_squad(source / SQUAD_FILES[split], "v1")
        asked: dict[int, list[Question]] = defaultdict(list)
        for question in sample(data.questions, count):
            asked[question.paragraph].append(question)
        paragraphs = [
            {"context": data.paragraphs[index], "qas": list(map(_question_entry, questions))}
            for index, questions in sorted(asked.items())
        ]
        content = {"version": "v1.1", "data": [{"title": "sample", "paragraphs": paragraphs}]}
        target.mkdir(parents=True, exist_ok=True)
        atomic_write_json(path, content)


def _question_entry(question: Question) -> dict[str, Any]:
    # An answer that the file misplaces stays misplaced: the program counts and reports it.
    answers = [
        {"text": answer.text, "answer_start": -1 if answer.start is None else answer.start}
        for answer in question.answers or ()
    ]
    return {"id": question.id, "question": question.text, "answers": answers}


def write_race(task: Task, source: Path, target: Path) -> None:
    """Write the folders ``train`` and ``dev``, a file per article, unless they are there."""
    for split, count in (("train", task.train_rows), (task.eval_split, task.eval_rows)):
        if (target / split / "complete.json").exists():
            continue
        data = read_race(source, split)
        asked: dict[int, list[RaceQuestion]] = defaultdict(list)
        for question in sample(data.questions, count):
            asked[question.article].append(question)
        for article, questions in asked.items():
            folder = target / split / LEVELS[questions[0].is_high]
            folder.mkdir(parents=True, exist_ok=True)
            content = _article_entry(data.articles[article], questions)
            atomic_write_json(folder / f"{article}.txt", content)
        # Written last, so that an interrupted sample is made again; not one of the *.txt files.
        atomic_write_json(target / split / "complete.json", {"questions": count})


def _article_entry(article: str, questions: list[RaceQuestion]) -> dict[str, Any]:
    return {
        "id": questions[0].id,
        "article": article,
        "questions": [question.text for question in questions],
        "options": [list(question.options) for question in questions],
        "answers": [LETTERS[question.label] for question in questions],
    }
