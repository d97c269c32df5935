"""safetensors files with what the format lacks: a checksum of every tensor, kept in its metadata.

A file that carries checksums is verified on reading; others are read as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.numpy import save_file

from funnel.formats.crc32c import crc32c
from funnel.formats.tensor_bundle import bfloat16_to_float32
from funnel.utils.errors import CheckpointError
from funnel.utils.files import atomic_path

_CHECKSUMS = "crc32c"  # metadata key: a JSON object of tensor names and hexadecimal checksums


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors of a file and its metadata; bfloat16, which numpy lacks, as float32.

    Raises:
        CheckpointError: the file cannot be read, is no safetensors file or is damaged.
    """
    try:
        with safe_open(path, "np") as file:
            metadata = dict(file.metadata() or {})
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
            plain = [name for name, kind in kinds.items() if kind != "BF16"]
            tensors = {name: file.get_tensor(name) for name in plain}
        if len(plain) < len(kinds):
            tensors |= _read_bfloat16(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (SafetensorError, TypeError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: damaged, truncated or no safetensors: {reason}") from None
    _verify(path, tensors, metadata.pop(_CHECKSUMS, None))
    return tensors, metadata


def write_safetensors(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write ``tensors`` of any memory layout and text ``metadata``; whole or not at all."""
    dense = {name: np.asarray(values, order="C") for name, values in tensors.items()}
    checksums = {name: _checksum(values) for name, values in dense.items()}
    notes = {**(metadata or {}), _CHECKSUMS: json.dumps(checksums, separators=(",", ":"))}
    with atomic_path(path) as temporary:
        temporary.touch()
        usual_mode = temporary.stat().st_mode
        save_file(dense, temporary, notes)
        temporary.chmod(usual_mode)  # the library leaves a file that only its owner can read
        _sort_metadata(temporary)


def _sort_metadata(path: Path) -> None:
    """Give the header's metadata one order: the library writes them in a random one.

    The same model then always makes the same bytes.
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
    except (ValueError, TypeError):
        raise CheckpointError(f"{path}: damaged: its checksums cannot be read") from None
    if expected.keys() != tensors.keys():
        raise CheckpointError(f"{path}: damaged: names of tensors and of checksums differ")
    for name, values in tensors.items():
        if expected[name] != _checksum(np.asarray(values, order="C")):
            raise CheckpointError(f"{path}: damaged: the checksum of {name} does not match")
