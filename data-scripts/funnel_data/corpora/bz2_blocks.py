"""Read a bzip2 file from any position.

A bzip2 file is a sequence of independently compressed blocks of at most 900 kB of data. A block
starts at any bit (not byte) with a 48-bit mark; the end of a stream has another mark. A block with
the header and the end of a stream around it is a valid bzip2 file of its own. So several processes
can share one file, and reading can start in its middle, whether or not the file was written as
"multistream".

A mark occurs in compressed data by chance once in 2^48 bits, that is in one of a thousand files of
30 GB. Such a file is reported as corrupt and has to be decompressed first.
"""

from __future__ import annotations

import bz2
import os
import re
from collections.abc import Iterator
from itertools import pairwise

from funnel.utils.errors import DataError

SIGNATURE = b"BZh"
_BLOCK, _END = 0x314159265359, 0x177245385090
_MARK_BITS, _CRC_BITS = 48, 32
_READ = 1 << 20
_LONGEST_BLOCK = 2 << 20  # bytes between two marks; the format allows a little over 900 kB


def _middle_bytes() -> dict[bytes, tuple[int, int]]:
    """Map the five complete bytes within a mark, for each bit offset, to (bits before them, mark).

    A mark of 6 bytes that starts at any bit covers at least 5 complete bytes, which a byte-wise
    search finds fast.
    """
    return {
        ((mark >> (_MARK_BITS - 40 - before)) & ((1 << 40) - 1)).to_bytes(5, "big"): (before, mark)
        for mark in (_BLOCK, _END)
        for before in range(8)
    }


_MIDDLES = _middle_bytes()
_ANY_MIDDLE = re.compile(b"|".join(map(re.escape, _MIDDLES)))


def read_blocks(path: str | os.PathLike[str], start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield (position, decompressed data) of every block that begins in byte ``start`` or later.

    Raises:
        DataError: a block is corrupt, or the file is truncated; names the file and the byte.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as stream:
        stream.seek(start)
        data, base = b"", start
        while piece := stream.read(_READ):
            data += piece
            marks = list(_find_marks(data))
            for (bit, mark), (following, _) in pairwise(marks):
                if mark == _BLOCK:
                    yield base + bit // 8, _decompress(data, bit, following, f"{path}: byte {base}")
            kept = marks[-1][0] // 8 if marks else max(0, len(data) - 8)
            data, base = data[kept:], base + kept
            if len(data) > _LONGEST_BLOCK + _READ:
                raise DataError(f"{path}: corrupt near byte {base}; `bzip2 -t` gives details")
        if any(mark == _BLOCK for _, mark in _find_marks(data)):
            raise DataError(f"{path}: the file is truncated; download or copy it again")


def check_end(path: str | os.PathLike[str]) -> None:
    """Check that a file ends with the end mark and the checksum of a bzip2 stream.

    Raises:
        DataError: the file is truncated, or other data follows.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as stream:
        stream.seek(-min(32, os.path.getsize(path)), os.SEEK_END)
        data = stream.read()
    left = [8 * len(data) - bit - _MARK_BITS for bit, mark in _find_marks(data) if mark == _END]
    if not left or not _CRC_BITS <= left[-1] < _CRC_BITS + 8:
        raise DataError(f"{path}: the file is truncated; download or copy it again")


def _find_marks(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield (bit, mark) of every complete mark in the data."""
    for match in _ANY_MIDDLE.finditer(data):
        before, mark = _MIDDLES[match[0]]
        bit = 8 * match.start() - before
        if bit >= 0 and _bits(data, bit, bit + _MARK_BITS) == mark:
            yield bit, mark


def _bits(data: bytes, start: int, stop: int) -> int:
    """Return bits ``start`` to ``stop`` of the data as a number, -1 if it has fewer."""
    first, last = start // 8, (stop + 7) // 8
    if last > len(data):
        return -1
    number = int.from_bytes(data[first:last], "big") >> (8 * last - stop)
    return number & ((1 << (stop - start)) - 1)


def _decompress(data: bytes, start: int, stop: int, where: str) -> bytes:
    """Decompress the block between two bits, as a bzip2 file of one block."""
    block = _bits(data, start, stop)
    checksum = (block >> (stop - start - _MARK_BITS - _CRC_BITS)) & ((1 << _CRC_BITS) - 1)
    # The checksum of a stream of one block is that of the block.
    stream = (((block << _MARK_BITS) | _END) << _CRC_BITS) | checksum
    bits = stop - start + _MARK_BITS + _CRC_BITS
    size = (bits + 7) // 8
    compressed = (stream << (8 * size - bits)).to_bytes(size, "big")
    try:
        return bz2.decompress(SIGNATURE + b"9" + compressed)
    except (OSError, ValueError) as error:
        raise DataError(f"{where}: corrupt block; `bzip2 -t` gives details") from error
