"""Inputs of prediction: one value per example, whatever the head, and from Python values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from funnel.inference.rows import MULTIPLE_CHOICE, QUESTION_ANSWERING, TOKEN_CLASSIFICATION
from funnel.utils.errors import DataError


class Input(NamedTuple):
    """One example to predict.

    Attributes:
        text: the text; the question for question answering and multiple choice.
        other: second text of a pair; the context for question answering and multiple choice.
        choices: the options of a multiple choice.
        words: the words of a token classification.
        id: id of the example; None for its index.
    """

    text: str = ""
    other: str | None = None
    choices: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    id: Any = None


def make_input(value: Any, problem_type: str) -> Input:
    """Return the input for a Python value.

    Args:
        value: a text, or a pair of texts as a tuple; for question answering (question, context);
            for multiple choice (question, context, options); for token classification a text, split
            at blanks, or a list of words. An :class:`Input` is returned as it is.
        problem_type: a key of :data:`funnel.inference.rows.ROW_MAKERS`.

    Raises:
        DataError: the value is of another form.
    """
    if isinstance(value, Input):
        return value
    parts = (value,) if isinstance(value, str) else tuple(value) if _is_sequence(value) else ()
    is_text = isinstance(value, str)
    if problem_type == TOKEN_CLASSIFICATION and (is_text or _is_sequence(value)):
        if not _are_texts(parts):
            raise _no_input(value, problem_type)
        return Input(words=tuple(value.split()) if is_text else parts)
    if problem_type == MULTIPLE_CHOICE and len(parts) == 3 and _are_texts(parts[:2]):
        if _is_sequence(parts[2]) and parts[2] and _are_texts(parts[2]):
            return Input(parts[0], parts[1], choices=tuple(parts[2]))
    elif problem_type == QUESTION_ANSWERING:
        if len(parts) == 2 and _are_texts(parts):
            return Input(*parts)
    elif len(parts) in (1, 2) and _are_texts(parts):
        return Input(*parts)
    raise _no_input(value, problem_type)


def check_iterable(values: Any) -> None:
    """Refuse what is no series of inputs, or one whose members are names of columns.

    Raises:
        DataError: says what would be one.
    """
    if isinstance(values, Mapping) or hasattr(values, "columns"):
        raise DataError(
            f"a {type(values).__name__} is no series of inputs: name the column of texts, as in "
            'predictor(data["text"]), or zip() the columns of pairs'
        )
    if isinstance(values, bytes) or not isinstance(values, Iterable):
        raise DataError(f"a {type(values).__name__} is no series of inputs; a list of texts is")


def _no_input(value: Any, problem_type: str) -> DataError:
    return DataError(
        f"{str(value)[:60]!r} is no input of this model; it takes {FORMS[problem_type]}"
    )


_TEXT = "a text, or a tuple of two"
FORMS = {
    "single_label_classification": _TEXT,
    "multi_label_classification": _TEXT,
    "regression": _TEXT,
    QUESTION_ANSWERING: "(question, context)",
    MULTIPLE_CHOICE: "(question, context, options)",
    TOKEN_CLASSIFICATION: "a text, or a list of words",
}


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _are_texts(values: Sequence[Any]) -> bool:
    return all(isinstance(value, str) for value in values)
