"""Files of inputs to predict, read as a stream: text, csv, tsv, JSON and parquet."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from funnel.config.predictions import INPUT_FORMATS, TEXT, InputFileSettings
from funnel.inference.files import STANDARD_STREAM
from funnel.inference.inputs import Input
from funnel.inference.rows import MULTIPLE_CHOICE, QUESTION_ANSWERING, TOKEN_CLASSIFICATION
from funnel.tables.lines import NAME_ENCODING, Line
from funnel.tables.readers import KEYED_FORMATS
from funnel.tasks.custom import FORMATS, parse_column
from funnel.tasks.tables import (
    Column,
    Source,
    data_lines,
    find_column,
    missing_column,
    next_header,
    other_keys,
)
from funnel.tasks.tables import Tally as BlankTally
from funnel.utils.compressed import STANDARD_INPUT, SUFFIXES
from funnel.utils.errors import ConfigError, DataError
from funnel.utils.text_files import check_encoding, read_lines

logger = logging.getLogger(__name__)

_WARNINGS = 20  # invalid lines logged one by one


class _InvalidLineError(Exception):
    """A line that is no input."""


@dataclass
class InvalidLines:
    """Counts the lines that cannot be read, or stops at the first.

    Attributes:
        skips: whether they are left out.
        count: their number so far.
    """

    skips: bool
    count: int = 0

    def report(self, where: str, problem: str) -> None:
        """Report the line at ``where``.

        Raises:
            DataError: such lines are not to be left out.
        """
        if not self.skips:
            raise DataError(f"{where}: {problem}; --skip_invalid leaves such lines out")
        self.count += 1
        if self.count <= _WARNINGS:
            logger.warning("%s: left out: %s", where, problem)


@dataclass(frozen=True)
class InputFile:
    """The inputs of a file, in its order.

    Attributes:
        path: the file; ``-`` is the standard input.
        settings: form and columns.
        problem_type: that of the model, which decides which columns are needed.
        invalid: counts the lines that cannot be read.

    Raises:
        ConfigError: the form is unknown, or cannot hold these inputs.
    """

    path: str
    settings: InputFileSettings
    problem_type: str
    invalid: InvalidLines = field(default_factory=lambda: InvalidLines(False))

    def __post_init__(self) -> None:
        if self.file_format == TEXT and self.problem_type == MULTIPLE_CHOICE:
            raise ConfigError(
                f"{self.path}: a multiple choice has a question, a context and options, which a "
                "text file cannot hold; use jsonl, csv or tsv"
            )

        self._check_columns()

    def _check_columns(self) -> None:
        settings, kind = self.settings, self.file_format
        columns = ("text_column", "text_b_column", "id_column")
        unused = [name for name in columns if kind == TEXT and getattr(settings, name) is not None]
        if kind == TEXT or kind in KEYED_FORMATS:
            unused += ["delimiter"] if settings.delimiter is not None else []
            unused += [] if settings.header else ["no_header"]
        if unused:
            raise ConfigError(
                f"{self.path}: --{unused[0]} does not apply to the form {kind}; --input_format "
                "chooses another one"
            )

    @property
    def file_format(self) -> str:
        """One of :data:`funnel.config.predictions.INPUT_FORMATS`."""
        if self.settings.input_format:
            return self.settings.input_format
        if self.path == STANDARD_STREAM:
            return TEXT
        suffixes = [suffix.lower() for suffix in Path(self.path).suffixes]
        while suffixes and suffixes[-1] in SUFFIXES:
            suffixes.pop()
        found = suffixes[-1].removeprefix(".") if suffixes else ""
        if found not in INPUT_FORMATS:
            raise ConfigError(
                f"{self.path}: its name does not say its form; --input_format is one of "
                f"{', '.join(INPUT_FORMATS)}"
            )
        return found

    def __iter__(self) -> Iterator[Input]:
        """Yield the inputs.

        Raises:
            DataError: the file cannot be read or lacks a column, or a line is invalid.
        """
        name = STANDARD_INPUT if self.path == STANDARD_STREAM else self.path
        encoding = check_encoding(self.settings.encoding, ConfigError)
        parse = self._read_text if self.file_format == TEXT else self._read_table
        for number, (where, make) in enumerate(parse(Path(name), encoding)):
            try:
                item = make()
            except _InvalidLineError as error:
                self.invalid.report(where, str(error))
                continue
            # With lines left out, the index of a row is not its place in the file.
            skips = item.id is None and self.invalid.skips
            yield item._replace(id=number) if skips else item

    def _read_text(self, path: Path, encoding: str) -> Iterator[tuple[str, Callable[[], Input]]]:
        for line in read_lines(path, encoding):
            parse = partial(self._parse_text, line.text, line.problem)
            yield f"{self.path}:{line.number}", parse

    def _parse_text(self, text: str, problem: str | None) -> Input:
        if problem:
            raise _InvalidLineError(f"{problem}; {NAME_ENCODING}")
        if self.problem_type == TOKEN_CLASSIFICATION:
            return Input(words=tuple(text.split()))
        first, tab, second = text.partition("\t")
        if self.problem_type == QUESTION_ANSWERING and not tab:
            raise _InvalidLineError("no tab between question and context")
        return Input(first, second if tab else None)

    def _read_table(self, path: Path, encoding: str) -> Iterator[tuple[str, Callable[[], Input]]]:
        source = self._source(encoding)
        blanks = BlankTally(path)
        lines = data_lines(path, source, blanks)
        columns = _Columns.for_file(self, source)
        if not source.has_keys and source.header:
            columns = columns.located(Path(self.path), next_header(path, lines), source)
        for line in lines:
            if columns.needs_place and not source.has_keys and line.cells:
                columns = columns.located(Path(self.path), line.cells, source)
            parse = partial(columns.pick, line, self.problem_type)
            yield f"{self.path}:{line.number}", parse
        if blanks.blank:
            logger.warning("%s: %d blank lines skipped", self.path, blanks.blank)

    def _source(self, encoding: str) -> Source:
        settings, kind = self.settings, self.file_format
        delimiter = {"\\t": "\t", "tab": "\t"}.get(settings.delimiter or "", settings.delimiter)
        if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
            raise ConfigError(f"--delimiter={delimiter!r}: must be one character, and no quote")
        return Source(
            (self.path,),
            format=kind,
            header=settings.header,
            delimiter=delimiter or FORMATS[kind],
            encoding=encoding,
        )


def _is_name(value: Any) -> bool:
    """Return whether a value is a string or a number that JSON can hold."""
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _columns(problem_type: str) -> tuple[str, str | None]:
    """Return the default columns of the text and of the second one."""
    if problem_type in (QUESTION_ANSWERING, MULTIPLE_CHOICE):
        return "question", "context"
    return "text", None


@dataclass(frozen=True)
class _Columns:
    """The columns of an input: by role their names or, once located, positions."""

    roles: dict[str, Column]
    width: int | None = None  # None: not located, or columns are keys

    @property
    def needs_place(self) -> bool:
        return self.width is None

    @classmethod
    def for_file(cls, file: InputFile, source: Source) -> _Columns:
        settings, (text, other) = file.settings, _columns(file.problem_type)
        names = {
            "text": settings.text_column or text,
            "second text": settings.text_b_column or other,
            "id": settings.id_column,
        }
        if file.problem_type == MULTIPLE_CHOICE:
            names["options"] = settings.options_column
        roles = {role: parse_column(n, source.format) for role, n in names.items() if n is not None}
        if not source.header and source.format not in KEYED_FORMATS:
            # Without a header the text is the first column, if no other is named.
            if settings.text_column is None:
                roles["text"] = 0
            if settings.text_b_column is None and other is not None:
                roles["second text"] = 1
            named = [f"{role}: {c!r}" for role, c in roles.items() if isinstance(c, str)]
            if named:
                raise ConfigError(f"--no_header: columns are positions from 0, not {named[0]}")
        return cls(roles)

    def located(self, path: Path, first: list[str], source: Source) -> _Columns:
        width, places = len(first), {}
        for role, column in self.roles.items():
            place = find_column(column, first, width)
            if place is None:
                raise DataError(missing_column(path, column, role, first))
            places[role] = place
        return _Columns(dict(places), width)

    def pick(self, line: Line, problem_type: str) -> Input:
        if line.problem:
            raise _InvalidLineError(line.problem)
        if self.width is not None and len(line.cells) != self.width:
            raise _InvalidLineError(f"{len(line.cells)} columns instead of {self.width}")
        values = {role: self._value(line.cells, column) for role, column in self.roles.items()}
        name = values.get("id")
        if "id" in values and not _is_name(name):
            raise _InvalidLineError(f"{self.roles['id']!r} is missing, or no string or number")
        if problem_type == TOKEN_CLASSIFICATION:
            return Input(words=self._words(values["text"]), id=name)
        other = self._text(values, "second text") if "second text" in values else None
        choices = self._options(values["options"]) if "options" in values else ()
        return Input(self._text(values, "text"), other, choices, id=name)

    @staticmethod
    def _value(cells: Any, column: Column) -> Any:
        if not isinstance(cells, dict):
            return cells[int(column)]
        if column not in cells:
            raise _InvalidLineError(f"{column!r} is missing{other_keys(column, cells)}")
        return cells[column]

    def _text(self, values: dict[str, Any], role: str) -> str:
        if not isinstance(value := values[role], str):
            raise _InvalidLineError(f"{self.roles[role]!r} is missing or not a string")
        return value

    def _words(self, value: Any) -> tuple[str, ...]:
        # csv and tsv have no lists, so a cell holds one as JSON; predict.py writes "words" so.
        is_cell = self.width is not None and isinstance(value, str) and value.startswith("[")
        listed = _parse_json(value) if is_cell else value
        if isinstance(listed, list) and all(isinstance(word, str) for word in listed):
            return tuple(listed)
        if isinstance(value, str):
            return tuple(value.split())
        problem = "is missing" if value is None else "is neither a string nor a list of words"
        raise _InvalidLineError(f"{self.roles['text']!r} {problem}")

    def _options(self, value: Any) -> tuple[str, ...]:
        if isinstance(value, str):
            value = _parse_json(value)
        if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise _InvalidLineError(f"{self.roles['options']!r} is no list of strings")


def _parse_json(text: str) -> Any:
    """Return the value of a cell; None if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
