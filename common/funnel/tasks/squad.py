"""SQuAD 1.1 and 2.0: questions on paragraphs of Wikipedia (Rajpurkar et al. 2016, 2018)."""

from __future__ import annotations

import logging
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, overload

from funnel.config.squad import VERSIONS
from funnel.tasks.json_files import JsonNode, iter_objects
from funnel.utils.errors import ConfigError, DataError
from funnel.utils.scratch_list import ScratchList

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


class QuestionList(Sequence[Question]):
    """Questions that are kept on disk where there are many; one is read each time it is looked up.

    Args:
        rows: the fields of questions.
        places: which of them are in the list, and in what order.
    """

    def __init__(self, rows: Sequence[list[Any]], places: Sequence[int]) -> None:
        self._rows, self._places = rows, places

    @overload
    def __getitem__(self, index: int) -> Question: ...

    @overload
    def __getitem__(self, index: slice) -> QuestionList: ...

    def __getitem__(self, index: int | slice) -> Question | QuestionList:
        if isinstance(index, slice):
            return QuestionList(self._rows, self._places[index])
        name, text, paragraph, answers, where = self._rows[int(self._places[index])]
        if answers is not None:
            answers = tuple(Answer(*answer) for answer in answers)
        return Question(name, text, paragraph, answers, where)

    def __len__(self) -> int:
        return len(self._places)


@dataclass(frozen=True)
class SquadData:
    """The content of a SQuAD file, in its order; several questions share a paragraph."""

    path: str
    paragraphs: Sequence[str]
    questions: Sequence[Question]


@dataclass
class _Tally:
    """What is known of the questions of a file, a few bytes for each."""

    id_hashes: array[int] = field(default_factory=lambda: array("q"))
    is_unanswerable: bytearray = field(default_factory=bytearray)
    answers: int = 0
    misplaced: int = 0
    misplaced_places: list[str] = field(default_factory=list)  # the first

    def add(self, question: Question) -> None:
        self.id_hashes.append(hash(question.id))
        self.is_unanswerable.append(question.answers == ())
        for index, answer in enumerate(question.answers or ()):
            self.answers += 1
            if answer.start is None:
                self.misplaced += 1
                if len(self.misplaced_places) < _WARNINGS:
                    self.misplaced_places.append(f"{question.where}.answers[{index}]")


def read_squad(path: str | os.PathLike[str], version: str = "v2") -> SquadData:
    """Read a SQuAD file; a file of either version can be read as ``v1`` or ``v2``.

    One paragraph with its questions is in memory at a time; of many, the texts are on disk.

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
        FunnelError: a temporary file cannot be written.
    """
    if version not in VERSIONS:
        raise ConfigError(f"SQuAD version {version!r} is unknown; it is {' or '.join(VERSIONS)}")
    paragraphs: ScratchList[str] = ScratchList()
    rows: ScratchList[list[Any]] = ScratchList()
    tally = _Tally()
    for paragraph in iter_objects(Path(path), ("data", "paragraphs")):
        context = paragraph.member("context", str).value
        for node in paragraph.members("qas", dict):
            question = _parse_question(node, context, len(paragraphs))
            tally.add(question)
            rows.append([getattr(question, name) for name in Question.__slots__])
        paragraphs.append(context)
    questions = QuestionList(rows, range(len(rows)))
    _check_ids(path, questions, tally)
    _report_misplaced(path, tally)
    unanswerable = sum(tally.is_unanswerable)
    if version == "v1" and unanswerable:
        kept = array("q", (i for i, without in enumerate(tally.is_unanswerable) if not without))
        questions = QuestionList(rows, kept)
    if not questions:
        raise DataError(f"{path}: holds no {'' if version == 'v2' else 'answerable '}question")
    if len(questions) < len(rows):
        logger.info("%s: version v1 leaves out %d unanswerable questions", path, unanswerable)
    return SquadData(os.fspath(path), paragraphs, questions)


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


def _check_ids(path: str | os.PathLike[str], questions: Iterable[Question], tally: _Tally) -> None:
    # Equal ids have equal hashes, so that their texts need not be held.
    if len(set(tally.id_hashes)) == len(tally.id_hashes):
        return
    counts = Counter(question.id for question in questions)
    for question in questions:
        if counts[question.id] > 1:
            raise DataError(
                f"{path}: {question.where}.id {question.id[:40]!r} occurs "
                f"{counts[question.id]} times; predictions need a unique id for every question"
            )


def _report_misplaced(path: str | os.PathLike[str], tally: _Tally) -> None:
    if not tally.misplaced:
        return
    total, misplaced, places = tally.answers, tally.misplaced, tally.misplaced_places
    if misplaced > _MISPLACED_SHARE * total:
        raise DataError(
            f"{path}: {misplaced} of {total} answers are not at their answer_start "
            f"(which counts characters of the context from 0); the first is {places[0]}"
        )
    for where in places:
        logger.warning("%s: %s is not at its answer_start", path, where)
    logger.warning("%s: %d of %d answers are misplaced", path, misplaced, total)
