"""A JSON text that is read as a stream, so that one value at a time is in memory."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from funnel.utils.errors import DataError

_READ_CHARACTERS = 1 << 16
_LONGEST = 64 << 20  # characters of one value, which is held in memory
_BLANKS = re.compile(r"[ \t\r\n]*")


class JsonStream:
    """The part of a JSON text that is being parsed.

    Args:
        path: the file, for messages.
        read: returns the next characters of the text, about as many as it is asked for; none at
            the end only.
    """

    def __init__(self, path: Path, read: Callable[[int], str]) -> None:
        self._path, self._read = path, read
        self._text, self._place, self._ended = "", 0, False
        self._decode = json.JSONDecoder().raw_decode
        self.line = 1

    def next(self) -> str:
        """Return the next character that is no white space, empty at the end."""
        while (found := self._peek()) in (" ", "\t", "\r", "\n", "\ufeff"):
            blanks = _BLANKS.match(self._text, self._place)
            self._advance(max(self._place + 1, blanks.end() if blanks else 0))
        return found

    def take(self, character: str) -> None:
        """Move past a character, which must be the next one.

        Raises:
            DataError: it is not.
        """
        if self.next() != character:
            shown = repr(self.next()) if self.next() else "the end of the file"
            raise self._invalid(f"{shown} instead of {character!r}")
        self._advance(self._place + 1)

    def elements(self) -> Iterator[int]:
        """Yield the index of each element of an array, for the caller to parse it.

        Raises:
            DataError: the array is not valid JSON.
        """
        return self._items("[", "]")

    def members(self) -> Iterator[str]:
        """Yield the name of each member of an object, for the caller to parse its value.

        Raises:
            DataError: the object is not valid JSON.
        """
        for _ in self._items("{", "}"):
            if self.next() != '"':
                self.take('"')
            name: str = self.parse()
            self.take(":")
            yield name

    def parse(self) -> Any:
        """Return the next value, and move past it.

        Raises:
            DataError: it is not valid JSON, or longer than 64 million characters.
        """
        self.next()
        while True:
            try:
                value, end = self._decode(self._text, self._place)
            except json.JSONDecodeError as error:
                if self._ended or len(self._text) - self._place > _LONGEST:
                    raise self._invalid(error.msg, error.pos) from None
            except RecursionError:
                raise self._invalid("nested too deeply") from None
            except ValueError:  # Python's limit, of 4,300 digits
                raise self._invalid("a number of too many digits") from None
            else:
                # A number at the end of the window may have more digits.
                if end < len(self._text) or self._ended:
                    self._advance(end)
                    return value
            self._read_more()

    def end(self, problem: str) -> None:
        """Check that nothing follows; ``problem`` says what is wrong if something does.

        Raises:
            DataError: something does.
        """
        if self.next():
            raise self._invalid(problem)

    def _items(self, first: str, last: str) -> Iterator[int]:
        self.take(first)
        index = 0
        while self.next() != last:
            if index:
                self.take(",")
                self.next()
            yield index
            index += 1
            if self.next() not in (",", last):
                break
        self.take(last)

    def _peek(self) -> str:
        if self._place >= len(self._text):
            self._read_more()
        return self._text[self._place : self._place + 1]

    def _advance(self, place: int) -> None:
        self.line += self._text.count("\n", self._place, place)
        self._place = place

    def _read_more(self) -> None:
        rest = self._text[self._place :]
        # Twice as much each time, so that a long value is not parsed again for every read.
        more = self._read(max(_READ_CHARACTERS, len(rest)))
        self._ended = not more
        self._text, self._place = rest + more, 0

    def _invalid(self, reason: str, place: int | None = None) -> DataError:
        place = self._place if place is None else place
        line = self.line + self._text.count("\n", self._place, place)
        return DataError(f"{self._path}:{line}: not valid JSON: {reason}")
