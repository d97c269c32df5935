"""``.npz`` files row by row: arrays that share their first dimension and may exceed memory."""

from __future__ import annotations

import contextlib
import io
import math
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from funnel.utils.errors import DataError
from funnel.utils.files import atomic_path

_SUFFIX = ".npy"
_COPIED = 1 << 16
# A file from elsewhere can be corrupt in every layer: zip, compression, header, size.
_CORRUPTION = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    OverflowError,
    MemoryError,  # a header that claims more than there is
    RuntimeError,  # also an encrypted member, and NotImplementedError for an unknown compression
    zipfile.BadZipFile,
    zlib.error,
)


class NpzRowWriter:
    """Writes arrays of which some rows at a time are known.

    The rows are in unnamed temporary files until :meth:`pack`.

    Args:
        folder: directory of the temporary files.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)
        self._files: dict[str, tuple[IO[bytes], np.dtype[Any], tuple[int, ...]]] = {}
        self._rows: dict[str, int] = {}

    def append(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Add rows [B, ...] to every array, the same arrays in every call.

        Raises:
            ValueError: type or shape of the rows is not that of the first ones.
        """
        for name, array in arrays.items():
            if name not in self._files:
                # Unbuffered: a failed write must not be repeated when the file is closed.
                file: IO[bytes] = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115
                self._files[name] = (file, array.dtype, array.shape[1:])
                self._rows[name] = 0
            file, dtype, shape = self._files[name]
            if (array.dtype, array.shape[1:]) != (dtype, shape):
                raise ValueError(f"{name}: {array.dtype} {array.shape} after {dtype} {shape}")
            data = np.ascontiguousarray(array).data.cast("B")
            while data:
                data = data[file.write(data) :]
            self._rows[name] += len(array)

    def pack(self, path: str | os.PathLike[str]) -> None:
        """Write the ``.npz``; the temporary files are removed one by one."""
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for name in list(self._files):
                file, dtype, shape = self._files.pop(name)
                with file, archive.open(f"{name}{_SUFFIX}", "w", force_zip64=True) as member:
                    header = {
                        "descr": npy.dtype_to_descr(dtype),
                        "fortran_order": False,
                        "shape": (self._rows[name], *shape),
                    }
                    npy.write_array_header_1_0(member, header)
                    file.seek(0)
                    shutil.copyfileobj(file, member, _COPIED)

    def close(self) -> None:
        """Remove the temporary files."""
        for file, _, _ in self._files.values():
            file.close()
        self._files = {}


@contextlib.contextmanager
def atomic_npz(path: str | os.PathLike[str]) -> Iterator[NpzRowWriter]:
    """Yield a writer; the file appears under its name if the body succeeds.

    Raises:
        FunnelError: the file cannot be written.
    """
    with atomic_path(path) as temporary, contextlib.closing(NpzRowWriter(temporary.parent)) as rows:
        yield rows
        rows.pack(temporary)


class NpzRowReader:
    """Reads rows of some arrays of an ``.npz``; those that it lacks are left out.

    Args:
        path: the file.
        names: the arrays.

    Attributes:
        dtypes, shapes: type and shape by name.

    Raises:
        DataError: the file is no ``.npz``, or an array cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str], names: Sequence[str]) -> None:
        self.path = path
        with self._columns(names) as columns:
            self._names = list(columns)
            self.dtypes = {name: column.dtype for name, column in columns.items()}
            self.shapes = {name: column.shape for name, column in columns.items()}

    def batches(self, rows: int) -> Iterator[dict[str, np.ndarray]]:
        """Yield ``rows`` rows of all arrays at a time; the arrays must have equally many.

        Raises:
            DataError: the file is corrupt.
        """
        total = next(iter(self.shapes.values()))[0]
        with self._columns(self._names) as columns:
            for start in range(0, total, rows):
                count = min(rows, total - start)
                with self._name_corruption():
                    batch = {name: column.read(count) for name, column in columns.items()}
                yield batch

    @contextlib.contextmanager
    def _columns(self, names: Sequence[str]) -> Iterator[dict[str, _Column]]:
        with contextlib.ExitStack() as stack:
            with self._name_corruption():
                archive = stack.enter_context(zipfile.ZipFile(self.path))
                present = set(archive.namelist())
                columns = {}
                for name in names:
                    if name + _SUFFIX in present:
                        member = stack.enter_context(archive.open(name + _SUFFIX))
                        size = archive.getinfo(name + _SUFFIX).file_size
                        columns[name] = _Column(member, name, size, self.path)
            yield columns

    @contextlib.contextmanager
    def _name_corruption(self) -> Iterator[None]:
        try:
            yield
        except _CORRUPTION as error:
            reason = f"not a readable .npz file of arrays ({error})"
            raise DataError(f"{self.path}: {reason}") from error


class _Column:
    """One array, read from its beginning."""

    def __init__(
        self, member: IO[bytes], name: str, size: int, path: str | os.PathLike[str]
    ) -> None:
        version = npy.read_magic(member)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        self.shape, fortran_order, self.dtype = read_header(member)
        if self.dtype.hasobject:
            raise ValueError(f"{name} holds Python objects")
        if member.tell() + math.prod(self.shape) * self.dtype.itemsize != size:
            raise ValueError(f"{name} has another size than its header states")
        self._member = member
        if fortran_order and len(self.shape) > 1:
            # Its rows are scattered: such an array is held in memory.
            with np.load(path, allow_pickle=False) as arrays:
                self._member = io.BytesIO(arrays[name].tobytes())

    def read(self, rows: int) -> np.ndarray:
        """Return the next rows."""
        shape = (rows, *self.shape[1:])
        size = math.prod(shape) * self.dtype.itemsize
        data = self._member.read(size)
        if len(data) != size:
            raise EOFError("an array is shorter than its header says")
        return np.frombuffer(data, self.dtype).reshape(shape)
