"""JSON values by name in temporary files, and JSON files that are written a member at a time.

The best answers to a question take some kilobytes as Python objects. Where there are many
thousands of questions, only their names and places in a file are held in memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TextIO, TypeVar

from funnel.utils.files import atomic_path, finite_json, open_json
from funnel.utils.scratch_list import ScratchList

T = TypeVar("T")


class JsonSpool(Mapping[str, T]):
    """JSON values by name, in the order in which they were added.

    Up to 256 KB of them stay in memory; more are in an unnamed temporary file. A value is parsed
    each time it is looked up, so that changes of a returned object are not kept.

    Args:
        index: positions by name. Spools with the same names share one.
    """

    def __init__(self, index: dict[str, int]) -> None:
        self._index = index
        self._values: ScratchList[T] = ScratchList()

    def add(self, name: str, value: T) -> None:
        """Add a value; not allowed after the first one was looked up.

        Raises:
            FunnelError: a temporary file cannot be written.
        """
        self._index.setdefault(name, len(self._values))
        self._values.append(value)

    def __getitem__(self, name: str) -> T:
        return self._values[self._index[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._values)


def write_json_object(path: str | os.PathLike[str], members: Mapping[str, Any]) -> None:
    """Write an object as :func:`funnel.utils.files.atomic_write_json` does, member by member.

    Raises:
        FunnelError: the file cannot be written.
    """
    _write_json(path, "{}", (f"{_text(key)}: {_text(members[key])}" for key in members))


def write_json_array(path: str | os.PathLike[str], values: Iterable[Any]) -> None:
    """Write an array as :func:`funnel.utils.files.atomic_write_json` does, value by value.

    Raises:
        FunnelError: the file cannot be written.
    """
    _write_json(path, "[]", map(_text, values))


def _text(value: Any) -> str:
    text = json.dumps(finite_json(value), indent=2, ensure_ascii=False, allow_nan=False)
    return text.replace("\n", "\n  ")  # strings have no line ends of their own


def _write_json(path: str | os.PathLike[str], brackets: str, members: Iterable[str]) -> None:
    with (
        atomic_path(path) as temporary,
        open_json(temporary) as stream,
    ):
        _write_members(stream, brackets, members)


def _write_members(stream: TextIO, brackets: str, members: Iterable[str]) -> None:
    before, end = f"{brackets[0]}\n  ", brackets
    for member in members:
        stream.write(before + member)
        before, end = ",\n  ", f"\n{brackets[1]}"
    stream.write(f"{end}\n")
