"""JSON files with typed members; errors name file and path, as ``a.json: data[3].title``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from funnel.utils import json_files
from funnel.utils.errors import DataError

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
