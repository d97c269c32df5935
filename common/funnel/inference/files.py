"""Files of predictions: rows as csv or jsonl, written as they come and renamed at the end."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from funnel.config.predictions import ROW_FORMATS
from funnel.inference.rows import Row, RowFormat
from funnel.utils.errors import ConfigError
from funnel.utils.files import atomic_path

STANDARD_STREAM = "-"
_CHUNK = 1024  # examples made into rows at a time
# Members that hold one value per label, and how their columns are called in a csv file.
_PER_LABEL = {"probabilities": "probability", "logits": "logit"}


class RowWriter:
    """Writes rows to a stream.

    In a csv file every label has columns ``probability_LABEL`` and ``logit_LABEL``; other lists
    are JSON in their cell.

    Args:
        stream: text stream, opened with ``newline=""``.
        file_format: ``csv`` or ``jsonl``.
        form: of the rows.
        more: names of further members that the rows have, after ``id``.
    """

    def __init__(
        self, stream: TextIO, file_format: str, form: RowFormat, more: Sequence[str] = ()
    ) -> None:
        self._stream, self._form = stream, form
        self._is_csv = file_format == "csv"
        self.count = 0
        if self._is_csv:
            index, name, *rest = form.fields
            self._fields = (index, name, *more, *rest)
            self._table = csv.writer(stream, lineterminator="\n")
            self._table.writerow(self._header())

    def write(self, rows: Iterable[Row]) -> None:
        """Write rows."""
        for row in rows:
            self.count += 1
            if self._is_csv:
                self._table.writerow(self._cells(row))
            else:
                self._stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")

    def _header(self) -> list[str]:
        names: list[str] = []
        for field in self._fields:
            if self._is_per_label(field):
                names += [f"{_PER_LABEL[field]}_{label}" for label in self._form.labels]
            else:
                names.append(field)
        return names

    def _cells(self, row: Row) -> list[Any]:
        cells: list[Any] = []
        for field in self._fields:
            value = row.get(field)
            if isinstance(value, dict) and self._is_per_label(field):
                cells += [value[label] for label in self._form.labels]
            elif isinstance(value, dict | list):
                cells.append(json.dumps(value, ensure_ascii=False, allow_nan=False))
            else:
                cells.append(value)
        return cells

    def _is_per_label(self, field: str) -> bool:
        return field in _PER_LABEL and self._form.has_columns


@contextlib.contextmanager
def open_rows(
    path: str | os.PathLike[str],
    file_format: str,
    form: RowFormat,
    more: Sequence[str] = (),
) -> Iterator[RowWriter]:
    """Yield the writer of a file that gets its name when the body has succeeded.

    Args:
        path: the file; ``-`` is the standard output.
        file_format: ``csv`` or ``jsonl``.
        form: of the rows.
        more: further members of the rows, see :class:`RowWriter`.

    Raises:
        ConfigError: there is no such format.
        FunnelError: the file cannot be written.
    """
    if file_format not in ROW_FORMATS:
        raise ConfigError(f"format {file_format!r}: should be {' or '.join(ROW_FORMATS)}")
    if os.fspath(path) == STANDARD_STREAM:
        yield RowWriter(sys.stdout, file_format, form, more)
        sys.stdout.flush()
        return
    with atomic_path(path) as temporary, open_text(temporary) as stream:
        yield RowWriter(stream, file_format, form, more)


def open_text(path: Path) -> TextIO:
    """Open a text file to write: UTF-8, line ends unchanged.

    Lone surrogates, which broken JSON escapes leave in a text, are written as ``?``.
    """
    return path.open("w", encoding="utf-8", errors="replace", newline="")


def write_rows_of_arrays(
    path: str | os.PathLike[str],
    file_format: str,
    form: RowFormat,
    outputs: np.ndarray | Sequence[Any],
    ids: Iterable[Any] | None = None,
) -> None:
    """Write the rows of all outputs, a part of them at a time; see :func:`open_rows`.

    Args:
        path, file_format, form: see :func:`open_rows`.
        outputs: see :meth:`funnel.inference.rows.RowFormat.rows`.
        ids: ids of the examples, read once; None without any.
    """
    names = None if ids is None else iter(ids)
    with open_rows(path, file_format, form) as writer:
        for start in range(0, len(outputs), _CHUNK):
            part = outputs[start : start + _CHUNK]
            some = None if names is None else list(islice(names, len(part)))
            writer.write(form.rows(part, start, some))
