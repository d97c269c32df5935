"""Sequences for ``extract_features.py``, batch by batch: from a text, or from arrays of ids."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from funnel.features.classification import Features, encode_examples, pad_batch
from funnel.formats.npz_rows import NpzRowReader
from funnel.tasks import Example
from funnel.tokenization import Tokenizer
from funnel.utils.errors import DataError
from funnel.utils.scratch import ScratchArray
from funnel.utils.text_files import TO_UTF8, read_lines

_NAMES = ("input_ids", "token_type_ids", "attention_mask")
_LINES = 1024  # lines tokenized at a time
_ROWS = 1024  # rows checked at a time

PaddedLength = Callable[[int], int]


@dataclass(frozen=True)
class ModelInputs:
    """Model inputs, int64 [B, T] each; the last two are optional."""

    input_ids: np.ndarray
    token_type_ids: np.ndarray | None = None
    attention_mask: np.ndarray | None = None

    def to_dict(self) -> dict[str, np.ndarray]:
        """Return the arrays that are not ``None``, by name."""
        arrays = {name: getattr(self, name) for name in _NAMES}
        return {name: array for name, array in arrays.items() if array is not None}


class Sequences(Protocol):
    """Sequences in the order of their file.

    Attributes:
        length: the length T to which all are padded.
        is_text: whether the ids come from a text, so that the user does not know them.
        special_ids: ids of the tokens that were added to a text.
    """

    length: int
    is_text: bool
    special_ids: tuple[int, ...]

    def __len__(self) -> int:
        """Return the number of sequences."""
        ...

    def batches(self, size: int, padded: PaddedLength | None = None) -> Iterator[ModelInputs]:
        """Yield ``size`` sequences at a time.

        Args:
            size: sequences per batch.
            padded: returns the length of a batch from that of its longest sequence; None pads
                every batch to ``length``. Arrays of ids are never padded again.
        """
        ...


class IdSequences:
    """The rows of an ``.npz`` with ``input_ids`` and optionally the other two arrays.

    Args:
        path: the file.
        vocab_size: number of ids.

    Raises:
        DataError: no such file, arrays of different shapes, or ids outside the vocabulary.
    """

    is_text = False
    special_ids: tuple[int, ...] = ()

    def __init__(self, path: str | Path, vocab_size: int) -> None:
        self._reader = reader = NpzRowReader(path, _NAMES)
        if "input_ids" not in reader.shapes:
            raise DataError(f"{path}: holds no array input_ids [B, T]")
        shape = reader.shapes["input_ids"]
        for name, found in reader.shapes.items():
            dtype = reader.dtypes[name]
            if len(found) != 2 or found != shape or dtype.kind not in "iub":
                raise DataError(
                    f"{path}: {name} is {dtype} {list(found)}; it should hold integers "
                    "in the shape of input_ids, [B, T]"
                )
        if 0 in shape:
            raise DataError(f"{path}: input_ids is empty")
        ranges = {"input_ids": vocab_size, "token_type_ids": 3, "attention_mask": 2}
        for batch in reader.batches(_ROWS):
            for name, array in batch.items():
                if array.min() < 0 or array.max() >= ranges[name]:
                    raise DataError(
                        f"{path}: {name} should hold numbers from 0 to {ranges[name] - 1}"
                    )
        self._rows, self.length = shape

    def __len__(self) -> int:
        return self._rows

    def batches(self, size: int, padded: PaddedLength | None = None) -> Iterator[ModelInputs]:
        """Yield ``size`` sequences at a time."""
        for batch in self._reader.batches(size):
            yield ModelInputs(**{name: array.astype(np.int64) for name, array in batch.items()})


class TextSequences:
    """The lines of a text file, a tab between the texts of a pair; their ids are kept on disk.

    Args:
        path: the file.
        tokenizer: encodes the lines.
        max_length: tokens kept of a line, special tokens included.

    Raises:
        DataError: the file is missing, not UTF-8 or empty.
    """

    is_text = True

    def __init__(self, path: str | Path, tokenizer: Tokenizer, max_length: int) -> None:
        self._pad = (tokenizer.special.pad_id, tokenizer.segments.pad)
        self.special_ids: tuple[int, ...] = (tokenizer.special.cls_id, tokenizer.special.sep_id)
        folder = tempfile.gettempdir()
        ids, segments = ScratchArray(folder, np.int32), ScratchArray(folder, np.int8)
        ends = ScratchArray(folder, np.int64)
        self.length = 0
        lines = _read_lines(path)
        while part := list(islice(lines, _LINES)):
            features = encode_examples(
                _to_examples(part), tokenizer, max_length, tokenizer.segments
            )
            ends.append(len(ids) + features.offsets[1:])
            ids.append(features.input_ids)
            segments.append(features.segment_ids)
            self.length = max(self.length, int(features.lengths.max()))
        if not len(ends):
            raise DataError(f"{path}: is empty; it should hold one text per line")
        self._files = (ids, segments, ends)
        self._ids, self._segments, self._ends = (file.read() for file in self._files)

    def __len__(self) -> int:
        return len(self._ends)

    def batches(self, size: int, padded: PaddedLength | None = None) -> Iterator[ModelInputs]:
        """Yield ``size`` sequences at a time."""
        begin = 0
        for start in range(0, len(self), size):
            ends = self._ends[start : start + size]
            offsets = np.concatenate(([0], ends - begin))
            tokens = slice(begin, int(ends[-1]))
            features = Features(self._ids[tokens], self._segments[tokens], offsets, None)
            longest = int(features.lengths.max())
            length = self.length if padded is None else min(padded(longest), self.length)
            batch = pad_batch(features, np.arange(len(ends)), length, *self._pad)
            yield ModelInputs(**{name: np.asarray(batch[name], np.int64) for name in _NAMES})
            begin = int(ends[-1])
            for file in self._files:
                file.release()


def _read_lines(path: str | Path) -> Iterator[str]:
    for number, text, problem in read_lines(path):
        if problem:
            raise DataError(f"{path}:{number}: {problem}; {TO_UTF8}")
        yield text


def _to_examples(lines: Iterable[str]) -> list[Example]:
    parts = (line.partition("\t") for line in lines)
    return [Example(a, b if tab else None, None) for a, tab, b in parts]
