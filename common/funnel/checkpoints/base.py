"""The canonical checkpoint in memory, with the checks and side files common to all formats."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from funnel.checkpoints.names import Shape
from funnel.checkpoints.vocabulary import TOKENIZER_FILES, find_vocabulary, write_tokenizer
from funnel.config.limits import describe
from funnel.config.model import ModelConfig
from funnel.utils.errors import CheckpointError
from funnel.utils.files import atomic_directory, atomic_write_json, is_file
from funnel.utils.json_files import read_json_object
from funnel.utils.text import join_names

LABELS_FILE = "labels.json"
# Facts about a classifier that its weights do not hold. config.json has keys for them; next to the
# other formats they are in labels.json.
_LABEL_KEYS = ("labels", "problem_type", "cls_scope")


@dataclass
class Checkpoint:
    """A model's weights under canonical (TensorFlow) names, with its config and metadata.

    Attributes:
        config: sizes and switches of the model.
        tensors: float32 arrays by name. They may be read-only views of a memory-mapped file:
            replacing that file is safe, writing into it is not.
        metadata: any of kind (hf, pt, tf), path, architecture (a Hugging Face class name), labels
            (names in the order of ids), problem_type, cls_scope (SCOPE of ``model/SCOPE/logit``),
            vocab_path, tokenizer (one in memory, instead of that file), uncased (where the
            directory of vocab_path does not say it), left_out (prefixes of heads that were not
            loaded, each with the reason).
        optimizer: Adam slots and ``global_step``, if they were requested.
    """

    config: ModelConfig
    tensors: dict[str, np.ndarray]
    metadata: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, np.ndarray] = field(default_factory=dict)


def check_shapes(
    expected: Mapping[str, Shape], found: Mapping[str, Shape], source: str | os.PathLike[str]
) -> None:
    """Compare the tensors of a checkpoint with those that its config implies.

    Raises:
        CheckpointError: names are missing or unexpected or have another shape, all in one message.
    """
    problems = describe_mismatches(
        {
            "missing": [name for name in expected if name not in found],
            "unexpected": [name for name in found if name not in expected],
            "of another shape": [
                f"{name} {list(found[name])} should be {list(shape)}"
                for name, shape in expected.items()
                if name in found and tuple(found[name]) != tuple(shape)
            ],
        }
    )
    if problems:
        raise CheckpointError(f"{source}: the weights do not fit the model config: {problems}")


def describe_mismatches(names: Mapping[str, Sequence[str]], limit: int = 8) -> str:
    """List names by kind of problem: ``2 missing: a, b; 1 unexpected: c``. Empty without any."""
    return "; ".join(
        f"{len(found)} {kind}: {join_names(found, limit)}" for kind, found in names.items() if found
    )


def as_float32(name: str, values: np.ndarray, source: str | os.PathLike[str]) -> np.ndarray:
    """Return ``values`` in float32, without a copy if they already are.

    Raises:
        CheckpointError: they are no floating-point numbers.
    """
    if values.dtype.kind != "f":
        raise CheckpointError(f"{source}: {name} holds {values.dtype.name}, not float32")
    with np.errstate(over="ignore"):  # check_finite finds what does not fit
        return values.astype(np.float32, copy=False)


def check_finite(tensors: Iterable[tuple[str, np.ndarray]], source: str | os.PathLike[str]) -> None:
    """Refuse weights that are not numbers: NaN, infinite, or beyond float32.

    A run that diverged leaves such weights, and so can damage in a format without checksums.

    Raises:
        CheckpointError: there are some; names the tensors.
    """
    bad = [name for name, values in tensors if not _is_finite(values)]
    if bad:
        raise CheckpointError(
            f"{source}: NaN or infinite values in {join_names(bad)}: the file is corrupt, or its "
            "training diverged; use an earlier checkpoint"
        )


def _is_finite(values: np.ndarray) -> bool:
    if values.dtype.kind != "f":
        return True
    with np.errstate(all="ignore"):
        # One pass without an array of flags. A sum that overflows is looked at again.
        return bool(np.isfinite(values.sum()) or np.isfinite(values).all())


def check_facts(metadata: Mapping[str, Any], source: str | os.PathLike[str]) -> None:
    """Check the types of the facts in ``metadata`` that come from the file ``source``.

    Raises:
        CheckpointError: labels that are no list of names, or another fact that is no text.
    """
    labels = metadata.get("labels")
    if labels is not None and not (
        isinstance(labels, list) and all(isinstance(label, str) for label in labels)
    ):
        raise CheckpointError(f"{source}: labels: {describe(labels)} should be a list of names")
    for key in ("problem_type", "cls_scope"):
        if not isinstance(metadata.get(key, ""), str):
            raise CheckpointError(f"{source}: {key}: {describe(metadata[key])} should be a name")


def load_config(
    config_path: str | Path | None, directory: Path, names: Collection[str]
) -> ModelConfig:
    """Load the config at ``config_path``, or else the first of ``names`` in ``directory``."""
    if config_path:
        return ModelConfig.load(config_path)
    for name in names:
        if is_file(directory / name, CheckpointError):
            return ModelConfig.load(directory / name)
    raise CheckpointError(
        f"{directory}: no model config ({' or '.join(names)}) next to the weights; name its path"
    )


def read_side_files(directory: Path) -> dict[str, Any]:
    """Return metadata from the files next to the weights: labels and the vocabulary's path."""
    metadata: dict[str, Any] = {}
    if (directory / LABELS_FILE).is_file():
        values = read_json_object(directory / LABELS_FILE)
        metadata |= {key: values[key] for key in _LABEL_KEYS if values.get(key) is not None}
        check_facts(metadata, directory / LABELS_FILE)
    if vocabulary := find_vocabulary(directory):
        metadata["vocab_path"] = str(vocabulary)
    return metadata


def write_side_files(metadata: Mapping[str, Any], directory: Path) -> None:
    """Write ``labels.json`` and the tokenizer's files, as far as ``metadata`` has them.

    An old ``labels.json`` is deleted if ``metadata`` has nothing for it, and so are the settings of
    an old tokenizer.
    """
    values = {key: metadata[key] for key in _LABEL_KEYS if metadata.get(key) is not None}
    if values:
        atomic_write_json(directory / LABELS_FILE, values)
    else:
        (directory / LABELS_FILE).unlink(missing_ok=True)
    if not metadata.get("vocab_path") and not metadata.get("tokenizer"):
        for name in TOKENIZER_FILES:
            (directory / name).unlink(missing_ok=True)
    write_tokenizer(metadata, directory)


@contextlib.contextmanager
def staged(directory: Path, stale: Collection[str] = ()) -> Iterator[Path]:
    """Yield an empty directory whose files are moved to ``directory`` if the body succeeds.

    Other files in ``directory`` stay, except those named ``stale``. It is not touched before every
    new file is complete on disk.
    """
    if not directory.exists():
        with atomic_directory(directory) as temporary:
            yield temporary
        return
    # A directory that exists may hold other files, so it cannot be swapped: its files are replaced
    # one by one, after all are complete.
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
    """Return every setting as JSON text, for formats whose own config file lacks some."""
    return json.dumps(config.to_dict())
