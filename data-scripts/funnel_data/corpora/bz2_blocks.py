"""Read a bzip2 file from any place in it.

A bzip2 file is a chain of blocks of at most 900 kB of data, each compressed by itself. A block
starts at any bit, with 48 bits that mark it; the end of a stream has a mark of its own. A block cut
out at its marks and given the ends of a file is a file, so several processes can share one file,
and one can go on in its middle, whether or not it was written as "multistream".

Compressed data holds a mark by chance once in 2^48 bits: in one of a thousand files of 30 GB. Such
a file is reported as damaged; unpack it first.
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
    """Map the five whole bytes in the middle of a mark to (bits before them, mark)."""
    return {
        ((mark >> (_MARK_BITS - 40 - before)) & ((1 << 40) - 1)).to_bytes(5, "big"): (before, mark)
        for mark in (_BLOCK, _END)
        for before in range(8)
    }


_MIDDLES = _middle_bytes()
_ANY_MIDDLE = re.compile(b"|".join(map(re.escape, _MIDDLES)))


def read_blocks(path: str | os.PathLike[str], start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield (position, unpacked data) of every block that begins in byte ``start`` or later.

    Raises:
        DataError: a block is damaged, or the file is cut off; names the file and the byte.
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
                    yield base + bit // 8, _unpack(data, bit, following, f"{path}: byte {base}")
            kept = marks[-1][0] // 8 if marks else max(0, len(data) - 8)
            data, base = data[kept:], base + kept
            if len(data) > _LONGEST_BLOCK + _READ:
                raise DataError(f"{path}: damaged near byte {base}; `bzip2 -t` tells more")
        if any(mark == _BLOCK for _, mark in _find_marks(data)):
            raise DataError(f"{path}: the file is cut off; fetch or copy it again")


def check_end(path: str | os.PathLike[str]) -> None:
    """Check in no time that a file ends as bzip2 files do.

    Raises:
        DataError: it does not: it is cut off, or something follows.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as stream:
        stream.seek(-min(32, os.path.getsize(path)), os.SEEK_END)
        data = stream.read()
    left = [8 * len(data) - bit - _MARK_BITS for bit, mark in _find_marks(data) if mark == _END]
    if not left or not _CRC_BITS <= left[-1] < _CRC_BITS + 8:
        raise DataError(f"{path}: the file is cut off; fetch or copy it again")


def _find_marks(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield (bit, mark) of every mark that stands in the data as a whole."""
    for match in _ANY_MIDDLE.finditer(data):
        before, mark = _MIDDLES[match[0]]
        bit = 8 * match.start() - before
        if bit >= 0 and _bits(data, bit, bit + _MARK_BITS) == mark:
            yield bit, mark


def _bits(data: bytes, start: int, stop: int) -> int:
    """Bits ``start`` to ``stop`` of the data as a number; -1 if it has fewer."""
    first, last = start // 8, (stop + 7) // 8
    if last > len(data):
        return -1
    number = int.from_bytes(data[first:last], "big") >> (8 * last - stop)
    return number & ((1 << (stop - start)) - 1)


def _unpack(data: bytes, start: int, stop: int, where: str) -> bytes:
    """Unpack the block between two bits, by making a file of it."""
    block = _bits(data, start, stop)
    checksum = (block >> (stop - start - _MARK_BITS - _CRC_BITS)) & ((1 << _CRC_BITS) - 1)
    # The checksum of a stream of one block is that of the block.
    stream = (((block << _MARK_BITS) | _END) << _CRC_BITS) | checksum
    bits = stop - start + _MARK_BITS + _CRC_BITS
    size = (bits + 7) // 8
    packed = (stream << (8 * size - bits)).to_bytes(size, "big")
    try:
        return bz2.decompress(SIGNATURE + b"9" + packed)
    except (OSError, ValueError) as error:
        raise DataError(f"{where}: damaged hereabouts; `bzip2 -t` tells more") from error
