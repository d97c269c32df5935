"""safetensors files with a CRC-32C of every tensor in their metadata.

The format itself has no checksums. A file that has them is verified when read; files of other
programs are read without verification.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.numpy import save_file

from funnel.config.limits import first_line
from funnel.formats.crc32c import crc32c
from funnel.formats.tensor_bundle import bfloat16_to_float32
from funnel.utils.errors import CheckpointError
from funnel.utils.files import atomic_path

_CHECKSUMS = "crc32c"  # metadata key: a JSON object of tensor names and hexadecimal checksums
# Quantized weights (F8_E4M3, F6_E2M3, F4), which NumPy and our formats lack; F64 is none.
_SMALL_FLOATS = ("F8_", "F6_", "F4")


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the tensors of a file and its metadata; bfloat16, which NumPy lacks, as float32.

    Raises:
        CheckpointError: the file cannot be read, is corrupt or no safetensors file.
    """
    try:
        with safe_open(path, "np") as file:
            metadata = dict(file.metadata() or {})
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
            for name, kind in kinds.items():
                if kind.startswith(_SMALL_FLOATS):
                    raise CheckpointError(
                        f"{path}: {name} holds {kind}, numbers of at most 8 bits, which are not "
                        "read; save it as float32, float16 or bfloat16"
                    )
            plain = [name for name, kind in kinds.items() if kind != "BF16"]
            tensors = {name: file.get_tensor(name) for name in plain}
        if len(plain) < len(kinds):
            tensors |= _read_bfloat16(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (SafetensorError, TypeError, ValueError, KeyError) as error:
        reason = first_line(error)
        raise CheckpointError(f"{path}: corrupt, truncated or no safetensors: {reason}") from None
    _verify(path, tensors, metadata.pop(_CHECKSUMS, None))
    return tensors, metadata


def write_safetensors(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write ``tensors`` of any memory layout and text ``metadata`` atomically."""
    dense = {name: np.asarray(values, order="C") for name, values in tensors.items()}
    checksums = {name: _checksum(values) for name, values in dense.items()}
    notes = {**(metadata or {}), _CHECKSUMS: json.dumps(checksums, separators=(",", ":"))}
    with atomic_path(path) as temporary:
        temporary.touch()
        usual_mode = temporary.stat().st_mode
        save_file(dense, temporary, notes)
        temporary.chmod(usual_mode)  # the library makes files that only their owner can read
        _sort_metadata(temporary)


def _sort_metadata(path: Path) -> None:
    """Sort the metadata in the header, which the library writes in random order.

    The same weights then always give the same bytes, so files of two runs can be compared.
    """
    with path.open("r+b") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        stream.seek(8)
        stream.write(text.ljust(size))


def _read_bfloat16(path: Path) -> dict[str, np.ndarray]:
    found = {}
    for name, info in deserialize(path.read_bytes()):
        if info["dtype"] == "BF16":
            bits = np.frombuffer(info["data"], "<u2")
            found[name] = bfloat16_to_float32(bits).reshape(info["shape"])
    return found


def _checksum(values: np.ndarray) -> str:
    return f"{crc32c(values.reshape(-1).view(np.uint8)):08x}"


def _verify(path: Path, tensors: Mapping[str, np.ndarray], checksums: str | None) -> None:
    if checksums is None:
        return
    try:
        expected = dict(json.loads(checksums))
    except (ValueError, TypeError, RecursionError):
        raise CheckpointError(f"{path}: corrupt: its checksums cannot be read") from None
    if expected.keys() != tensors.keys():
        raise CheckpointError(f"{path}: corrupt: names of tensors and of checksums differ")
    for name, values in tensors.items():
        if expected[name] != _checksum(np.asarray(values, order="C")):
            raise CheckpointError(f"{path}: corrupt: the checksum of {name} does not match")
