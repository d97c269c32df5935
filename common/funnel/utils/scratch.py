"""Arrays in unnamed temporary files, for data that may be larger than memory.

The system removes such a file when the process ends, however it ends. Pages of the file count as
memory of this process while they are mapped, so readers of a large array release them regularly.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from funnel.utils.errors import FunnelError

_HELD_BYTES = 1 << 18  # appended values held in memory before they are written
_AT_ONCE = 1 << 16  # values appended at a time


class ScratchArray:
    """A one-dimensional array that is appended to and then read.

    Up to 256 KB stays in memory; a longer array is in a temporary file.

    Args:
        folder: directory of the temporary file; created when the file is.
        dtype: type of the values.
    """

    def __init__(self, folder: str | os.PathLike[str], dtype: Any) -> None:
        self._folder, self._dtype = Path(folder), np.dtype(dtype)
        self._file: IO[bytes] | None = None
        self._mapping: mmap.mmap | None = None
        self._buffer = bytearray()
        self._written = 0

    @classmethod
    def zeros(cls, folder: str | os.PathLike[str], size: int, dtype: Any) -> ScratchArray:
        """Return an array of zeros, to be changed in place through :meth:`read`."""
        array = cls(folder, dtype)
        block = np.zeros(min(size, _AT_ONCE), array._dtype)
        for start in range(0, size, _AT_ONCE):
            array.append(block[: size - start])
        return array

    def __len__(self) -> int:
        return (self._written + len(self._buffer)) // self._dtype.itemsize

    def append(self, values: np.ndarray) -> None:
        """Add a copy of the values at the end; not allowed after :meth:`read`.

        Raises:
            FunnelError: the temporary file cannot be written.
        """
        self._buffer += np.asarray(values, self._dtype).tobytes()
        if len(self._buffer) > _HELD_BYTES:
            self._write_out()

    def read(self) -> np.ndarray:
        """Return the array; a long one is a map of the temporary file.

        Raises:
            FunnelError: the temporary file cannot be written.
        """
        if self._file is not None:
            self._write_out()
            self._mapping = mmap.mmap(self._file.fileno(), 0)
            self._file.close()
            self._file = None
        return np.frombuffer(self._mapping or self._buffer, self._dtype)

    def release(self) -> None:
        """Let the system take back the memory of what was read; reading it again is allowed."""
        if self._mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
            # Drops the pages from this process; a shared map of a file keeps what was changed.
            self._mapping.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Close the temporary file; arrays that :meth:`read` returned stay valid."""
        if self._file is not None:
            self._file.close()
        self._file, self._mapping = None, None

    def _write_out(self) -> None:
        try:
            if self._file is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                # Unbuffered: a failed write must not be repeated when the file is closed.
                self._file = tempfile.TemporaryFile(  # noqa: SIM115 - closed in read() or close()
                    dir=self._folder, prefix=".tmp-", buffering=0
                )
            data = memoryview(self._buffer)
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            reason = error.strerror or error
            raise FunnelError(f"{self._folder}: cannot be written: {reason}") from error
        self._written += len(self._buffer)
        self._buffer = bytearray()


def concatenate(arrays: Sequence[np.ndarray], dtype: Any) -> np.ndarray:
    """Return one-dimensional arrays as one, in a temporary file if it is large.

    Raises:
        FunnelError: the temporary file cannot be written.
    """
    joined = ScratchArray(tempfile.gettempdir(), dtype)
    for values in arrays:
        for start in range(0, len(values), _AT_ONCE):  # copied in parts
            joined.append(values[start : start + _AT_ONCE])
    return joined.read()
