"""Schemas of all TFRecord files: the features of a record, with shapes and types.

Masks keep the polarity of the original's files, 1 = padding (``input_mask``) or no possible answer
(``p_mask``). Everywhere else in this package 1 means a real token (``attention_mask``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from funnel.tasks.race import OPTIONS
from funnel.utils.errors import DataError


class FieldSpec(NamedTuple):
    """A feature: its shape (``()``: a scalar, ``(-1,)``: any length) and float32 or int64."""

    shape: tuple[int, ...]
    is_float: bool = False

    @property
    def dtype(self) -> type[np.float32] | type[np.int64]:
        """Type of the numbers."""
        return np.float32 if self.is_float else np.int64


@dataclass(frozen=True)
class RecordSchema:
    """The features that every record of a file has, by name."""

    fields: Mapping[str, FieldSpec]

    def check(self, values: Mapping[str, np.ndarray], where: str) -> None:
        """Check the size and type of every feature of a parsed record.

        Raises:
            DataError: a feature is of another size or type; the message begins with ``where``.
        """
        for name, spec in self.fields.items():
            size, found = math.prod(spec.shape), values[name]
            if size not in (-1, len(found)) or (found.dtype.kind == "f") != spec.is_float:
                expected = f"{size} {np.dtype(spec.dtype)}"
                raise DataError(
                    f"{where}: feature {name!r} holds {len(found)} {found.dtype}, "
                    f"expected {expected}; was it made for other lengths?"
                )


def classifier_schema(length: int, regression: bool = False) -> RecordSchema:
    """Return the schema of classification records, one sequence of ``length`` = T tokens each."""
    return _labelled(length, {"label_ids": FieldSpec((), regression)})


def race_schema(length: int) -> RecordSchema:
    """Return the schema of RACE records: four sequences of T tokens concatenated, ``[4 * T]``."""
    labels = {"label_ids": FieldSpec(()), "is_high_example": FieldSpec(())}
    return _labelled(OPTIONS * length, labels)


def squad_schema(length: int, training: bool) -> RecordSchema:
    """Return the schema of SQuAD records, one window of ``length`` = T tokens each."""
    number = FieldSpec(())
    fields = {
        "unique_ids": number,
        "cls_index": number,
        "input_ids": FieldSpec((length,)),
        "segment_ids": FieldSpec((length,)),
        "input_mask": FieldSpec((length,), is_float=True),
        "p_mask": FieldSpec((length,), is_float=True),
    }
    if training:
        fields |= {"start_positions": number, "end_positions": number}
        fields |= dict.fromkeys(("is_impossible", "regression_tgt"), FieldSpec((), is_float=True))
    return RecordSchema(fields)


def pretraining_schema(length: int) -> RecordSchema:
    """Return the schema of pretraining records of ``length`` tokens.

    ``boundary`` has one number per word, so its length varies from record to record.
    """
    sizes = {"input": length, "seg_id": length, "boundary": -1, "label": 1}
    return RecordSchema({name: FieldSpec((size,)) for name, size in sizes.items()})


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


def _labelled(size: int, labels: Mapping[str, FieldSpec]) -> RecordSchema:
    sequence = {
        "input_ids": FieldSpec((size,)),
        "input_mask": FieldSpec((size,), is_float=True),
        "segment_ids": FieldSpec((size,)),
    }
    return RecordSchema({**sequence, **labels, "is_real_example": FieldSpec(())})
