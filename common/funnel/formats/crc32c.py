"""CRC-32C (Castagnoli), the checksum of TensorFlow's checkpoint and TFRecord files."""

from __future__ import annotations

import google_crc32c
import numpy as np

_MASK_DELTA = 0xA282EAD8
_PIECE = 1 << 20  # bytes per call of the checksum

Buffer = bytes | bytearray | memoryview | np.ndarray


def crc32c(data: Buffer, crc: int = 0) -> int:
    """Return the checksum of ``data``, any contiguous buffer.

    ``crc`` is the checksum of the bytes before, if ``data`` continues them.
    """
    view = data.data if isinstance(data, np.ndarray) else memoryview(data)
    if not view.nbytes:
        return crc
    view = view.cast("B")
    # The C function takes bytes only. Copying piece by piece stays within the cache, which costs
    # next to nothing, where one copy of a large tensor would double its memory.
    for start in range(0, len(view), _PIECE):
        crc = google_crc32c.extend(crc, bytes(view[start : start + _PIECE]))
    return crc


def masked_crc32c(data: Buffer) -> int:
    """Return the checksum of ``data`` in the form that files store; see :func:`mask`."""
    return mask(crc32c(data))


def mask(crc: int) -> int:
    """Rotate a checksum right by 15 bits and add a constant, as LevelDB and TFRecord store it.

    The CRC of data followed by its own CRC is a constant; masking keeps checksums meaningful for
    files that contain checksums.
    """
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF
