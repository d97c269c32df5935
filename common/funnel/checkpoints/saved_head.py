"""What a checkpoint says about its classification heads: outputs, labels, problem type."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from funnel.checkpoints.base import Checkpoint, read_side_files
from funnel.checkpoints.io import detect, load_checkpoint
from funnel.checkpoints.names import Shape, find_classifiers
from funnel.config.heads import PROBLEM_TYPES, SavedHead
from funnel.formats.tensor_bundle import TFCheckpoint
from funnel.utils.errors import CheckpointError


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
    kind, source = detect(path)
    if kind != "tf":
        return describe_heads(load_checkpoint(path, config_path=config_path))
    entries = TFCheckpoint(source).entries
    shapes = {name: entry.shape for name, entry in entries.items()}
    return _describe(shapes, read_side_files(Path(source).parent), str(path))


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
