"""Detecting the kind of a checkpoint, and loading and saving any kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from funnel.checkpoints.base import Checkpoint
from funnel.checkpoints.hf import load_hf, save_hf, weight_files
from funnel.checkpoints.released_pt import SUFFIXES, load_pt, save_pt
from funnel.checkpoints.tf import load_tf, save_tf
from funnel.config.model import HF_CONFIG
from funnel.formats.tensor_bundle import STATE_FILE, resolve_prefix
from funnel.utils.errors import CheckpointError
from funnel.utils.files import recover_swap

_LOADERS = {"hf": load_hf, "pt": load_pt, "tf": load_tf}
_SAVERS: dict[str, Callable[[Checkpoint, Path], list[str]]] = {
    "hf": save_hf,
    "pt": save_pt,
    "tf": save_tf,
}
KINDS = tuple(_SAVERS)


def detect(path: str | Path) -> tuple[str, Path]:
    """Return the kind (hf, pt, tf) of the checkpoint at ``path`` and the file or directory to read.

    ``path`` is a directory in the Hugging Face layout, a released PyTorch file or its directory, a
    TensorFlow prefix, one of its files, its directory, or ``DIRECTORY/latest``.

    Raises:
        CheckpointError: there is no checkpoint, none of a known kind, or more than one.
    """
    path = Path(path)
    if path.is_file() and path.suffix == ".safetensors":
        path = path.parent
    if path.is_file() and path.suffix in SUFFIXES:
        # .bin is ambiguous: transformers' name tells its files from others.
        is_shard_of_hf = path.name.startswith("pytorch_model") and path.suffix == ".bin"
        return ("hf", path.parent) if is_shard_of_hf else ("pt", path)
    if path.is_dir():
        return _detect_in(path)
    if path.is_file() and not any(mark in path.name for mark in (".index", ".data-", ".meta")):
        raise CheckpointError(
            f"{path}: no known checkpoint; should be *.pt, *.safetensors or a TensorFlow prefix"
        )
    if not path.exists():
        # A kill during an atomic replacement may have left the directory under another name.
        recover_swap(path)
        if path.is_dir():
            return _detect_in(path)
    try:
        return "tf", resolve_prefix(path)
    except CheckpointError:
        if path.parent.is_dir() and path.name.endswith("latest"):
            raise
        raise CheckpointError(
            f"{path}: no checkpoint there: neither a directory, nor a *.pt or *.safetensors file, "
            "nor the prefix of a TensorFlow *.index file"
        ) from None


def load_checkpoint(
    path: str | Path, *, config_path: str | Path | None = None, with_optimizer: bool = False
) -> Checkpoint:
    """Load a checkpoint of any kind into canonical form; the kind is detected.

    Every checksum, name and shape is verified.

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
    return _LOADERS[kind](source, config_path, with_optimizer)


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


def _detect_in(directory: Path) -> tuple[str, Path]:
    if (directory / HF_CONFIG).is_file() and weight_files(directory):
        return "hf", directory
    released = [path for path in sorted(directory.iterdir()) if path.suffix in (".pt", ".pth")]
    has_tf = (directory / STATE_FILE).is_file() or any(directory.glob("*.index"))
    if len(released) == 1 and not has_tf:
        return "pt", released[0]
    if has_tf and not released:
        return "tf", resolve_prefix(directory)
    if not released:
        raise CheckpointError(
            f"{directory}: holds no checkpoint: neither {HF_CONFIG} with model.safetensors, "
            "nor a *.pt file, nor a TensorFlow *.index file"
        )
    names = ", ".join(path.name for path in released)
    tf = " and a TensorFlow checkpoint" if has_tf else ""
    raise CheckpointError(f"{directory}: holds several checkpoints ({names}{tf}); name one of them")
