"""Predictions as rows, by problem type: label, probability and, on request, logits.

A row is a dictionary of JSON values. All rows have ``index`` (position of the example, from 0) and
``id`` (that of the example in its file, else its index). Then, by problem type:

========================== ========================= ====================================
problem type               always                    with logits
========================== ========================= ====================================
single_label_classification label, probability       probabilities, logits: by label
multi_label_classification label, probability: lists probabilities, logits: by label
regression                 label: number(s)          logits: list
multiple_choice            label, probability        probabilities, logits: list
token_classification       label, probability: lists probabilities, logits: list of lists
question_answering         label: text, probability, nbest: list of text, probability,
                           no_answer: score          start_log_prob, end_log_prob
========================== ========================= ====================================

Probabilities are a softmax over the labels, or for ``multi_label_classification`` a sigmoid each.
A value that is not finite becomes null, and so does the label that would depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from funnel.config.heads import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from funnel.utils.errors import DataError
from funnel.utils.files import finite_json

MULTIPLE_CHOICE = "multiple_choice"
QUESTION_ANSWERING = "question_answering"
TOKEN_CLASSIFICATION = "token_classification"

# Digits after the point: float32 logits have seven digits in all.
_LOGIT_DIGITS, _PROBABILITY_DIGITS = 6, 8
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

Row = dict[str, Any]


class Answer(NamedTuple):
    """Output of question answering for one question.

    Attributes:
        nbest: the best answers in descending order: ``text``, ``probability``, and
            ``start_log_prob`` and ``end_log_prob`` where they are known.
        no_answer: score of "no answer".
        text: the answer; empty for none. The best of ``nbest`` if None.
    """

    nbest: Sequence[Mapping[str, Any]]
    no_answer: float
    text: str | None = None


@dataclass(frozen=True)
class RowFormat:
    """How the outputs of a head become rows.

    Attributes:
        problem_type: a key of :data:`ROW_MAKERS`.
        labels: names in the order of the outputs; empty for numbers, choices and answers.
        write_logits: add logits and the probabilities of all labels.
        threshold: probability from which a label of several holds.

    Raises:
        DataError: there is no such problem type.
    """

    problem_type: str
    labels: tuple[str, ...] = ()
    write_logits: bool = False
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if self.problem_type not in ROW_MAKERS:
            known = ", ".join(ROW_MAKERS)
            raise DataError(f"problem type {self.problem_type!r}: should be one of {known}")

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the members that every row has, in their order."""
        names = ["index", "id", "label"]
        names += ["probability"] if self.problem_type != REGRESSION else []
        if self.problem_type == QUESTION_ANSWERING:
            return (*names, "no_answer", *(["nbest"] if self.write_logits else []))
        if self.write_logits:
            names += ["probabilities"] if self.problem_type != REGRESSION else []
            names.append("logits")
        return tuple(names)

    @property
    def has_columns(self) -> bool:
        """Whether logits and probabilities are one number per label, so that each has a column."""
        return self.problem_type in (SINGLE_LABEL, MULTI_LABEL)

    def rows(
        self, outputs: Iterable[Any] | np.ndarray, first: int = 0, ids: Sequence[Any] | None = None
    ) -> Iterator[Row]:
        """Yield the rows of consecutive examples.

        Args:
            outputs: of n examples. Logits [n, labels] for classification and regression; logits
                [choices] of each for multiple choice; logits [tokens, labels] of each for token
                classification; :class:`Answer` for question answering.
            first: index of the first example.
            ids: ids of the examples; None without any.

        Raises:
            DataError: the outputs do not fit the labels.
        """
        found = ROW_MAKERS[self.problem_type](self, outputs)
        for offset, members in enumerate(found):
            index = first + offset
            yield {"index": index, "id": index if ids is None else ids[offset], **members}


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the softmax over the last axis, float64; NaN where a logit is not a number."""
    logits = np.asarray(logits, np.float64)
    with np.errstate(all="ignore"):
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return weights / weights.sum(axis=-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return the logistic function of every logit, float64."""
    # tanh does not overflow, as exp would for large negative logits.
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(logits, np.float64)))


def name_choice(index: int) -> str:
    """Return the name of a choice: a letter, or a number from 1 where letters do not suffice."""
    return _LETTERS[index] if index < len(_LETTERS) else str(index + 1)


def _round(values: np.ndarray, digits: int) -> Any:
    """Return numbers as JSON values; what is not finite as None."""
    rounded = np.round(np.asarray(values, np.float64), digits)
    listed = rounded.tolist()
    return listed if np.isfinite(rounded).all() else finite_json(listed)


