"""TensorFlow checkpoints. Their names and shapes are the canonical ones, without conversion."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from funnel.checkpoints.base import (
    Checkpoint,
    as_float32,
    check_shapes,
    load_config,
    read_side_files,
    write_side_files,
)
from funnel.checkpoints.names import find_classifiers, is_optimizer_state, is_weight, shapes_for
from funnel.config.model import HF_CONFIG, NET_CONFIG
from funnel.formats.tensor_bundle import OBJECT_GRAPH, TFCheckpoint, write_tf_checkpoint
from funnel.utils.errors import CheckpointError

PREFIX = "model.ckpt"


def load_tf(
    path: Path, config_path: str | Path | None = None, with_optimizer: bool = False
) -> Checkpoint:
    """Load a TensorFlow checkpoint.

    ``path`` is resolved by :func:`funnel.formats.tensor_bundle.resolve_prefix`. Variables that are
    not the model's (e.g. the state of an input pipeline) are ignored.
    """
    reader = TFCheckpoint(path)
    names = [name for name in reader if is_weight(name)]
    if not names:
        kind = "TensorFlow 2 object-based" if OBJECT_GRAPH in reader else "no Funnel"
        raise CheckpointError(
            f"{reader.prefix}: {kind} checkpoint; the variables should be named model/… "
            f"(found {', '.join(list(reader)[:3])})"
        )
    directory = reader.prefix.parent
    config = load_config(config_path, directory, (NET_CONFIG, HF_CONFIG))
    shapes = {name: reader.entries[name].shape for name in names}
    check_shapes(shapes_for(config, shapes), shapes, reader.prefix)
    metadata = read_side_files(directory) | {"kind": "tf", "path": str(reader.prefix)}
    scopes = list(find_classifiers(shapes))
    if scopes and metadata.get("cls_scope") not in scopes:
        metadata["cls_scope"] = scopes[0]
    checkpoint = Checkpoint(config, _read(reader, names), metadata)
    if with_optimizer:
        state = [name for name in reader if is_optimizer_state(name)]
        checkpoint.optimizer = {name: reader[name] for name in state}
    return checkpoint


def save_tf(checkpoint: Checkpoint, path: Path) -> list[str]:
    """Write weights and optimizer state, with ``net_config.json``, labels and vocabulary.

    ``path`` is the prefix if it is named ``*.ckpt*``, else the directory of the prefix
    ``model.ckpt``.

    Returns:
        An empty list: the format has a place for every tensor.
    """
    prefix = path if path.suffix.startswith(".ckpt") else path / PREFIX
    directory = prefix.parent
    write_tf_checkpoint(prefix, {**checkpoint.tensors, **checkpoint.optimizer})
    checkpoint.config.save_net_config(directory / NET_CONFIG)
    write_side_files(checkpoint.metadata, directory)
    return []


def drop_pretraining(names: Mapping[str, np.ndarray]) -> list[str]:
    """Return the names that fine-tuning needs: without step, Adam slots and the generator."""
    return [
        name for name in names if not is_optimizer_state(name) and not name.startswith("generator/")
    ]


def _read(reader: TFCheckpoint, names: list[str]) -> dict[str, np.ndarray]:
    return {name: as_float32(name, reader[name], reader.prefix) for name in names}
