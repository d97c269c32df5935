"""TFRecord files read in any order, by the number of the record."""

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
_FRAME = _HEADER.size + 4  # bytes of a record beside its data
_BUFFER = 1 << 20
_LOST = -1  # offset of a record that cannot be found


def count_records(path: str | os.PathLike[str]) -> int:
    """The number of records of a file, without reading their data.

    Raises:
        DataError: the file cannot be read or is damaged.
    """
    offsets = _walk(Path(path))
    return len(offsets) if offsets is not None else sum(1 for _ in read_records(path))


class IndexedRecords:
    """One file; 8 bytes of memory a record.

    Where every record starts is found once, from the lengths that stand before each. Nothing is
    read concurrently with anyone's file position, so processes made by a fork may share this.
    """

    def __init__(
        self, path: str | os.PathLike[str], num_example: int, skip_corrupt: bool = False
    ) -> None:
        """Open a file.

        Args:
            path: the file.
            num_example: how many records it should hold.
            skip_corrupt: that record lengths are damaged is no error: only asking for a record
                which therefore cannot be found is one.

        Raises:
            DataError: the file cannot be read, holds another number of records, or damaged
                lengths; names the file and the record.
        """
        self._path = Path(path)
        offsets = _walk(self._path)
        if offsets is None:
            offsets = _search(self._path, num_example, skip_corrupt)
        if len(offsets) != num_example:
            raise DataError(
                f"{path}: it holds {len(offsets)} records, its description says {num_example}; "
                "write it again"
            )
        self._offsets = offsets
        with name_read_errors(self._path):
            self._handle = os.open(self._path, os.O_RDONLY)
        self._close = weakref.finalize(self, os.close, self._handle)

    def close(self) -> None:
        """Close the file; it also is when nothing refers to this any more."""
        self._close()

    def read(self, index: int) -> bytes:
        """The data of record ``index``, checked.

        Raises:
            DataError: the record is damaged; names the file and the record.
        """
        offset = int(self._offsets[index])
        if offset == _LOST:
            raise DataError(f"{self._path}, record {index}: lost among damaged ones")
        with name_read_errors(self._path):
            header = os.pread(self._handle, _HEADER.size, offset)
            if header[8:] == _checksum(header[:8]):
                length = _HEADER.unpack(header)[0]
                data = os.pread(self._handle, length + 4, offset + _HEADER.size)
                if data[length:] == _checksum(data[:length]):
                    return data[:length]
        # Only for the words of the error.
        return next(read_records(self._path, index, offset)).data


class OpenFiles:
    """The files in use last; opening one more closes the one that was not used for longest."""

    def __init__(self, limit: int, skip_corrupt: bool = False) -> None:
        self._limit, self._skip_corrupt = limit, skip_corrupt
        self._files: OrderedDict[Path, IndexedRecords] = OrderedDict()

    def __len__(self) -> int:
        return len(self._files)

    def __reduce__(self) -> tuple[type[OpenFiles], tuple[int, bool]]:
        # Another process opens its own: a file's handle means nothing there.
        return OpenFiles, (self._limit, self._skip_corrupt)

    def get(self, path: Path, num_example: int) -> IndexedRecords:
        """The file, opened if it is not. See :class:`IndexedRecords`."""
        if path not in self._files:
            while len(self._files) >= self._limit:
                self._files.popitem(last=False)[1].close()
            self._files[path] = IndexedRecords(path, num_example, self._skip_corrupt)
        self._files.move_to_end(path)
        return self._files[path]


def _checksum(data: bytes) -> bytes:
    return masked_crc32c(data).to_bytes(4, "little")


def _walk(path: Path) -> np.ndarray | None:
    """Where every record starts, int64 [n]; None if the lengths do not lead to the file's end.

    Lengths are believed here: a damaged one leads elsewhere, and checking all takes ten times as
    long. They are checked when the record is read.
    """
    offsets = array("q")
    position = 0
    with name_read_errors(path), open(path, "rb", buffering=_BUFFER) as stream:
        size = os.fstat(stream.fileno()).st_size
        while position + _FRAME <= size:
            offsets.append(position)
            length = int.from_bytes(stream.read(8), "little")
            position += _FRAME + length
            if position <= size:
                stream.seek(position)
    return np.frombuffer(offsets, np.int64) if position == size and offsets else None


def _search(path: Path, num_example: int, skip_corrupt: bool) -> np.ndarray:
    """As :func:`_walk`, for a file with damaged lengths: what lies behind one may be lost."""
    offsets = np.full(num_example, _LOST, np.int64)
    errors: list[DataError] = []
    for record in read_records(path, on_damage=errors.append if skip_corrupt else None):
        if record.index >= num_example:
            break
        offsets[record.index] = record.offset
    return offsets
