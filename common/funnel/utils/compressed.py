"""Files that may be compressed, read in order, with a limit on what they unpack to.

The kind of compression follows from the suffix of a file or, without one, from its first bytes.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from funnel.utils.errors import DataError, FunnelError
from funnel.utils.files import name_read_errors

FREE_GROWTH = 64 << 20  # bytes that a file of any size may unpack to
STANDARD_INPUT = "/dev/stdin"
Opener = Callable[..., Any]
_OPENERS: dict[bytes, Opener] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
_SUFFIX_OPENERS: dict[str, Opener] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
SUFFIXES = tuple(_SUFFIX_OPENERS)
_MAGIC_BYTES = max(map(len, _OPENERS))
_CORRUPTION = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, ValueError, MemoryError)


def find_opener(path: str | os.PathLike[str]) -> Opener | None:
    """Return the function that opens a compressed file, like ``gzip.open``; None if it is none.

    Raises:
        OSError: the file cannot be read.
    """
    if (named := _SUFFIX_OPENERS.get(Path(path).suffix.lower())) is not None:
        return named
    with open(path, "rb") as stream:
        start = stream.read(_MAGIC_BYTES)
    return next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), None)


def is_compressed(start: bytes) -> bool:
    """Return whether a file that begins with ``start`` is gzip, bzip2 or xz data, and not text."""
    return start.startswith(tuple(_OPENERS)) and not start.isascii()


class SequentialReader(io.RawIOBase):
    """A file that is read in order, decompressed if it is gzip, bzip2 or xz data.

    Args:
        path: the file; :data:`STANDARD_INPUT` may be a pipe, whose size is unknown: what it
            unpacks to has no limit.
        growth: a compressed file that unpacks to more than ``growth`` times its size, and more
            than ``FREE_GROWTH``, is refused as a decompression bomb.
        error: class of the errors raised.
        kind: what the file is, for messages.

    Raises:
        FunnelError: the file cannot be read. Reading raises it also if the data is corrupt,
            truncated or too large; the class is ``error``, and the message names the file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        growth: int,
        error: type[FunnelError] = DataError,
        kind: str = "file",
    ) -> None:
        super().__init__()
        self._path, self._error, self._kind, self._growth = path, error, kind, growth
        self._left: int | None = None
        self._ahead = b""
        self._stream: Any = None  # closed by the interpreter, too, where opening fails
        with name_read_errors(path, error):
            if os.fspath(path) == STANDARD_INPUT:
                self._stream = _open_standard_input()
                return
            opener = find_opener(path)
            self._stream = (opener or open)(path, "rb")
            if opener is not None:
                self._left = growth * os.stat(path).st_size + FREE_GROWTH

    def peek(self, size: int) -> bytes:
        """Return the next ``size`` bytes, fewer only at the end, to be read again."""
        if len(self._ahead) < size:
            self._ahead += self._read(size - len(self._ahead))
        return self._ahead[:size]

    def read(self, size: int = -1) -> bytes:
        """Return the next ``size`` bytes, fewer only at the end; all with -1."""
        if not self._ahead:
            return self._read(size)
        taken = self._ahead if size < 0 else self._ahead[:size]
        self._ahead = self._ahead[len(taken) :]
        return taken + self._read(size if size < 0 else size - len(taken))

    def _read(self, size: int) -> bytes:
        # One byte more than allowed shows that there is more.
        most = size if self._left is None or 0 <= size <= self._left else self._left + 1
        try:
            data = self._stream.read(most)
        except OSError as error:
            if isinstance(error, gzip.BadGzipFile) or error.errno is None:  # bzip2 has no class
                raise self._corrupt(error) from None
            raise self._error(f"{self._path}: cannot be read: {error.strerror}") from None
        except _CORRUPTION as error:
            raise self._corrupt(error) from None
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                times = f"unpacks to over {self._growth} times its size"
                raise self._error(f"{self._path}: {times}, which data does not")
        return data

    def _corrupt(self, error: Exception) -> FunnelError:
        reason = str(error) or "out of memory"
        return self._error(f"{self._path}: corrupt {self._kind}: {reason}")

    def close(self) -> None:
        """Close the file."""
        if not self.closed and self._stream is not None:
            self._stream.close()
        super().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _open_standard_input() -> Any:
    if sys.stdin is None:  # closed by the program that started this one
        raise OSError("the standard input is closed")
    stream: Any = sys.stdin.buffer  # the type lacks peek
    start = stream.peek(_MAGIC_BYTES)[:_MAGIC_BYTES]
    opener = next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), None)
    return stream if opener is None else opener(stream, "rb")
