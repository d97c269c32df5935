"""Readers of tables and text folders that never merge, split or silently drop a line.

Files may be compressed and have any line ends (:mod:`funnel.utils.text_files`). Every reader yields
one :class:`TableRow` per record of its file. Unreadable records are reported with file and line
number and counted by :class:`Tally`; more than 1 % of them is an error.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from funnel.tables.lines import Line
from funnel.tables.readers import KEYED_FORMATS, READERS
from funnel.utils.errors import DataError
from funnel.utils.text import join_names
from funnel.utils.text_files import list_texts, read_text

logger = logging.getLogger(__name__)

Column = int | str  # 0-based position (-1 = the last), or a name in the header

BROKEN_SHARE = 0.01  # a larger share of broken lines indicates a file of another format
_OTHER_FORMATS = {"\t": "tsv", ";": "csv with --delimiter=';'", ",": "csv"}
_COLUMN_FLAGS = {
    "text": "--text_column",
    "second text": "--text_b_column",
    "label": "--label_column",
    "id": "--id_column",
}
_SHOWN_KEYS = 8
_WARNINGS = 20  # broken lines logged one by one; all others share one more line


@dataclass(frozen=True, slots=True)
class Source:
    """The file of one split of a task, and the columns of texts and label.

    Attributes:
        names: file (or folder) names below the data directory; the first that exists is read.
        text_a, text_b, label: columns; ``None`` where the split has none.
        format: ``tsv`` (no quoting at all), ``csv`` (quotes doubled, no escape character),
            ``jsonl`` or ``json`` (an object per line, or one array of objects), ``parquet``, or
            ``folders`` (one folder of ``*.txt`` files per label).
        header: whether the first line names the columns.
        width: number of columns of a file without header; ``None`` takes that of its first line.
        delimiter: column separator in ``tsv`` and ``csv``.
        label_list: a label may be a list, in formats that have some.
        label_optional: a missing label column or an empty label means "not labelled".
        id: column that names the examples in files of predictions.
        encoding: of the text, as :func:`funnel.utils.text_files.check_encoding` returns it.
    """

    names: tuple[str, ...]
    text_a: Column = 0
    text_b: Column | None = None
    label: Column | None = None
    format: str = "tsv"
    header: bool = True
    width: int | None = None
    delimiter: str = "\t"
    label_optional: bool = False
    label_list: bool = False
    id: Column | None = None
    encoding: str = "utf-8"

    @property
    def has_keys(self) -> bool:
        """Whether columns are the keys of objects, which have no order."""
        return self.format in KEYED_FORMATS


class TableRow(NamedTuple):
    """One record: its location (``file:line``), its texts, and label and id as written."""

    where: str
    text_a: str
    text_b: str | None
    label: str | None
    id: str | None = None


class _BrokenLineError(Exception):
    """A record that does not match its source's columns."""


_Cells = tuple[str, str | None, str | None, str | None]  # text_a, text_b, label, id
_Picker = Callable[[Any], _Cells]


@dataclass
class Tally:
    """Counts the records of one file, and reports on them once it has been read.

    ``total`` does not include the ``blank`` lines between records, which are skipped.
    """

    path: Path
    total: int = 0
    blank: int = 0
    broken: list[tuple[str, str]] = field(default_factory=list)
    empty_texts: int = 0
    first_empty_text: str = ""

    def report_broken(self, where: str, problem: str) -> None:
        """Count the record at ``where`` (``file:line``) as unreadable."""
        self.broken.append((where, problem))

    def check_texts(self, row: TableRow) -> None:
        """Count a row without any text, unless it is broken anyway; one of a pair may be empty."""
        is_empty = not row.text_a.strip() and not (row.text_b or "").strip()
        if is_empty and not (self.broken and self.broken[-1][0] == row.where):
            self.empty_texts += 1
            self.first_empty_text = self.first_empty_text or row.where

    def warn_of_empty_texts(self) -> None:
        """Log how many rows :meth:`check_texts` has counted, and where the first one is."""
        if self.empty_texts:
            logger.warning(
                "%s: %d of %d rows have no text and are used as they are; the first is %s",
                *(self.path, self.empty_texts, self.total, self.first_empty_text),
            )

    def close(self) -> None:
        """Log every broken record.

        Raises:
            DataError: the file had no records, or more than 1 % of them are broken.
        """
        if not self.total:
            raise DataError(f"{self.path}: empty, at least one line of data is needed")
        if self.blank:
            logger.warning("%s: %d blank lines skipped", self.path, self.blank)
        if len(self.broken) > BROKEN_SHARE * self.total:
            where, problem = self.broken[0]
            raise DataError(
                f"{self.path}: {len(self.broken)} of {self.total} lines are broken, more than "
                f"{BROKEN_SHARE:.0%}; the first is {where}: {problem}"
            )
        for where, problem in self.broken[:_WARNINGS]:
            logger.warning("%s: broken line: %s", where, problem)
        if rest := self.broken[_WARNINGS:]:
            logger.warning("more broken lines: %s", ", ".join(where for where, _ in rest))
        if self.broken:
            logger.warning("%s: %d of %d lines are broken", self.path, len(self.broken), self.total)


def read_records(
    path: Path, source: Source, folder_labels: tuple[str, ...], tally: Tally | None = None
) -> Iterator[TableRow]:
    """Yield the records of the file (or folder) ``path`` in order, counted by ``tally`` if given.

    A broken record is left out if the source is labelled. Otherwise it becomes a record of empty
    texts, because predictions are matched to test lines by position.

    Raises:
        DataError: the file is empty, not UTF-8, lacks a column, or more than 1 % of it is broken.
    """
    if source.format == "folders":
        yield from _read_folders(path, folder_labels, tally or Tally(path))
        return
    tally = tally or Tally(path)
    lines = data_lines(path, source, tally)
    pick: _Picker | None = _MemberPicker(source) if source.has_keys else None
    if pick is None and source.header:
        pick = _ColumnPicker.for_file(path, source, next_header(path, lines))
    for line in lines:
        tally.total += 1
        where = f"{path}:{line.number}"
        try:
            if line.problem:
                raise _BrokenLineError(line.problem)
            if pick is None:
                pick = _ColumnPicker.for_file(path, source, line.cells)
            yield TableRow(where, *pick(line.cells))
        except _BrokenLineError as broken:
            tally.report_broken(where, str(broken))
            if source.label is None or source.label_optional:
                yield TableRow(where, "", None if source.text_b is None else "", None)
    tally.close()


def read_header(path: Path, source: Source) -> list[str]:
    """Return the column names in the first line of ``path``.

    Raises:
        DataError: the file is empty or its first line cannot be read.
    """
    return next_header(path, data_lines(path, source, Tally(path)))


def next_header(path: Path, lines: Iterator[Line]) -> list[str]:
    """Return the column names, which the next line holds; see :func:`read_header`."""
    first = next(lines, None)
    if first is None:
        raise DataError(f"{path}: empty, a header and at least one line of data are needed")
    if first.problem:
        raise DataError(f"{path}:{first.number}: no header: {first.problem}")
    return first.cells


@dataclass(frozen=True)
class _ColumnPicker:
    """Selects texts and label among the cells of a line, by position."""

    width: int
    text_a: int
    text_b: int | None
    label: int | None
    id: int | None

    @classmethod
    def for_file(cls, path: Path, source: Source, first: list[str]) -> _ColumnPicker:
        """Find the columns; ``first`` is the header, or the first line of a file without one.

        Raises:
            DataError: a column is missing, or the header has several of its name.
        """
        width = len(first) if source.header else source.width or len(first)
        text_a = find_column(source.text_a, first, width)
        text_b = find_column(source.text_b, first, width)
        label = find_column(source.label, first, width)
        name = find_column(source.id, first, width)
        if text_a is None:
            raise DataError(missing_column(path, source.text_a, "text", first))
        if text_b is None and source.text_b is not None:
            raise DataError(missing_column(path, source.text_b, "second text", first))
        is_needed = not source.label_optional or first.count(str(source.label)) > 1
        if label is None and source.label is not None and is_needed:
            raise DataError(missing_column(path, source.label, "label", first))
        if name is None and source.id is not None:
            raise DataError(missing_column(path, source.id, "id", first))
        return cls(width, text_a, text_b, label, name)

    def __call__(self, cells: list[str]) -> _Cells:
        if len(cells) != self.width:
            raise _BrokenLineError(f"{len(cells)} columns instead of {self.width}")
        return (
            cells[self.text_a],
            None if self.text_b is None else cells[self.text_b],
            None if self.label is None else cells[self.label],
            None if self.id is None else cells[self.id],
        )


def find_column(column: Column | None, first: list[str], width: int) -> int | None:
    """Return the position of a column in a table of ``width`` columns; None without one of it.

    ``first`` is the header, or the first line of a file without one.
    """
    if column is None:
        return None
    if isinstance(column, str):
        # Of two columns of a name neither is the one that is meant.
        return first.index(column) if first.count(column) == 1 else None
    return column % width if -width <= column < width else None


