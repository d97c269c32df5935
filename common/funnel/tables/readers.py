"""Records of table files, one reader per format."""

from __future__ import annotations

import csv
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from funnel.tables.json_records import read_json_records
from funnel.tables.lines import Line, without_nul
from funnel.tables.parquet import read_parquet
from funnel.utils.text_files import ForeignTextError, TextLine, read_lines

_FIELD_LIMIT = min(sys.maxsize, 2**31 - 1)  # csv's limit is a C long, 32 bits wide on Windows


def _text_lines(path: Path, encoding: str) -> Iterator[TextLine]:
    """Yield the lines of a file, without NUL characters."""
    try:
        yield from without_nul(read_lines(path, encoding))
    except ForeignTextError as error:
        raise ForeignTextError(f"{error}, or name its --encoding") from None


def _tsv_lines(path: Path, delimiter: str, encoding: str) -> Iterator[Line]:
    """Split at every delimiter, without quoting (with it, GLUE's RTE test loses 15 rows)."""
    for number, text, problem in _text_lines(path, encoding):
        yield Line(number, text.split(delimiter) if text else None, problem)


class _Replay:
    """The lines of a CSV file, some of which can be read again after a broken record."""

    def __init__(self, lines: Iterator[TextLine]) -> None:
        self._lines = lines
        self._again: deque[TextLine] = deque()
        self.taken: list[TextLine] = []

    def __iter__(self) -> _Replay:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        self.taken.append(line)
        return line.text + "\n"

    def push_back_all_but_first(self) -> None:
        self._again.extendleft(reversed(self.taken[1:]))


def _csv_lines(path: Path, delimiter: str, encoding: str) -> Iterator[Line]:
    """Parse strictly: a stray quote is one broken line, not a record that absorbs the next ones."""
    replay = _Replay(_text_lines(path, encoding))
    reader = csv.reader(replay, delimiter=delimiter, strict=True)
    while True:
        replay.taken.clear()
        problem = None
        # The limit is global to the process: raised for one record, then restored.
        limit = csv.field_size_limit(_FIELD_LIMIT)
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            cells, problem = [], f"not valid CSV: {error}"
        finally:
            csv.field_size_limit(limit)
        number = replay.taken[0].number
        if problem:
            replay.push_back_all_but_first()
        else:
            problem = next((line.problem for line in replay.taken if line.problem), None)
        yield Line(number, cells or None, problem)


def _json_records(path: Path, delimiter: str, encoding: str) -> Iterator[Line]:
    """Read an object per line, or one array of objects, whichever the file holds."""
    del delimiter  # part of the signature that all readers share
    return read_json_records(path, encoding)


def _parquet_records(path: Path, delimiter: str, encoding: str) -> Iterator[Line]:
    del delimiter, encoding  # parquet states its own
    for number, members in read_parquet(path):
        yield Line(number, members, None)


def register_reader(name: str, read: Callable[[Path], Iterable[Sequence[str]]]) -> None:
    """Add a format of tables, or replace it.

    Args:
        name: of the format.
        read: returns the rows of a file as strings, all of the same number.
    """

    def number_rows(path: Path, delimiter: str, encoding: str) -> Iterator[Line]:
        del delimiter, encoding  # part of the signature that all readers share
        for number, row in enumerate(read(path), start=1):
            cells = list(row)
            is_text = all(isinstance(cell, str) for cell in cells)
            yield Line(number, cells, None if is_text else f"not all strings: {cells!r:.80}")

    READERS[name] = number_rows


Reader = Callable[[Path, str, str], Iterator[Line]]
KEYED_FORMATS = ("jsonl", "json", "parquet")
READERS: dict[str, Reader] = {
    "tsv": _tsv_lines,
    "csv": _csv_lines,
    "jsonl": _json_records,
    "json": _json_records,
    "parquet": _parquet_records,
}
