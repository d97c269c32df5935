"""CRC-32C (Castagnoli), the checksum of TensorFlow's checkpoint and TFRecord files.

The hardware version comes from ``google-crc32c``, some 10 GB/s. Where that has no compiled wheel,
numpy computes the same numbers at 0.4 GB/s: slower, never wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

_POLYNOMIAL = 0x82F63B78  # reflected form of 0x1EDC6F41
_ALL_ONES = 0xFFFFFFFF
_MASK_DELTA = 0xA282EAD8
_PIECE = 1 << 20  # bytes handed to one call of the checksum below
_LANE_BITS = 8  # numpy: each piece is cut into lanes of 2^8 bytes that advance together

Buffer = bytes | bytearray | memoryview | np.ndarray


def crc32c(data: Buffer, crc: int = 0) -> int:
    """Checksum of ``data`` (any contiguous buffer), continuing from ``crc`` of what came before."""
    view = memoryview(data)
    if not view.nbytes:
        return crc
    view = view.cast("B")
    extend = _extend()
    for start in range(0, len(view), _PIECE):
        crc = extend(crc, view[start : start + _PIECE])
    return crc


def masked_crc32c(data: Buffer, crc: int = 0) -> int:
    """Checksum in the form that files store, so that a checksum of checksums stays useful."""
    return mask(crc32c(data, crc))


def mask(crc: int) -> int:
    """Rotate right by 15 bits and add a constant: LevelDB's and TFRecord's stored form."""
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & _ALL_ONES


@lru_cache(maxsize=1)
def _extend() -> Callable[[int, memoryview], int]:
    try:
        import google_crc32c
    except ImportError:
        return extend_with_numpy
    if google_crc32c.implementation != "c":
        return extend_with_numpy
    # The C function takes bytes only; copying a piece that fits the cache costs next to nothing.
    return lambda crc, view: google_crc32c.extend(crc, bytes(view))


def extend_with_numpy(crc: int, view: memoryview) -> int:
    """The checksum of ``view`` (bytes) continued from ``crc``, without compiled help.

    The register is linear over GF(2) and zeros before the data leave an all-zero register alone.
    So the data is padded in front to a power of two of equal lanes, all lanes advance together two
    bytes at a time, and neighbours are folded: ``crc(a + b) = shift(crc(a), len(b)) ^ crc(b)``.
    The starting register is shifted over the whole length and added last.
    """
    data = np.frombuffer(view, np.uint8)
    lanes = 1 << max(0, (len(data) - 1).bit_length() - _LANE_BITS)
    padded = np.zeros(lanes << _LANE_BITS, np.uint8)
    padded[len(padded) - len(data) :] = data
    columns = padded.view("<u2").reshape(lanes, -1).T.astype(np.uint32, order="C")
    table, register = _word_table(), np.zeros(lanes, np.uint32)
    for column in columns:
        register = (register >> 16) ^ table[(register ^ column) & 0xFFFF]
    for level in range(_LANE_BITS, _LANE_BITS + lanes.bit_length() - 1):
        register = _shift(register[0::2], level) ^ register[1::2]
    start = np.array([crc ^ _ALL_ONES], np.uint32)
    for level in range(len(data).bit_length()):
        if len(data) >> level & 1:
            start = _shift(start, level)
    return int(register[0] ^ start[0]) ^ _ALL_ONES


@lru_cache(maxsize=1)
def _word_table() -> np.ndarray:
    """uint32 [65536]: the register after 16 steps, by its low 16 bits."""
    table = np.arange(1 << 16, dtype=np.uint32)
    for _ in range(16):
        table = (table >> 1) ^ np.where(table & 1, np.uint32(_POLYNOMIAL), np.uint32(0))
    return table


@lru_cache(maxsize=64)
def _shift_tables(level: int) -> np.ndarray:
    """uint32 [4, 256]: what each byte of a register becomes after 2^level zero bytes."""
    values = np.arange(256, dtype=np.uint32)
    tables = np.stack([values << (8 * byte) for byte in range(4)])
    if level == 0:
        return (tables >> 8) ^ _word_table()[(tables & 0xFF) << 8]
    return _shift(_shift(tables, level - 1), level - 1)


def _shift(register: np.ndarray, level: int) -> np.ndarray:
    """Every register after 2^level more zero bytes."""
    tables = _shift_tables(level)
    low = tables[0][register & 0xFF] ^ tables[1][register >> 8 & 0xFF]
    return low ^ tables[2][register >> 16 & 0xFF] ^ tables[3][register >> 24]
