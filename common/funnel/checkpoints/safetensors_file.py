"""safetensors files: eight bytes of header length, a JSON header, the raw numbers.

Read by hand rather than with the ``safetensors`` package because that cannot give bfloat16 to numpy
and would copy every tensor; here a tensor is a view of the mapped file. The format, which is at
https://huggingface.co/docs/safetensors, has no checksum: files written here carry one in their
metadata, and reading verifies it where there is one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from funnel.crc32c import crc32c
from funnel.errors import CheckpointError
from funnel.files import atomic_path
from funnel.tf_checkpoint import bfloat16_to_float32

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "?"}
_DTYPES |= {f"{sign.upper()}{8 * size}": f"<{sign}{size}" for sign in "iu" for size in (1, 2, 4, 8)}
_CODES = {np.dtype(dtype): code for code, dtype in _DTYPES.items() if code != "BF16"}
_METADATA = "__metadata__"
_CHECKSUM = "crc32c"  # of all bytes after the header, in eight hexadecimal digits
_MAX_HEADER = 100_000_000  # the format's own limit


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors of a file, as read-only views of it, and its metadata; bfloat16 as float32.

    Raises:
        CheckpointError: the file cannot be read, is no safetensors file or is damaged.
    """
    try:
        size = path.stat().st_size
        data = np.memmap(path, np.uint8, "r").view(np.ndarray) if size else np.empty(0, np.uint8)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
    header, start = _read_header(path, data)
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{path}: damaged: {_METADATA} should be an object")
    tensors = {name: _tensor(path, name, info, data[start:]) for name, info in header.items()}
    used = sum(info["data_offsets"][1] - info["data_offsets"][0] for info in header.values())
    if used != size - start:
        raise CheckpointError(
            f"{path}: damaged or truncated: {size - start} bytes of numbers, its header says {used}"
        )
    if metadata.pop(_CHECKSUM, None) not in (None, f"{crc32c(data[start:]):08x}"):
        raise CheckpointError(f"{path}: damaged: the checksum of its numbers does not match")
    return tensors, metadata


def write_safetensors(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write ``tensors`` of any memory layout and text ``metadata``; whole or not at all."""
    header: dict[str, Any] = {_METADATA: {**(metadata or {}), _CHECKSUM: "0" * 8}}
    # Wide types first, so that every tensor stands at a multiple of its item size.
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    offset = 0
    for name in names:
        values = tensors[name]
        place = [offset, offset + values.nbytes]
        code = _CODES[values.dtype.newbyteorder("<")]
        header[name] = {"dtype": code, "shape": list(values.shape), "data_offsets": place}
        offset = place[1]
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        stream.write(_header_bytes(header))
        checksum = 0
        for name in names:
            values = np.ascontiguousarray(tensors[name], tensors[name].dtype.newbyteorder("<"))
            checksum = crc32c(values, checksum)
            stream.write(memoryview(values).cast("B") if values.size else b"")
        header[_METADATA][_CHECKSUM] = f"{checksum:08x}"
        stream.seek(0)
        stream.write(_header_bytes(header))


def _header_bytes(header: dict[str, Any]) -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _read_header(path: Path, data: np.ndarray) -> tuple[dict[str, Any], int]:
    """The header and where the numbers start."""
    length = int.from_bytes(data[:8].tobytes(), "little")
    if len(data) < 8 or not 0 < length <= min(_MAX_HEADER, len(data) - 8):
        raise CheckpointError(f"{path}: no safetensors file, or truncated ({len(data)} bytes)")
    try:
        header = json.loads(data[8 : 8 + length].tobytes())
    except (ValueError, RecursionError):
        raise CheckpointError(
            f"{path}: no safetensors file, or damaged: its header is not JSON"
        ) from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: no safetensors file: its header is no JSON object")
    return header, 8 + length


def _tensor(path: Path, name: str, info: Any, data: np.ndarray) -> np.ndarray:
    try:
        dtype, shape, (start, end) = info["dtype"], tuple(info["shape"]), info["data_offsets"]
        wanted = np.dtype(_DTYPES[dtype]).itemsize * math.prod(shape)
        fits = all(type(number) is int and number >= 0 for number in (start, end, *shape))
        fits = fits and start <= end <= len(data) and end - start == wanted
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"{path}: damaged: the header entry of {name} is wrong") from None
    if not fits:
        raise CheckpointError(f"{path}: damaged or truncated: the place of {name} does not fit")
    values = data[start:end].view(_DTYPES[dtype])
    values = values if values.flags.aligned else values.copy()
    return (bfloat16_to_float32(values) if dtype == "BF16" else values).reshape(shape)
