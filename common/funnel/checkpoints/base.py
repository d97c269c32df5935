"""The canonical checkpoint in memory, and the checks and side files that all formats share."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from funnel.checkpoints.names import Shape
from funnel.config.model import ModelConfig
from funnel.utils.errors import CheckpointError
from funnel.utils.files import atomic_directory, atomic_path, atomic_write_json
from funnel.utils.json_files import read_json_object

LABELS_FILE = "labels.json"
# What a classifier's weights do not say; config.json has room for it, labels.json has it elsewhere.
_LABEL_KEYS = ("labels", "problem_type", "cls_scope")
_VOCABULARIES = ("vocab.txt", "vocab.uncased.txt", "vocab.cased.txt", "spiece.model")
_SHOWN = 8  # names in an error message


@dataclass
class Checkpoint:
    """A model's weights under canonical (TensorFlow) names, with what is needed to use them.

    ``tensors`` are float32 and may be read-only views of a mapped file: replacing that file by
    another is fine, writing into it is not. ``metadata`` may hold: kind (hf,
    pt, tf), path, architecture (a Hugging Face class name), labels (list of names in the order of
    ids), problem_type, cls_scope (the middle of ``model/SCOPE/logit``), vocab_path, uncased.
    ``optimizer`` holds Adam slots and ``global_step`` if they were asked for.
    """

    config: ModelConfig
    tensors: dict[str, np.ndarray]
    metadata: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, np.ndarray] = field(default_factory=dict)


def check_shapes(
    expected: Mapping[str, Shape], found: Mapping[str, Shape], source: str | os.PathLike[str]
) -> None:
    """Compare what a checkpoint holds with what its config asks for.

    Raises:
        CheckpointError: names are missing or unexpected or have another shape, all in one message.
    """
    problems = [
        _listed("missing", [name for name in expected if name not in found]),
        _listed("unexpected", [name for name in found if name not in expected]),
        _listed(
            "of another shape",
            [
                f"{name} {list(found[name])} should be {list(shape)}"
                for name, shape in expected.items()
                if name in found and tuple(found[name]) != tuple(shape)
            ],
        ),
    ]
    if any(problems):
        told = "; ".join(filter(None, problems))
        raise CheckpointError(f"{source}: the weights do not fit the model config: {told}")


def _listed(what: str, names: list[str]) -> str:
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{more}" if names else ""


def as_float32(name: str, values: np.ndarray, source: str | os.PathLike[str]) -> np.ndarray:
    """``values`` in float32, the same array if it is already.

    Raises:
        CheckpointError: it holds no floating-point numbers.
    """
    if values.dtype.kind != "f":
        raise CheckpointError(f"{source}: {name} holds {values.dtype.name}, not float32")
    return values.astype(np.float32, copy=False)


def load_config(
    config_path: str | Path | None, directory: Path, names: Collection[str]
) -> ModelConfig:
    """The config at ``config_path``, or else the first of ``names`` that ``directory`` holds."""
    if config_path:
        return ModelConfig.load(config_path)
    for name in names:
        if (directory / name).is_file():
            return ModelConfig.load(directory / name)
    raise CheckpointError(
        f"{directory}: no model config ({' or '.join(names)}) beside the weights; name its path"
    )


def read_side_files(directory: Path) -> dict[str, Any]:
    """Metadata from the files beside the weights: labels and the vocabulary's path."""
    metadata: dict[str, Any] = {}
    if (directory / LABELS_FILE).is_file():
        values = read_json_object(directory / LABELS_FILE)
        metadata |= {key: values[key] for key in _LABEL_KEYS if values.get(key) is not None}
    if vocabulary := find_vocabulary(directory):
        metadata["vocab_path"] = str(vocabulary)
    return metadata


def write_labels(metadata: Mapping[str, Any], directory: Path) -> None:
    """Write ``labels.json`` for the formats whose config has no place for it, if there is need."""
    values = {key: metadata[key] for key in _LABEL_KEYS if metadata.get(key) is not None}
    if values:
        atomic_write_json(directory / LABELS_FILE, values)
    else:
        (directory / LABELS_FILE).unlink(missing_ok=True)


def find_vocabulary(directory: Path) -> Path | None:
    """The vocabulary in a directory: a usual name, or the only ``vocab*.txt`` or ``*.model``."""
    for name in _VOCABULARIES:
        if (directory / name).is_file():
            return directory / name
    others = [*directory.glob("vocab*.txt"), *directory.glob("*.model")]
    return others[0] if len(others) == 1 else None


def copy_vocabulary(metadata: Mapping[str, Any], directory: Path, name: str | None = None) -> None:
    """Copy the vocabulary that ``metadata`` names into ``directory``, as ``name`` if given.

    Raises:
        CheckpointError: it is not there any more.
    """
    if not metadata.get("vocab_path"):
        return
    source = Path(metadata["vocab_path"])
    if not source.is_file():
        raise CheckpointError(f"{source}: the vocabulary to copy beside the weights is missing")
    target = directory / (name or source.name)
    if target.exists() and target.samefile(source):
        return
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


@contextlib.contextmanager
def staged(directory: Path, stale: Collection[str] = ()) -> Iterator[Path]:
    """Yield an empty directory; once the body succeeds its files are moved to ``directory``.

    Other files in ``directory`` stay, but for those named ``stale``. Nothing there is touched
    before every new file is complete on disk.
    """
    if not directory.exists():
        with atomic_directory(directory) as temporary:
            yield temporary
        return
    incoming = directory / ".incoming"
    with atomic_directory(incoming) as temporary:
        yield temporary
    written = {path.name for path in incoming.iterdir()}
    for name in set(stale) - written:
        (directory / name).unlink(missing_ok=True)
    for name in sorted(written):
        os.replace(incoming / name, directory / name)
    incoming.rmdir()


def encode_config(config: ModelConfig) -> str:
    """Every setting as JSON text, for a file that stands beside a config that lacks some."""
    return json.dumps(config.to_dict())
