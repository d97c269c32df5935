"""Schemas of all TFRecord files: the features of a record, with shapes and types.

Masks keep the polarity of the original's files, 1 = padding (``input_mask``) or no possible answer
(``p_mask``). Everywhere else in this package 1 means a real token (``attention_mask``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import NamedTuple

import numpy as np

from funnel.config.inputs import SegmentIds
from funnel.tasks.race import OPTIONS
from funnel.utils.errors import DataError

SEGMENTS = 3  # segment ids that a model knows: first text, second text, [CLS]
NO_TAG = -1  # label of a token without one
_INT32 = np.iinfo(np.int32)  # graphs hold integers as int32
_FLOAT32 = np.finfo(np.float32)


class FieldSpec(NamedTuple):
    """A feature: its shape, its type, float32 or int64, and the numbers it may hold.

    Attributes:
        shape: ``()`` for a scalar, ``(-1,)`` for any length.
        is_float: float32 instead of int64.
        low, high: smallest and largest valid number; ``None`` is the limit of int32, or of finite
            numbers.
        meaning: what the limits are, for messages.
    """

    shape: tuple[int, ...]
    is_float: bool = False
    low: int | None = None
    high: int | None = None
    meaning: str = ""

    @property
    def dtype(self) -> type[np.float32] | type[np.int64]:
        """Type of the numbers."""
        return np.float32 if self.is_float else np.int64

    @property
    def limits(self) -> tuple[float, float]:
        """Smallest and largest valid number; NaN and infinity are never valid."""
        least, most = (_FLOAT32.min, _FLOAT32.max) if self.is_float else (_INT32.min, _INT32.max)
        return (
            float(least) if self.low is None else self.low,
            float(most) if self.high is None else self.high,
        )

    @property
    def expected(self) -> str:
        """Description of the valid numbers."""
        low, high = self.limits
        described = f"{low:.10g} to {high:.10g}"
        return f"{described}, {self.meaning}" if self.meaning else described

    def check_range(self, name: str, values: np.ndarray, where: str) -> None:
        """Check the numbers of a feature, [n].

        Raises:
            DataError: one is out of range, NaN or infinite; the message begins with ``where``.
        """
        low, high = self.limits
        valid = (values >= low) & (values <= high)
        if not valid.all():
            place = int(np.argmin(valid))
            raise DataError(
                f"{where}: feature {name!r} holds {values[place]} at position {place}, "
                f"expected {self.expected}"
            )


@dataclass(frozen=True)
class RecordSchema:
    """The features that every record of a file has, by name."""

    fields: Mapping[str, FieldSpec]

    def check(self, values: Mapping[str, np.ndarray], where: str) -> None:
        """Check the size and type of every feature of a parsed record.

        Raises:
            DataError: a feature is of another size or type, or holds a number out of its range;
                the message begins with ``where``.
        """
        for name, spec in self.fields.items():
            size, found = math.prod(spec.shape), values[name]
            if size not in (-1, len(found)) or (found.dtype.kind == "f") != spec.is_float:
                expected = f"{size} {np.dtype(spec.dtype)}"
                raise DataError(
                    f"{where}: feature {name!r} holds {len(found)} {found.dtype}, "
                    f"expected {expected}; was it made for other lengths?"
                )
            spec.check_range(name, found, where)


def classifier_schema(
    length: int,
    regression: bool = False,
    vocab_size: int | None = None,
    num_labels: int | None = None,
    segments: SegmentIds | None = None,
    multi_label: bool = False,
) -> RecordSchema:
    """Return the schema of classification records, one sequence of ``length`` = T tokens each.

    ``vocab_size`` and ``num_labels`` limit the ids; ``segments`` may add to the usual ones. With
    ``multi_label`` there is a 0 or 1 for every label.
    """
    last = None if num_labels is None else num_labels - 1
    if multi_label:
        flags = FieldSpec((num_labels or 1,), is_float=True, low=0, high=1, meaning="labels")
        return _labelled(length, {"label_ids": flags}, vocab_size, segments)
    label = FieldSpec((), is_float=True) if regression else FieldSpec((), False, 0, last, "labels")
    return _labelled(length, {"label_ids": label}, vocab_size, segments)


def tagging_schema(
    length: int, num_labels: int, vocab_size: int, segments: SegmentIds
) -> RecordSchema:
    """Return the schema of token-classification records: one window, a label for every token.

    A token without label has :data:`NO_TAG`.
    """
    label = FieldSpec((length,), low=NO_TAG, high=num_labels - 1, meaning="labels, or no label")
    return _labelled(length, {"label_ids": label}, vocab_size, segments)


def race_schema(
    length: int, vocab_size: int | None = None, segments: SegmentIds | None = None
) -> RecordSchema:
    """Return the schema of RACE records: four sequences of T tokens concatenated, ``[4 * T]``."""
    answer = FieldSpec((), low=0, high=OPTIONS - 1, meaning="the options")
    labels = {"label_ids": answer, "is_high_example": _SWITCH}
    return _labelled(OPTIONS * length, labels, vocab_size, segments)


def squad_schema(
    length: int,
    training: bool,
    vocab_size: int | None = None,
    segments: SegmentIds | None = None,
) -> RecordSchema:
    """Return the schema of SQuAD records, one window of ``length`` = T tokens each."""
    position = FieldSpec((), low=0, high=length - 1, meaning="positions in the window")
    mask = FieldSpec((length,), is_float=True, low=0, high=1)
    fields = {
        "unique_ids": FieldSpec(()),
        "cls_index": position,
        "input_ids": _token_ids(length, vocab_size),
        "segment_ids": _segment_ids(length, segments),
        "input_mask": mask,
        "p_mask": mask,
    }
    if training:
        fields |= {"start_positions": position, "end_positions": position}
        fields["is_impossible"] = FieldSpec((), is_float=True, low=0, high=1)
        fields["regression_tgt"] = FieldSpec((), is_float=True)
    return RecordSchema(fields)


def pretraining_schema(length: int, vocab_size: int | None = None) -> RecordSchema:
    """Return the schema of pretraining records of ``length`` tokens.

    ``boundary`` has one number per word, so its length varies from record to record.
    """
    return RecordSchema({
        "input": _token_ids(length, vocab_size),
        "seg_id": _segment_ids(length),
        "boundary": FieldSpec((-1,), low=0, high=length, meaning="positions of words"),
        "label": FieldSpec((1,)),
    })  # fmt: skip


def padding_example(schema: RecordSchema) -> dict[str, np.ndarray]:
    """Return an example of padding alone, which fills up a batch and counts in no metric."""
    values = {}
    for name, spec in schema.fields.items():
        shape = (0,) if spec.shape == (-1,) else spec.shape
        array = np.zeros(shape, spec.dtype)
        if name in ("input_mask", "p_mask"):
            array[...] = 1
        if name == "p_mask":
            # A softmax over no possible position would be NaN, so [CLS] stays possible.
            array[:1] = 0
        values[name] = array
    return values


_SWITCH = FieldSpec((), low=0, high=1)


def _labelled(
    size: int,
    labels: Mapping[str, FieldSpec],
    vocab_size: int | None,
    segments: SegmentIds | None,
) -> RecordSchema:
    sequence = {
        "input_ids": _token_ids(size, vocab_size),
        "input_mask": FieldSpec((size,), is_float=True, low=0, high=1),
        "segment_ids": _segment_ids(size, segments),
    }
    return RecordSchema({**sequence, **labels, "is_real_example": _SWITCH})


def _token_ids(size: int, vocab_size: int | None) -> FieldSpec:
    if vocab_size is None:
        return FieldSpec((size,), low=0, meaning="token ids")
    meaning = f"the vocabulary of {vocab_size}; use the one that they were made with"
    return FieldSpec((size,), low=0, high=vocab_size - 1, meaning=meaning)


def _segment_ids(size: int, segments: SegmentIds | None = None) -> FieldSpec:
    chosen = () if segments is None else astuple(segments)
    low, high = min((0, *chosen)), max((SEGMENTS - 1, *chosen))
    return FieldSpec((size,), low=low, high=high, meaning="segment ids")
