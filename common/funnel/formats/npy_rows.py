"""A ``.npy`` file row by row: one array that may exceed memory, and can be memory-mapped."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from funnel.utils.files import atomic_path


class NpyRowWriter:
    """Writes an array of which some rows at a time are known.

    Args:
        stream: the file, at its beginning.
        rows: number of rows of the array.
    """

    def __init__(self, stream: IO[bytes], rows: int) -> None:
        self._stream, self._rows, self._written = stream, rows, 0
        self._kind: tuple[np.dtype[Any], tuple[int, ...]] | None = None

    def append(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Add rows [B, ...]: the only array of the mapping.

        Raises:
            ValueError: type or shape of the rows is not that of the first ones.
        """
        (array,) = arrays.values()
        kind = (array.dtype, array.shape[1:])
        if self._kind is None:
            self._kind = kind
            header = {
                "descr": npy.dtype_to_descr(array.dtype),
                "fortran_order": False,
                "shape": (self._rows, *array.shape[1:]),
            }
            npy.write_array_header_1_0(self._stream, header)
        if kind != self._kind:
            raise ValueError(f"rows of {kind} after {self._kind}")
        self._stream.write(np.ascontiguousarray(array).data)
        self._written += len(array)

    def close(self) -> None:
        """Check that the array is complete.

        Raises:
            ValueError: there were other rows than the header states.
        """
        if self._written != self._rows:
            raise ValueError(f"{self._written} rows were written, {self._rows} are stated")


@contextlib.contextmanager
def atomic_npy(path: str | os.PathLike[str], rows: int) -> Iterator[NpyRowWriter]:
    """Yield a writer; the file appears under its name if the body succeeds.

    Raises:
        FunnelError: the file cannot be written.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        writer = NpyRowWriter(stream, rows)
        yield writer
        writer.close()
