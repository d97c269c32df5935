"""RACE: English examinations for Chinese pupils, four options a question (Lai et al. 2017)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from funnel.tasks.json_files import JsonNode, read_json
from funnel.tasks.labels import clean_label
from funnel.utils.errors import DataError
from funnel.utils.text_files import list_texts

LEVELS = ("middle", "high")
OPTIONS = 4
LETTERS = "ABCD"


@dataclass(frozen=True, slots=True)
class RaceQuestion:
    """A question.

    Attributes:
        text: the question; a ``_`` in it stands for the option.
        options: the four options.
        label: index of the correct option, 0 to 3.
        article: index into :attr:`RaceData.articles`.
        is_high: whether it is from a high school examination (else middle school).
        id: level, file and number of the question in it, from 0: ``high/1.txt#0``.
    """

    text: str
    options: tuple[str, ...]
    label: int
    article: int
    is_high: bool
    id: str = ""


@dataclass(frozen=True)
class RaceData:
    """The questions of a split, grouped by article; middle school first."""

    articles: tuple[str, ...]
    questions: tuple[RaceQuestion, ...]


def read_race(data_dir: str | os.PathLike[str], split: str) -> RaceData:
    """Read ``data_dir/split/{middle,high}/*.txt``, sorted by name within each level.

    Raises:
        DataError: a folder is missing or empty, no file has a question, or one is malformed (the
            message contains the path in the file).
    """
    articles: list[str] = []
    questions: list[RaceQuestion] = []
    for level in LEVELS:
        folder = Path(data_dir) / split / level
        files = list_texts(folder)
        if not files:
            raise DataError(f"{folder}: no *.txt files; RACE has them in {' and '.join(LEVELS)}")
        for file in files:
            root = read_json(file)
            questions.extend(_parse_questions(root, len(articles), level == "high"))
            articles.append(root.member("article", str).value)
    if not questions:
        raise DataError(f"{Path(data_dir) / split}: its files hold no question")
    return RaceData(tuple(articles), tuple(questions))


def _parse_questions(root: JsonNode, article: int, is_high: bool) -> Iterator[RaceQuestion]:
    texts, rows, letters = (
        list(root.members(name, kind))
        for name, kind in (("questions", str), ("options", list), ("answers", str))
    )
    if not len(texts) == len(rows) == len(letters):
        raise root.error(
            f"file has {len(texts)} questions, {len(rows)} lists of options and {len(letters)} "
            "answers; the numbers should be equal"
        )
    prefix = f"{LEVELS[is_high]}/{root.file.name}"
    for number, (text, row, letter) in enumerate(zip(texts, rows, letters, strict=True)):
        if len(row.value) != OPTIONS:
            raise row.error(f"has {len(row.value)} options, {OPTIONS} are expected")
        options = [JsonNode(row.file, f"{row.path}[{i}]", o) for i, o in enumerate(row.value)]
        answer = clean_label(letter.value).upper()
        if len(answer) != 1 or answer not in LETTERS:
            found, wanted = letter.value[:40], ", ".join(LETTERS)
            raise letter.error(f"is {found!r}, one of {wanted} is expected")
        yield RaceQuestion(
            text.value,
            tuple(option.checked(str).value for option in options),
            LETTERS.index(answer),
            article,
            is_high,
            f"{prefix}#{number}",
        )


def insert_option(question: str, option: str) -> str:
    """Replace every ``_`` in the question by the option, or append the option without one."""
    return question.replace("_", option) if "_" in question else f"{question} {option}"


def race_accuracy(
    predictions: np.ndarray, labels: np.ndarray, is_high: np.ndarray
) -> dict[str, float]:
    """Return ``accuracy``, ``accuracy_middle`` and ``accuracy_high`` as fractions.

    A level without questions is left out.

    Args:
        predictions, labels: predicted and correct option, [n].
        is_high: the level of each question, [n].

    Raises:
        ValueError: the arrays are empty or of different lengths.
    """
    predictions, labels, is_high = (np.asarray(a) for a in (predictions, labels, is_high))
    if not len(predictions) or not len(predictions) == len(labels) == len(is_high):
        sizes = f"{len(predictions)} predictions, {len(labels)} labels, {len(is_high)} levels"
        raise ValueError(f"{sizes}: the numbers must be equal and at least 1")
    is_correct, is_high = predictions == labels, is_high.astype(bool)
    groups = {"accuracy_middle": ~is_high, "accuracy_high": is_high}
    metrics = {"accuracy": float(is_correct.mean())}
    return metrics | {n: float(is_correct[g].mean()) for n, g in groups.items() if g.any()}
