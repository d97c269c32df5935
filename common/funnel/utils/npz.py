""".npz files from outside: their sizes are checked before memory is allocated for them."""

from __future__ import annotations

import math
import os
import struct
import zipfile
import zlib
from collections.abc import Collection
from typing import IO

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
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [e for e in archive.infolist() if names is None or _name(e) in names]
            if (
                sum(e.file_size for e in entries)
                > _FREE_BYTES + _MAX_GROWTH * os.stat(path).st_size
            ):
                raise DataError(f"{path}: unpacks to over {_MAX_GROWTH} times its size")
            return {_name(entry): _read_array(archive, entry) for entry in entries}
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except _CORRUPTION as error:
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        raise DataError(f"{path}: not a readable .npz file of arrays ({reason})") from error


def _name(entry: zipfile.ZipInfo) -> str:
    return entry.filename.removesuffix(".npy")


def _read_array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(entry) as stream:
        size = _stated_size(stream)
        if size + stream.tell() != entry.file_size:
            raise ValueError(f"{entry.filename!r} has another size than its header states")
    with archive.open(entry) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def _stated_size(stream: IO[bytes]) -> int:
    """Return the number of bytes that the header of an array states, and read past the header."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"an array in version {version[0]}.{version[1]} of the format")
    if dtype.hasobject:
        raise ValueError("pickled objects, which are never loaded: allow_pickle is False")
    if min(shape, default=0) < 0:
        raise ValueError("an array of negative size")
    return math.prod(shape) * dtype.itemsize
