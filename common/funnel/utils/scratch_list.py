"""A list on disk, for values that are looked up one at a time and need not all be in memory.

Without numpy, so that programs that only fetch data can use it.
"""

from __future__ import annotations

import json
import tempfile
import threading
from array import array
from collections.abc import Sequence
from typing import TypeVar, overload

from funnel.utils.errors import FunnelError

_HELD_BYTES = 1 << 18  # held in memory before there is a file

T = TypeVar("T")


class ScratchList(Sequence[T]):
    """JSON values in the order in which they were appended, for several threads to read.

    Up to 256 KB of them stay in memory; more are in an unnamed temporary file, and eight bytes of
    each in memory. A value is parsed each time it is looked up, so that changes of a returned
    object are not kept.
    """

    def __init__(self) -> None:
        # Unbuffered: a failed write must not be repeated when the file is closed.
        self._file = tempfile.SpooledTemporaryFile(_HELD_BYTES, buffering=0)  # noqa: SIM115
        self._ends: array[int] = array("q", [0])
        self._lock = threading.Lock()

    def append(self, value: T) -> None:
        """Add a value.

        Raises:
            FunnelError: the temporary file cannot be written.
        """
        text = json.dumps(value).encode("ascii")
        rest = memoryview(text)
        with self._lock:
            try:
                self._file.seek(self._ends[-1])
                while rest:
                    rest = rest[self._file.write(rest) :]
            except OSError as error:
                reason = error.strerror or error
                folder = tempfile.gettempdir()
                raise FunnelError(f"{folder}: cannot be written: {reason}") from error
            self._ends.append(self._ends[-1] + len(text))

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> list[T]: ...

    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self[place] for place in range(len(self))[index]]
        place = range(len(self))[index]
        begin, end = self._ends[place], self._ends[place + 1]
        with self._lock:
            self._file.seek(begin)
            text = self._file.read(end - begin)
        value: T = json.loads(text)
        return value

    def __len__(self) -> int:
        return len(self._ends) - 1
