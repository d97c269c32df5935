"""Which kind of checkpoint a path means, and reading and writing any of them."""

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

_SAVERS: dict[str, Callable[[Checkpoint, Path], list[str]]] = {
    "hf": save_hf,
    "pt": save_pt,
    "tf": save_tf,
}
KINDS = tuple(_SAVERS)


def detect(path: str | Path) -> tuple[str, Path]:
    """The kind (hf, pt, tf) of the checkpoint at ``path`` and the file or directory to read.

    ``path`` is a directory in the Hugging Face layout, a released PyTorch file or its directory, a
    TensorFlow prefix, one of its files, its directory, or ``DIRECTORY/latest``.

    Raises:
        CheckpointError: there is nothing there, nothing known, or more than one thing.
    """
    path = Path(path)
    if path.is_file() and path.suffix == ".safetensors":
        path = path.parent
    if path.is_file() and path.suffix in SUFFIXES:
        is_shard_of_hf = path.name.startswith("pytorch_model") and path.suffix == ".bin"
        return ("hf", path.parent) if is_shard_of_hf else ("pt", path)
    if path.is_dir():
        return _detect_in(path)
    if path.is_file() and not any(mark in path.name for mark in (".index", ".data-", ".meta")):
        raise CheckpointError(
            f"{path}: no known checkpoint; should be *.pt, *.safetensors or a TensorFlow prefix"
        )
    if not path.exists():
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
    """Read a checkpoint of any kind, detected, into canonical form.

    Every checksum, name and shape is verified. ``config_path`` replaces the config beside the
    weights. ``with_optimizer`` also reads Adam slots and ``global_step`` where there are any.

    Raises:
        CheckpointError: nothing known is there, or it is damaged, unsafe or unfit for its config.
        ConfigError: the config is missing, damaged or inconsistent.
    """
    kind, source = detect(path)
    loaders = {"hf": load_hf, "pt": load_pt, "tf": load_tf}
    return loaders[kind](source, config_path, with_optimizer)


def save_checkpoint(checkpoint: Checkpoint, path: str | Path, kind: str) -> list[str]:
    """Write ``checkpoint`` in the layout ``kind`` (hf, pt or tf), with config and vocabulary.

    Returns:
        the names that the layout has no place for. They are not lost: ``hf`` and ``pt`` keep them
        in a file beside (``funnel_extra.safetensors``, ``NAME.extra.safetensors``), which
        :func:`load_checkpoint` reads and other programs do not.

    Raises:
        CheckpointError: an unknown kind, or a tensor or label list that does not fit.
        FunnelError: the files cannot be written; what stood there is left.
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
