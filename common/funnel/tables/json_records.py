"""Objects of a JSON file: one per line (jsonl), or the elements of one array, read as a stream."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from funnel.tables.json_stream import JsonStream
from funnel.tables.lines import Line, without_nul
from funnel.utils.compressed import SequentialReader
from funnel.utils.text_files import (
    FOREIGN,
    MAX_GROWTH,
    ForeignTextError,
    Transcoder,
    is_foreign,
    split_lines,
)

_PEEKED = 4096  # bytes in which an array has to begin
_ARRAY = re.compile(r"\[\s*\{")  # a list of other values is a line that holds no object


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
    text = JsonStream(path, lambda size: stream.read(size).decode("utf-8", "surrogatepass"))
    for _ in text.elements():
        number, value = text.line, text.parse()
        yield Line(number, value, _check_object(value))
    text.end("more text after the array")
