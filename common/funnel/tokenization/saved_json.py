"""Typed access to the JSON objects of tokenizer files, which come from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from funnel.utils.errors import TokenizerError
from funnel.utils.json_files import read_json_object


@dataclass(frozen=True)
class JsonObject:
    """A JSON object and its place, ``FILE`` or ``FILE: KEY``, for messages.

    The methods return a value by key, or a default where the key is absent or null.

    Raises:
        TokenizerError: the value is of another type.
    """

    values: Mapping[str, Any]
    path: str

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false."""
        found = self.optional_flag(key)
        return default if found is None else found

    def optional_flag(self, key: str) -> bool | None:
        """Return true, false or None."""
        return self._checked(key, bool, "true, false or null")

    def number(self, key: str, default: int) -> int:
        """Return a whole number from 0 on."""
        found = self._checked(key, int, "a whole number")
        if isinstance(found, bool) or (found is not None and found < 0):
            raise self._error(key, "a whole number from 0 on")
        return default if found is None else int(found)

    def text(self, key: str) -> str:
        """Return a string, empty without one."""
        return self._checked(key, str, "a string") or ""

    def token(self, key: str) -> str:
        """Return a token, written as a string or as an object with its content."""
        value = self.values.get(key)
        if isinstance(value, Mapping):
            return JsonObject(value, f"{self.path}: {key}").text("content")
        return self.text(key)

    def objects(self, key: str) -> JsonObject | None:
        """Return an object."""
        found = self._checked(key, Mapping, "an object")
        return None if found is None else JsonObject(found, f"{self.path}: {key}")

    def entries(self, key: str) -> list[JsonObject]:
        """Return the objects of a list."""
        found = self._checked(key, list, "a list of objects") or []
        if not all(isinstance(entry, Mapping) for entry in found):
            raise self._error(key, "a list of objects")
        return [JsonObject(entry, f"{self.path}: {key}[{i}]") for i, entry in enumerate(found)]

    def texts(self, key: str) -> dict[str, str]:
        """Return an object of strings."""
        found = self.objects(key)
        return {} if found is None else {name: found.text(name) for name in found.values}

    def _checked(self, key: str, kind: Any, wanted: str) -> Any:
        value = self.values.get(key)
        if value is not None and not isinstance(value, kind):
            raise self._error(key, wanted)
        return value

    def _error(self, key: str, wanted: str) -> TokenizerError:
        return TokenizerError(f"{self.path}: {key} should be {wanted}")


def read_object(path: Path) -> JsonObject:
    """Read a file that holds one JSON object.

    Raises:
        TokenizerError: it cannot be read or holds something else.
    """
    return JsonObject(read_json_object(path, TokenizerError), str(path))
