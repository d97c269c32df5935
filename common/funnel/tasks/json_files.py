"""JSON files with typed members; errors name file and path, as ``a.json: data[3].title``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from funnel.tables.json_stream import JsonStream
from funnel.utils import json_files
from funnel.utils.compressed import SequentialReader
from funnel.utils.errors import DataError
from funnel.utils.text_files import FOREIGN, MAX_GROWTH_IN_MEMORY, Utf8Reader, is_foreign

_PEEKED = 4096  # bytes that tell the encoding
_KINDS = {
    dict: "an object",
    list: "a list",
    str: "a string",
    int: "an integer",
    bool: "true or false",
}


@dataclass(frozen=True, slots=True)
class JsonNode:
    """A value in a JSON file with its path in the file."""

    file: Path
    path: str
    value: Any

    def error(self, problem: str) -> DataError:
        """Return an error about this value, for the caller to raise."""
        return DataError(f"{self.file}: {self.path or 'the file'} {problem}")

    def checked(self, kind: type) -> JsonNode:
        """Return this node if its value is of ``kind``: dict, list, str, int or bool.

        Raises:
            DataError: it is of another kind.
        """
        is_disguised_bool = isinstance(self.value, bool) and kind is not bool
        if not isinstance(self.value, kind) or is_disguised_bool:
            raise self.error(f"is {json.dumps(self.value)[:60]}, {_KINDS[kind]} is expected")
        return self

    def has(self, name: str) -> bool:
        """Whether this object has a member ``name``."""
        return name in self.value

    def member(self, name: str, kind: type) -> JsonNode:
        """Return the member ``name`` of this object.

        Raises:
            DataError: it is missing or not of ``kind``.
        """
        path = f"{self.path}.{name}" if self.path else name
        if name not in self.value:
            raise DataError(f"{self.file}: {path} is missing, {_KINDS[kind]} is expected")
        return JsonNode(self.file, path, self.value[name]).checked(kind)

    def members(self, name: str, kind: type) -> Iterator[JsonNode]:
        """Yield the elements of the list ``name`` of this object, each of ``kind``.

        Raises:
            DataError: the member is missing or not a list, or an element is of another kind.
        """
        parent = self.member(name, list)
        for index, value in enumerate(parent.value):
            yield JsonNode(self.file, f"{parent.path}[{index}]", value).checked(kind)


def read_json(path: Path) -> JsonNode:
    """Read a file that holds one JSON object.

    Raises:
        DataError: the file is missing, not UTF-8, not JSON or not an object.
    """
    return JsonNode(path, "", json_files.read_json(path, DataError)).checked(dict)


def iter_objects(path: Path, names: Sequence[str]) -> Iterator[JsonNode]:
    """Yield the objects in nested lists of a file, one of them in memory at a time.

    Args:
        path: a file that holds one JSON object.
        names: the lists, from outside: with ``("a", "b")``, ``a[0].b[0]``, ``a[0].b[1]`` and so on
            are yielded.

    Raises:
        DataError: the file is missing, not UTF-8 or not JSON, or a value on the way is missing,
            of another kind or there twice.
    """
    with SequentialReader(path, MAX_GROWTH_IN_MEMORY) as stream:
        if is_foreign(stream.peek(_PEEKED)):
            raise DataError(f"{path}:1: is {FOREIGN}")
        text = JsonStream(path, Utf8Reader(stream, path).read)
        yield from _iter_nested(text, JsonNode(path, "", None), names)
        text.end("more text after the object")


def _iter_nested(text: JsonStream, place: JsonNode, names: Sequence[str]) -> Iterator[JsonNode]:
    """Yield the objects below the next value of a text; ``place`` says where that is."""
    if not names:
        yield JsonNode(place.file, place.path, text.parse()).checked(dict)
        return
    if text.next() != "{":
        JsonNode(place.file, place.path, text.parse()).checked(dict)
    name, *inner = names
    path, is_there = f"{place.path}.{name}" if place.path else name, False
    for found in text.members():
        if found != name:
            text.parse()
            continue
        if is_there:
            raise DataError(f"{place.file}: {path} is there twice")
        is_there = True
        if text.next() != "[":
            JsonNode(place.file, path, text.parse()).checked(list)
        for index in text.elements():
            yield from _iter_nested(text, JsonNode(place.file, f"{path}[{index}]", None), inner)
    if not is_there:
        raise DataError(f"{place.file}: {path} is missing, {_KINDS[list]} is expected")
