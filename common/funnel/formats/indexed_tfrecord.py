"""TFRecord files with random access by the number of the record."""

from __future__ import annotations

import os
import struct
import weakref
from array import array
from collections import OrderedDict
from pathlib import Path

import numpy as np

from funnel.formats.crc32c import masked_crc32c
from funnel.formats.tfrecord import read_records
from funnel.utils.errors import DataError
from funnel.utils.files import name_read_errors

_HEADER = struct.Struct("<QI")  # length of the data, its checksum
_FRAME = _HEADER.size + 4  # bytes of a record in addition to its data
_BUFFER = 1 << 20
_LOST = -1  # offset of a record that cannot be found


def count_records(path: str | os.PathLike[str]) -> int:
    """Return the number of records of a file, without reading their data.

    Raises:
        DataError: the file cannot be read or is corrupt.
    """
    offsets = _find_offsets(Path(path))
    return len(offsets) if offsets is not None else sum(1 for _ in read_records(path))


def check_count(path: str | os.PathLike[str], num_example: int, least: int = 0) -> None:
    """Check that a file holds ``num_example`` records, without reading their data.

    A file with corrupt lengths passes, unless it is too small: its records are named when they are
    read.

    Args:
        path: the file.
        num_example: number of records it should hold.
        least: smallest number of bytes of a record's data.

    Raises:
        DataError: the file cannot be read or holds another number of records.
    """
    with name_read_errors(path):
        size = os.stat(path).st_size
    if num_example * (_FRAME + least) > size:
        raise DataError(
            f"{path}: its description states {num_example} records, but its {size} bytes hold "
            "fewer; write it again"
        )
    offsets = _find_offsets(Path(path), num_example)
    if offsets is not None:
        _check_number(path, len(offsets), num_example)


def _check_number(path: str | os.PathLike[str], found: int, expected: int) -> None:
    if found != expected:
        # Counting stops after the first record too many.
        number = f"more than {expected}" if found > expected else str(found)
        raise DataError(
            f"{path}: holds {number} records, but {expected} according to its description; "
            "write it again"
        )


class IndexedRecords:
    """Random access to the records of one file, with 8 bytes of memory per record.

    Opening finds the offset of every record by following the lengths. Reads are positional
    (``pread``) and share no file position, so forked processes may use the same object.
    """

    def __init__(
        self, path: str | os.PathLike[str], num_example: int, skip_corrupt: bool = False
    ) -> None:
        """Open a file.

        Args:
            path: the file.
            num_example: number of records it should hold.
            skip_corrupt: accept corrupt record lengths; an error is raised only on access to a
                record that cannot be found because of them.

        Raises:
            DataError: the file cannot be read, holds another number of records, or corrupt
                lengths; the message names the file and the record.
        """
        self._path = Path(path)
        offsets = _find_offsets(self._path, num_example)
        if offsets is None:
            offsets = _search_offsets(self._path, num_example, skip_corrupt)
        _check_number(path, len(offsets), num_example)
        self._offsets = offsets
        with name_read_errors(self._path):
            self._handle = os.open(self._path, os.O_RDONLY)
        self._close = weakref.finalize(self, os.close, self._handle)

    def close(self) -> None:
        """Close the file, which garbage collection does too."""
        self._close()

    def read(self, index: int) -> bytes:
        """Return the data of record ``index``, its checksums verified.

        Raises:
            DataError: the record is corrupt; the message names the file and the record.
        """
        offset = int(self._offsets[index])
        if offset == _LOST:
            raise DataError(f"{self._path}, record {index}: lost among corrupt ones")
        with name_read_errors(self._path):
            header = os.pread(self._handle, _HEADER.size, offset)
            if header[8:] == _checksum(header[:8]):
                length = _HEADER.unpack(header)[0]
                data = os.pread(self._handle, length + 4, offset + _HEADER.size)
                if data[length:] == _checksum(data[:length]):
                    return data[:length]
        # Raises the error with the reason.
        return next(read_records(self._path, index, offset)).data


class OpenFiles:
    """Least-recently-used cache of at most ``limit`` open files."""

    def __init__(self, limit: int, skip_corrupt: bool = False) -> None:
        self._limit, self._skip_corrupt = limit, skip_corrupt
        self._files: OrderedDict[Path, IndexedRecords] = OrderedDict()

    def __len__(self) -> int:
        return len(self._files)

    def __reduce__(self) -> tuple[type[OpenFiles], tuple[int, bool]]:
        # Pickled without the files: another process opens its own.
        return OpenFiles, (self._limit, self._skip_corrupt)

    def get(self, path: Path, num_example: int) -> IndexedRecords:
        """Return the file, opened if it is not. See :class:`IndexedRecords`."""
        if path not in self._files:
            while len(self._files) >= self._limit:
                self._files.popitem(last=False)[1].close()
            self._files[path] = IndexedRecords(path, num_example, self._skip_corrupt)
        self._files.move_to_end(path)
        return self._files[path]


def _checksum(data: bytes) -> bytes:
    return masked_crc32c(data).to_bytes(4, "little")


def _find_offsets(path: Path, limit: int | None = None) -> np.ndarray | None:
    """Return the offset of every record, int64 [n]; None if the lengths miss the file's end.

    The search ends at record number ``limit``, if there is one: a file of zeros looks like one of
    empty records, and has as many as bytes / 16.

    Their checksums are verified when a record is read: verifying all here takes ten times as long,
    and the sum of wrong lengths practically never matches the size of the file.
    """
    offsets = array("q")
    position = 0
    with name_read_errors(path), open(path, "rb", buffering=_BUFFER) as stream:
        size = os.fstat(stream.fileno()).st_size
        while position + _FRAME <= size:
            offsets.append(position)
            if limit is not None and len(offsets) > limit:
                return np.array(offsets, np.int64)
            length = int.from_bytes(stream.read(8), "little")
            position += _FRAME + length
            if position <= size:  # a corrupt length may be beyond what seek accepts
                stream.seek(position)
    return np.array(offsets, np.int64) if position == size else None


def _search_offsets(path: Path, num_example: int, skip_corrupt: bool) -> np.ndarray:
    """Return the offsets in a file with corrupt lengths, -1 for a record that is lost."""
    with name_read_errors(path):
        most = os.stat(path).st_size // _FRAME
    if num_example > most:  # before as much memory is allocated
        raise DataError(f"{path}: has no room for the {num_example} records of its description")
    offsets = np.full(num_example, _LOST, np.int64)
    errors: list[DataError] = []
    for record in read_records(path, on_error=errors.append if skip_corrupt else None):
        if record.index >= num_example:
            break
        offsets[record.index] = record.offset
    return offsets
