"""Weight files of a directory in the Hugging Face layout: single, in shards, and the extra file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from funnel.checkpoints.safetensors_file import read_safetensors
from funnel.checkpoints.torch_file import load_torch_file
from funnel.config.limits import describe
from funnel.config.model import HF_CONFIG
from funnel.utils.errors import CheckpointError
from funnel.utils.files import is_file
from funnel.utils.json_files import read_json_object
from funnel.utils.text import join_names

SAFETENSORS = ".safetensors"
WEIGHTS, EXTRA = "model.safetensors", "funnel_extra.safetensors"
TORCH_WEIGHTS = "pytorch_model.bin"
INDEX_SUFFIX = ".index.json"
METADATA_KEY = "funnel_checkpoint"  # key of config.json for metadata it has no other key for
EXTRA_KEY = "extra_weights"  # its key that names EXTRA, if the directory has that file
_THEIR_VERSION = "transformers_version"  # key of every config.json that transformers writes
_SHOWN_NAME = 80


def weight_files(directory: Path) -> dict[Path, list[str]]:
    """Return the weight files of a directory, safetensors before PyTorch's; may be empty.

    With each file come the names of the tensors that an index of shards says are in it.

    Raises:
        CheckpointError: an index is corrupt or names a file that does not exist.
    """
    for name in (WEIGHTS, TORCH_WEIGHTS):
        if is_file(directory / name, CheckpointError):
            return {directory / name: []}
        index = directory / (name + INDEX_SUFFIX)
        if is_file(index, CheckpointError):
            return _shards(index)
    return {}


def read_weights(directory: Path) -> dict[str, np.ndarray]:
    """Return the tensors of all weight files of a directory under the names in the files.

    Raises:
        CheckpointError: a file is corrupt or lacks a tensor of the index, or two files have a
            tensor of the same name.
    """
    tensors: dict[str, np.ndarray] = {}
    for path, names in weight_files(directory).items():
        found = read_file(path)
        if twice := sorted(found.keys() & tensors.keys()):
            raise CheckpointError(f"{path}: {twice[0]} is in another file of {directory} too")
        if lost := [name for name in names if name not in found]:
            raise CheckpointError(f"{path}: lacks {join_names(lost)}, which the index lists for it")
        tensors |= found
    return tensors


def read_file(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of one file, safetensors or PyTorch's, under the names in it."""
    return read_safetensors(path)[0] if path.suffix == SAFETENSORS else load_torch_file(path)


def read_extra(path: Path, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the tensors of the extra file; refuse a directory that has lost its own.

    A directory that transformers has written again keeps the key but never had the file.
    """
    if is_file(path, CheckpointError):
        return read_safetensors(path)[0]
    ours = values.get(METADATA_KEY)
    if isinstance(ours, Mapping) and ours.get(EXTRA_KEY) and _THEIR_VERSION not in values:
        raise CheckpointError(
            f"{path}: missing, but {HF_CONFIG} lists it: heads or the decoder are in it; copy it "
            f"too (to do without these weights, remove {EXTRA_KEY} from {HF_CONFIG})"
        )
    return {}


def _shards(index: Path) -> dict[Path, list[str]]:
    mapping = read_json_object(index).get("weight_map")
    if not isinstance(mapping, dict) or not all(isinstance(v, str) for v in mapping.values()):
        raise CheckpointError(f"{index}: weight_map: should map each tensor to a file")
    files: dict[Path, list[str]] = {}
    for tensor, name in sorted(mapping.items(), key=lambda item: item[1]):
        path = index.parent / name
        if path not in files and (Path(name).name != name or not is_file(path, CheckpointError)):
            shown = name if len(name) <= _SHOWN_NAME and name.isprintable() else describe(name)
            raise CheckpointError(f"{index}: names {shown}, which is not in the same directory")
        files.setdefault(path, []).append(tensor)
    return files
