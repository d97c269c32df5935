""".npz files from outside: their sizes are checked before memory is allocated for them."""

from __future__ import annotations

import contextlib
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from typing import IO, NamedTuple

import numpy as np

from funnel.utils.errors import DataError

_FREE_BYTES, _MAX_GROWTH = 1 << 30, 100  # of all arrays together, relative to the file
_CORRUPTION = (
    ValueError,  # also pickled objects
    KeyError,
    EOFError,
    TypeError,
    OverflowError,
    MemoryError,
    NotImplementedError,
    RuntimeError,  # encrypted; a header nested too deep
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


class ArrayHeader(NamedTuple):
    """What the header of a ``.npy`` says of its array."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype


def read_npz(
    path: str | os.PathLike[str], names: Collection[str] | None = None
) -> dict[str, np.ndarray]:
    """Return the arrays of an ``.npz`` file by name; pickled objects are refused.

    Args:
        path: the file.
        names: arrays to read, as far as they are there; None reads all.

    Raises:
        DataError: the file cannot be read or is corrupt, an array has another size than its
            header states, or the arrays expand out of proportion to the file.
    """
    with name_corruption(path), zipfile.ZipFile(path) as archive:
        entries = [e for e in archive.infolist() if names is None or _name(e) in names]
        check_growth(path, entries)
        return {_name(entry): _read_array(archive, entry) for entry in entries}


@contextlib.contextmanager
def name_corruption(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raise what reading a corrupt ``.npz`` raises as a :class:`DataError` that names the file."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except _CORRUPTION as error:
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        raise DataError(f"{path}: not a readable .npz file of arrays ({reason})") from error


def check_growth(path: str | os.PathLike[str], entries: Iterable[zipfile.ZipInfo]) -> None:
    """Check that the arrays do not expand out of proportion to the file.

    Raises:
        DataError: they do.
    """
    limit = _FREE_BYTES + _MAX_GROWTH * os.stat(path).st_size
    if sum(entry.file_size for entry in entries) > limit:
        raise DataError(f"{path}: unpacks to over {_MAX_GROWTH} times its size")


def read_header(stream: IO[bytes], entry: zipfile.ZipInfo) -> ArrayHeader:
    """Read the header of an array, up to its first element.

    Raises:
        ValueError: the array holds objects, or has another size than its header states.
    """
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        header = ArrayHeader(*np.lib.format.read_array_header_1_0(stream))
    elif version == (2, 0):
        header = ArrayHeader(*np.lib.format.read_array_header_2_0(stream))
    else:
        raise ValueError(f"an array in version {version[0]}.{version[1]} of the format")
    if header.dtype.hasobject:
        raise ValueError("pickled objects, which are never loaded: allow_pickle is False")
    if min(header.shape, default=0) < 0:
        raise ValueError("an array of negative size")
    size = math.prod(header.shape) * header.dtype.itemsize
    if size + stream.tell() != entry.file_size:
        raise ValueError(f"{entry.filename!r} has another size than its header states")
    return header


def _name(entry: zipfile.ZipInfo) -> str:
    return entry.filename.removesuffix(".npy")


def _read_array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(entry) as stream:
        read_header(stream, entry)
    with archive.open(entry) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)
