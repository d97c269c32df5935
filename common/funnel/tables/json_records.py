"""Objects of a JSON file: one per line (jsonl), or the elements of one array, read as a stream."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from funnel.tables.lines import Line, without_nul
from funnel.utils.compressed import SequentialReader
from funnel.utils.errors import DataError
from funnel.utils.text_files import (
    FOREIGN,
    MAX_GROWTH,
    ForeignTextError,
    Transcoder,
    is_foreign,
    split_lines,
)

_PEEKED = 4096  # bytes in which an array has to begin
_READ_BYTES = 1 << 16
_LONGEST = 64 << 20  # characters of one element, which is held in memory
_ARRAY = re.compile(r"\[\s*\{")  # a list of other values is a line that holds no object
_BLANKS = re.compile(r"[ \t\r\n]*")


def read_json_records(path: Path, encoding: str) -> Iterator[Line]:
    """Yield the objects of a file; an array is recognized by its first characters.

    In a file of lines a line that holds no object is a record with a problem; in an array, so is
    an element that is none.

    Raises:
        DataError: the file cannot be read, or an array is not valid JSON.
    """
    with SequentialReader(path, MAX_GROWTH) as stream:
        start = stream.peek(_PEEKED)
        is_utf8 = encoding == "utf-8"
        if is_utf8 and is_foreign(start):
            raise ForeignTextError(f"{path}:1: is {FOREIGN}, or name its --encoding")
        shown = start.decode(encoding, errors="ignore").lstrip("\ufeff \t\r\n")
        if _ARRAY.match(shown):
            yield from _read_array(path, Transcoder(stream, path, "utf-8" if is_utf8 else encoding))
            return
        for number, text, problem in without_nul(split_lines(path, stream, encoding)):
            yield _parse_line(number, text, problem)


def _parse_line(number: int, text: str, problem: str | None) -> Line:
    members: Any = None
    if text and not problem:
        try:
            members = json.loads(text)
        except (ValueError, RecursionError) as error:
            problem = f"not valid JSON: {error}"
        if not problem:
            problem = _check_object(members)
    return Line(number, members, problem)


def _check_object(value: Any) -> str | None:
    return None if isinstance(value, dict) else f"not a JSON object but {type(value).__name__}"


def _read_array(path: Path, stream: Transcoder) -> Iterator[Line]:
    """Yield the elements of an array, with the number of the line in which each begins."""
    text = _Window(path, stream)
    text.skip_blanks()
    text.take("[")
    text.skip_blanks()
    if text.next() != "]":
        while True:
            number, value = text.line, text.parse()
            yield Line(number, value, _check_object(value))
            text.skip_blanks()
            if text.next() != ",":
                break
            text.take(",")
            text.skip_blanks()
    text.take("]")
    text.skip_blanks()
    if text.next():
        raise DataError(f"{path}:{text.line}: not valid JSON: more text after the array")


class _Window:
    """The part of a text that is being parsed."""

    def __init__(self, path: Path, stream: Transcoder) -> None:
        self._path, self._stream = path, stream
        self._text, self._place, self._ended = "", 0, False
        self._decode = json.JSONDecoder().raw_decode
        self.line = 1

    def next(self) -> str:
        """Return the next character, empty at the end."""
        if self._place >= len(self._text):
            self._read_more()
        return self._text[self._place : self._place + 1]

    def take(self, character: str) -> None:
        """Move past a character, which must be the next one."""
        if self.next() != character:
            shown = repr(self.next()) if self.next() else "the end of the file"
            raise self._invalid(f"{shown} instead of {character!r}")
        self._advance(self._place + 1)

    def skip_blanks(self) -> None:
        """Move to the next character that is no white space, nor a byte order mark."""
        while self.next() in (" ", "\t", "\r", "\n", "\ufeff"):
            blanks = _BLANKS.match(self._text, self._place)
            self._advance(max(self._place + 1, blanks.end() if blanks else 0))

    def parse(self) -> Any:
        """Return the next value, and move past it."""
        self.next()
        while True:
            try:
                value, end = self._decode(self._text, self._place)
            except json.JSONDecodeError as error:
                if self._ended or len(self._text) - self._place > _LONGEST:
                    raise self._invalid(error.msg) from None
            except (ValueError, RecursionError) as error:
                raise self._invalid(str(error)) from None
            else:
                # A number at the end of the window may have more digits.
                if end < len(self._text) or self._ended:
                    self._advance(end)
                    return value
            self._read_more()

    def _advance(self, place: int) -> None:
        self.line += self._text.count("\n", self._place, place)
        self._place = place

    def _read_more(self) -> None:
        rest = self._text[self._place :]
        # Twice as much each time, so that a long value is not parsed again for every read.
        more = self._stream.read(max(_READ_BYTES, len(rest)))
        self._ended = not more
        self._text, self._place = rest + more.decode("utf-8", errors="surrogatepass"), 0

    def _invalid(self, reason: str) -> DataError:
        return DataError(f"{self._path}:{self.line}: not valid JSON: {reason}")
