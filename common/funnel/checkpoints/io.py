"""Loading and saving a checkpoint of any kind."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path

from funnel.checkpoints.base import Checkpoint, check_finite
from funnel.checkpoints.hf import load_hf, save_hf
from funnel.checkpoints.locate import detect
from funnel.checkpoints.released_pt import load_pt, save_pt
from funnel.checkpoints.tf import load_tf, save_tf
from funnel.utils.errors import CheckpointError

_LOADERS = {"hf": load_hf, "pt": load_pt, "tf": load_tf}
_SAVERS: dict[str, Callable[[Checkpoint, Path], list[str]]] = {
    "hf": save_hf,
    "pt": save_pt,
    "tf": save_tf,
}
KINDS = tuple(_SAVERS)


def load_checkpoint(
    path: str | Path, *, config_path: str | Path | None = None, with_optimizer: bool = False
) -> Checkpoint:
    """Load a checkpoint of any kind into canonical form; the kind is detected.

    Every checksum, name and shape is verified, and that the weights are finite numbers.

    Args:
        path: as in :func:`detect`.
        config_path: config file to use instead of the one next to the weights.
        with_optimizer: also read Adam slots and ``global_step``, if there are any.

    Raises:
        CheckpointError: there is no known checkpoint, or it is corrupt, unsafe or does not fit its
            config.
        ConfigError: the config is missing, corrupt or inconsistent.
    """
    kind, source = detect(path)
    checkpoint = _LOADERS[kind](source, config_path, with_optimizer)
    check_finite(chain(checkpoint.tensors.items(), checkpoint.optimizer.items()), source)
    return checkpoint


def save_checkpoint(checkpoint: Checkpoint, path: str | Path, kind: str) -> list[str]:
    """Write ``checkpoint`` in the layout ``kind`` (hf, pt or tf), with config and vocabulary.

    Returns:
        Names of the tensors that the layout has no place for. With ``hf`` and ``pt`` they are in a
        separate file (``funnel_extra.safetensors``, ``NAME.extra.safetensors``), which
        :func:`load_checkpoint` reads and other programs ignore.

    Raises:
        CheckpointError: an unknown kind, or a tensor or label list that does not fit.
        FunnelError: the files cannot be written; the previous ones are unchanged.
    """
    if kind not in _SAVERS:
        raise CheckpointError(f"checkpoint kind {kind!r} should be one of {', '.join(KINDS)}")
    return _SAVERS[kind](checkpoint, Path(path))