def missing_column(path: Path, column: Column, role: str, first: list[str]) -> str:
    """Return the message that a column is missing; ``first`` as in :func:`find_column`."""
    has = f"has {len(first)} columns: {', '.join(name[:40] for name in first[:20])}"
    # The delimiter of another format is the usual reason for a single column.
    marks = [mark for mark in _OTHER_FORMATS if mark in first[0]] if len(first) == 1 else []
    if marks:
        has += f"; it looks like {_OTHER_FORMATS[marks[0]]}"
    if isinstance(column, str) and column in first:
        count = first.count(column)
        return (
            f"{path}:1: {count} columns {column!r} for the {role}; name it by its position, from 0"
        )
    if isinstance(column, str):
        flag = (
            "" if marks or role not in _COLUMN_FLAGS else f"; {_COLUMN_FLAGS[role]} names another"
        )
        return f"{path}:1: no column {column!r} for the {role}; the header {has}{flag}"
    return f"{path}:1: no column {column + 1} for the {role}; the line {has}"


@dataclass(frozen=True)
class _MemberPicker:
    """Selects texts and label among the members of a JSON object, by key."""

    source: Source

    def __call__(self, members: dict[str, Any]) -> _Cells:
        text_a, text_b = self._text(members, self.source.text_a), self.source.text_b
        second = None if text_b is None else self._text(members, text_b)
        return text_a, second, self._label(members), self._id(members)

    def _text(self, members: dict[str, Any], key: Column) -> str:
        if not isinstance(text := members.get(str(key)), str):
            raise _BrokenLineError(f"{key!r} is missing or not a string{other_keys(key, members)}")
        return text

    def _label(self, members: dict[str, Any]) -> str | None:
        key = self.source.label
        value = members.get(str(key))
        if key is None or (value is None and self.source.label_optional):
            return None
        if isinstance(value, list) and self.source.label_list:
            return json.dumps(value)
        if value is None:
            other = other_keys(key, members)
            raise _BrokenLineError(f"{key!r} is missing, or no string or number{other}")
        return self._spell(key, value)

    def _id(self, members: dict[str, Any]) -> str | None:
        key = self.source.id
        return None if key is None else self._spell(key, members.get(str(key)))

    @staticmethod
    def _spell(key: Column, value: Any) -> str:
        if not isinstance(value, str | int | float):
            raise _BrokenLineError(f"{key!r} is missing, or no string or number")
        # Booleans and numbers are spelled as in the file, so true is "true" and not "True".
        return value if isinstance(value, str) else json.dumps(value)


def other_keys(key: Column, members: dict[str, Any]) -> str:
    """Return which keys an object has, for a message that it lacks ``key``."""
    if str(key) in members or not members:
        return ""
    return f"; the keys are {join_names([name[:40] for name in members], _SHOWN_KEYS)}"


def data_lines(path: Path, source: Source, tally: Tally) -> Iterator[Line]:
    """Yield the lines of a table without the blank ones at its end, and in CSV between rows.

    A blank line is no record of a CSV file, where records need not be lines. In tsv and jsonl files
    lines and records correspond, so a blank one between others is broken.
    """
    skips = source.format == "csv"
    blanks: list[Line] = []
    for line in READERS[source.format](path, source.delimiter, source.encoding):
        if line.cells is None and not line.problem:
            blanks.append(line._replace(problem="blank"))
            continue
        if skips:
            tally.blank += len(blanks)
        else:
            yield from blanks
        blanks.clear()
        yield line


def folder_files(path: Path, labels: tuple[str, ...]) -> list[tuple[str, Path]]:
    """Return ``(label, file)`` for every ``path/<label>/*.txt``, sorted within each label.

    Raises:
        DataError: a label's folder is missing or holds no text file.
    """
    found = []
    for label in labels:
        files = list_texts(path / label)
        if not files:
            raise DataError(f"{path / label}: no *.txt files; one folder per label is expected")
        found += [(label, file) for file in files]
    return found


def _read_folders(path: Path, labels: tuple[str, ...], tally: Tally) -> Iterator[TableRow]:
    for label, file in folder_files(path, labels):
        tally.total += 1
        try:
            text = read_text(file).replace("\0", "")
        except DataError as error:
            if isinstance(error.__cause__, OSError):  # no permission, a bad disk
                raise
            tally.report_broken(str(file), str(error).removeprefix(f"{file}:").strip())
            continue
        if not text.strip():
            tally.report_broken(str(file), "empty file")
            continue
        yield TableRow(str(file), text, None, label)
    tally.close()
