"""What a checkpoint says about its heads for labels: outputs, labels, problem type, decoder."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from funnel.checkpoints.base import Checkpoint, read_side_files
from funnel.checkpoints.io import detect, load_checkpoint
from funnel.checkpoints.names import TOKEN_LOGITS, Shape, find_classifiers
from funnel.config.heads import PROBLEM_TYPES, SavedHead
from funnel.config.model import ModelConfig
from funnel.formats.tensor_bundle import TFCheckpoint
from funnel.utils.errors import CheckpointError

DECODER = "model/decoder/"
NEW_DECODER = "2"  # layers of the decoder of the published models


def describe_heads(checkpoint: Checkpoint) -> dict[str, SavedHead]:
    """Return the classification heads of a checkpoint by SCOPE of ``model/SCOPE/logit``.

    Raises:
        CheckpointError: its labels or its problem type are malformed.
    """
    shapes = {name: values.shape for name, values in checkpoint.tensors.items()}
    metadata = checkpoint.metadata
    return _describe(shapes, metadata, str(metadata.get("path", "checkpoint")))


def read_heads(path: str | Path, config_path: str | Path | None = None) -> dict[str, SavedHead]:
    """Return the heads of the checkpoint at ``path``; of TensorFlow's, no weights are read.

    Raises:
        CheckpointError: there is no checkpoint, or it is corrupt.
    """
    return _describe(*_read_facts(path, config_path), str(path))


def describe_tagger(checkpoint: Checkpoint) -> SavedHead | None:
    """Return the token-classification head of a checkpoint; None without one.

    Raises:
        CheckpointError: its labels are malformed.
    """
    shapes = {name: values.shape for name, values in checkpoint.tensors.items()}
    metadata = checkpoint.metadata
    return _describe_tagger(shapes, metadata, str(metadata.get("path", "checkpoint")))


def read_tagger(path: str | Path, config_path: str | Path | None = None) -> SavedHead | None:
    """Return the token-classification head at ``path``; of TensorFlow's, no weights are read.

    Raises:
        CheckpointError: there is no checkpoint, or it is corrupt.
    """
    return _describe_tagger(*_read_facts(path, config_path), str(path))


def read_names(path: str | Path, config_path: str | Path | None = None) -> Collection[str]:
    """Return the names of the variables at ``path``; of TensorFlow's, no weights are read.

    Raises:
        CheckpointError: there is no checkpoint, or it is corrupt.
    """
    return _read_facts(path, config_path)[0]


def _read_facts(
    path: str | Path, config_path: str | Path | None
) -> tuple[Mapping[str, Shape], Mapping[str, Any]]:
    """Return the shapes of the variables by name, and the metadata."""
    kind, source = detect(path)
    if kind != "tf":
        checkpoint = load_checkpoint(path, config_path=config_path)
        shapes = {name: values.shape for name, values in checkpoint.tensors.items()}
        return shapes, checkpoint.metadata
    entries = TFCheckpoint(source).entries
    shapes = {name: entry.shape for name, entry in entries.items()}
    return shapes, read_side_files(Path(source).parent)


def _describe_tagger(
    shapes: Mapping[str, Shape], metadata: Mapping[str, Any], where: str
) -> SavedHead | None:
    shape = shapes.get(f"{TOKEN_LOGITS}/bias")
    if shape is None:
        return None
    # With a classifier in the same checkpoint, the labels are that head's.
    labels = None if find_classifiers(shapes) else metadata.get("labels")
    if labels is not None and not _is_list_of_text(labels):
        raise CheckpointError(f"{where}: labels: should be a list of names")
    return SavedHead(where, shape[-1], None if labels is None else tuple(labels))


def _describe(
    shapes: Mapping[str, Shape], metadata: Mapping[str, Any], where: str
) -> dict[str, SavedHead]:
    scopes = find_classifiers(shapes)
    described = metadata.get("cls_scope") or next(iter(scopes), None)
    heads = {scope: SavedHead(where, count) for scope, count in scopes.items()}
    if isinstance(described, str) and described in heads:
        labels, kind = metadata.get("labels"), metadata.get("problem_type")
        if labels is not None and not _is_list_of_text(labels):
            raise CheckpointError(f"{where}: labels: should be a list of names")
        if kind is not None and kind not in PROBLEM_TYPES:
            allowed = ", ".join(PROBLEM_TYPES)
            raise CheckpointError(f"{where}: problem_type: {kind!r} is none of {allowed}")
        names = None if labels is None else tuple(labels)
        heads[described] = SavedHead(where, scopes[described], names, kind)
    return heads


def _is_list_of_text(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def has_decoder(config: ModelConfig, names: Collection[str]) -> bool:
    """Return whether a checkpoint has all that a head on every token reads.

    A model of one block needs no decoder, and one that already is a token classifier has all.
    """
    if len(config.blocks) == 1 or f"{TOKEN_LOGITS}/kernel" in names:
        return True
    return any(name.startswith(DECODER) for name in names)


def require_decoder(config: ModelConfig, names: Collection[str], where: str) -> None:
    """Refuse a checkpoint without decoder.

    Raises:
        CheckpointError: says which released files have one.
    """
    if not has_decoder(config, names):
        raise CheckpointError(
            f"{where}: has no decoder, which tags are predicted from: the released TensorFlow "
            "checkpoints (-TF and -FULL-TF) have one, the PyTorch ones (-PT) do not; "
            "--random_decoder trains a new one"
        )
