"""SQuAD 1.1 and 2.0: questions on paragraphs of Wikipedia (Rajpurkar et al. 2016, 2018)."""

from __future__ import annotations

import logging
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from funnel.config.squad import VERSIONS
from funnel.tasks.json_files import JsonNode, read_json
from funnel.utils.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

_MISPLACED_SHARE = 0.01  # a larger share of misplaced answers indicates wrong offsets
_WARNINGS = 20


class Answer(NamedTuple):
    """A gold answer; ``start`` is ``None`` if the text is not at the position in the file."""

    text: str
    start: int | None


@dataclass(frozen=True, slots=True)
class Question:
    """A question.

    Attributes:
        id: id in the file, the key of predictions.
        text: the question.
        paragraph: index into :attr:`SquadData.paragraphs`.
        answers: gold answers; the first is used for training. ``()`` if the question is
            unanswerable, ``None`` if the file has no answers (for prediction only).
        where: path in the file, e.g. ``data[0].paragraphs[4].qas[1]``.
    """

    id: str
    text: str
    paragraph: int
    answers: tuple[Answer, ...] | None
    where: str


@dataclass(frozen=True)
class SquadData:
    """The content of a SQuAD file, in its order; several questions share a paragraph."""

    path: str
    paragraphs: tuple[str, ...]
    questions: tuple[Question, ...]


def read_squad(path: str | os.PathLike[str], version: str = "v2") -> SquadData:
    """Read a SQuAD file; a file of either version can be read as ``v1`` or ``v2``.

    Args:
        path: the JSON file.
        version: ``v2``, or ``v1``, which leaves out unanswerable questions.

    An answer that is not at its ``answer_start`` is logged. It is used in evaluation, where only
    its text matters, but not in training.

    Raises:
        ConfigError: there is no such version.
        DataError: the file is missing, malformed or inconsistent (the message contains the path in
            the file), an id occurs twice, no question is left, or more than 1 % of the answers are
            misplaced.
    """
    if version not in VERSIONS:
        raise ConfigError(f"SQuAD version {version!r} is unknown; it is {' or '.join(VERSIONS)}")
    root = read_json(Path(path))
    paragraphs: list[str] = []
    questions: list[Question] = []
    for article in root.members("data", dict):
        for paragraph in article.members("paragraphs", dict):
            context = paragraph.member("context", str).value
            for node in paragraph.members("qas", dict):
                questions.append(_parse_question(node, context, len(paragraphs)))
            paragraphs.append(context)
    _check_ids(root, questions)
    _report_misplaced(root, questions)
    kept = questions if version == "v2" else [q for q in questions if q.answers != ()]
    if not kept:
        raise DataError(f"{path}: holds no {'' if version == 'v2' else 'answerable '}question")
    if len(kept) < len(questions):
        count = len(questions) - len(kept)
        logger.info("%s: version v1 leaves out %d unanswerable questions", path, count)
    return SquadData(os.fspath(path), tuple(paragraphs), tuple(kept))


def _parse_question(node: JsonNode, context: str, paragraph: int) -> Question:
    name, text = node.member("id", str).value, node.member("question", str).value
    return Question(name, text, paragraph, _parse_answers(node, context), node.path)


def _parse_answers(node: JsonNode, context: str) -> tuple[Answer, ...] | None:
    impossible = None
    if node.has("is_impossible"):
        impossible = node.member("is_impossible", bool).value
    if not node.has("answers"):
        return () if impossible else None
    answers = tuple(_parse_answer(item, context) for item in node.members("answers", dict))
    if impossible is not None and impossible == bool(answers):
        raise node.error(
            f"has is_impossible={str(impossible).lower()} but has {len(answers)} answers"
        )
    return answers


def _parse_answer(node: JsonNode, context: str) -> Answer:
    text = node.member("text", str).value
    start = node.member("answer_start", int).value
    if not text.strip():
        raise node.error("has an empty text; a question without answer has an empty list of them")
    is_there = start >= 0 and context.startswith(text, start)
    return Answer(text, start if is_there else None)


def _check_ids(root: JsonNode, questions: list[Question]) -> None:
    if len({question.id for question in questions}) == len(questions):
        return
    counts = Counter(question.id for question in questions)
    for question in questions:
        if counts[question.id] > 1:
            raise DataError(
                f"{root.file}: {question.where}.id {question.id[:40]!r} occurs "
                f"{counts[question.id]} times; predictions need a unique id for every question"
            )


def _report_misplaced(root: JsonNode, questions: list[Question]) -> None:
    total, misplaced = 0, []
    for question in questions:
        for index, answer in enumerate(question.answers or ()):
            total += 1
            if answer.start is None:
                misplaced.append(f"{question.where}.answers[{index}]")
    if not misplaced:
        return
    if len(misplaced) > _MISPLACED_SHARE * total:
        raise DataError(
            f"{root.file}: {len(misplaced)} of {total} answers are not at their answer_start "
            f"(which counts characters of the context from 0); the first is {misplaced[0]}"
        )
    for where in misplaced[:_WARNINGS]:
        logger.warning("%s: %s is not at its answer_start", root.file, where)
    logger.warning("%s: %d of %d answers are misplaced", root.file, len(misplaced), total)