def _matrix(form: RowFormat, outputs: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Return logits [n, labels], checked against the labels."""
    logits = np.asarray(outputs)
    if logits.ndim == 1:
        logits = logits[:, None]
    if form.labels and len(logits) and logits.shape[1] != len(form.labels):
        raise DataError(f"{logits.shape[1]} logits per example for {len(form.labels)} labels")
    return logits


def _by_label(form: RowFormat, values: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(form.labels, values, strict=True))


def _single_label(form: RowFormat, outputs: Any) -> Iterator[Row]:
    logits = _matrix(form, outputs)
    probabilities = softmax(logits)
    best = probabilities.argmax(axis=1) if len(logits) else np.zeros(0, int)
    tops = _round(probabilities.max(axis=1, initial=0.0), _PROBABILITY_DIGITS)
    every = _round(probabilities, _PROBABILITY_DIGITS) if form.write_logits else ()
    raw = _round(logits, _LOGIT_DIGITS) if form.write_logits else ()
    for index, (label, top) in enumerate(zip(best.tolist(), tops, strict=True)):
        row: Row = {"label": None if top is None else form.labels[label], "probability": top}
        if form.write_logits:
            row["probabilities"] = _by_label(form, every[index])
            row["logits"] = _by_label(form, raw[index])
        yield row


def _multi_label(form: RowFormat, outputs: Any) -> Iterator[Row]:
    logits = _matrix(form, outputs)
    probabilities = sigmoid(logits)
    every = _round(probabilities, _PROBABILITY_DIGITS)
    raw = _round(logits, _LOGIT_DIGITS) if form.write_logits else ()
    for index, holds in enumerate((probabilities >= form.threshold).tolist()):
        row: Row = {"label": None, "probability": None}
        if None not in every[index]:
            chosen = [i for i, is_chosen in enumerate(holds) if is_chosen]
            row["label"] = [form.labels[i] for i in chosen]
            row["probability"] = [every[index][i] for i in chosen]
        if form.write_logits:
            row["probabilities"] = _by_label(form, every[index])
            row["logits"] = _by_label(form, raw[index])
        yield row


def _regression(form: RowFormat, outputs: Any) -> Iterator[Row]:
    for values in _round(_matrix(form, outputs), _LOGIT_DIGITS):
        row: Row = {"label": values[0] if len(values) == 1 else values}
        if form.write_logits:
            row["logits"] = values
        yield row


def _multiple_choice(form: RowFormat, outputs: Any) -> Iterator[Row]:
    for logits in outputs:
        probabilities = softmax(logits)
        best = int(probabilities.argmax())
        top = _round(probabilities[best], _PROBABILITY_DIGITS)
        row: Row = {"label": None if top is None else name_choice(best), "probability": top}
        if form.write_logits:
            row["probabilities"] = _round(probabilities, _PROBABILITY_DIGITS)
            row["logits"] = _round(logits, _LOGIT_DIGITS)
        yield row


def _token_classification(form: RowFormat, outputs: Any) -> Iterator[Row]:
    for logits in outputs:
        logits = np.asarray(logits).reshape(-1, len(form.labels))
        probabilities = softmax(logits)
        tops = _round(probabilities.max(axis=1, initial=0.0), _PROBABILITY_DIGITS)
        best = probabilities.argmax(axis=1).tolist()
        names = [None if top is None else form.labels[i] for i, top in zip(best, tops, strict=True)]
        row: Row = {"label": names, "probability": tops}
        if form.write_logits:
            row["probabilities"] = _round(probabilities, _PROBABILITY_DIGITS)
            row["logits"] = _round(logits, _LOGIT_DIGITS)
        yield row


def _question_answering(form: RowFormat, outputs: Any) -> Iterator[Row]:
    for nbest, no_answer, text in outputs:
        answer = nbest[0]["text"] if text is None else text
        probability = next((e["probability"] for e in nbest if e["text"] == answer), None)
        row: Row = {
            "label": answer,
            "probability": None
            if probability is None
            else _round(np.asarray(probability), _PROBABILITY_DIGITS),
            "no_answer": _round(np.asarray(no_answer), _LOGIT_DIGITS),
        }
        if form.write_logits:
            row["nbest"] = [finite_json(dict(entry)) for entry in nbest]
        yield row


RowMaker = Callable[[RowFormat, Any], Iterator[Row]]
# To add a problem type, add its function here.
ROW_MAKERS: dict[str, RowMaker] = {
    SINGLE_LABEL: _single_label,
    MULTI_LABEL: _multi_label,
    REGRESSION: _regression,
    MULTIPLE_CHOICE: _multiple_choice,
    TOKEN_CLASSIFICATION: _token_classification,
    QUESTION_ANSWERING: _question_answering,
}
