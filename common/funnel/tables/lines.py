"""The record that every reader of tables yields, and text without NUL characters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from funnel.utils.text_files import TextLine

# For the programs that take the encoding of their tables.
NAME_ENCODING = "name the --encoding of the file, such as cp1252"


class Line(NamedTuple):
    """A record: the number of its line, its cells, and why it cannot be read, if so.

    ``cells`` is a list of strings, or an object for the formats with keys; None for a blank line.
    """

    number: int
    cells: Any
    problem: str | None


def without_nul(lines: Iterable[TextLine]) -> Iterator[TextLine]:
    """Yield lines without NUL characters; one that is not UTF-8 names the flag that helps."""
    for line in lines:
        if line.problem:
            line = line._replace(problem=f"{line.problem}; {NAME_ENCODING}")
        yield line._replace(text=line.text.replace("\0", "")) if "\0" in line.text else line
