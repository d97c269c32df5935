"""Finding a checkpoint: the kind at a path, and where to get one that is not there."""

from __future__ import annotations

import os
import re
from pathlib import Path

from funnel.checkpoints.hf_files import EXTRA, INDEX_SUFFIX, SAFETENSORS, weight_files
from funnel.checkpoints.released_pt import SUFFIXES
from funnel.config import hub
from funnel.config.limits import describe
from funnel.config.model import HF_CONFIG, find_config
from funnel.formats.tensor_bundle import STATE_FILE, resolve_prefix
from funnel.utils.errors import CheckpointError
from funnel.utils.files import is_file, recover_swap
from funnel.utils.text import join_names

# The original saves the model of a run in model.pt and its optimizer in var.pt.
_RELEASED_NAMES = ("model.pt", "model.ckpt.pt")
_OPTIMIZER_FILE = "var.pt"
_RELEASE = re.compile(r"(B\d+-[\dx-]+H\d+)-ELEC-(PT|TF|FULL-TF)")
_WEIGHTS_PATTERNS = ("*.pt", "*.pth", "*.bin", "*.safetensors", "*.index")
_LONGEST_NAME, _LONGEST_PATH = 255, 4000  # bytes and characters, of every common file system
_RUN_PARTS = ("best", "last")  # directories of a PyTorch run that hold its models


def detect(path: str | Path) -> tuple[str, Path]:
    """Return the kind (hf, pt, tf) of the checkpoint at ``path`` and the file or directory to read.

    ``path`` is a directory in the Hugging Face layout, a PyTorch or safetensors file or its
    directory, a TensorFlow prefix, one of its files, its directory, or ``DIRECTORY/latest``. A
    single file of kind pt may hold Hugging Face's names too. The name of a model on the Hugging
    Face hub, ``NAME/NAME`` or ``NAME/NAME@REVISION``, is downloaded to the hub's cache.

    Raises:
        CheckpointError: there is no checkpoint, none of a known kind, or more than one.
    """
    path = Path(path)
    longest = max(len(part.encode("utf-8", "replace")) for part in (*path.parts, "."))
    if longest > _LONGEST_NAME or len(str(path)) > _LONGEST_PATH:
        raise CheckpointError(f"{describe(str(path))}: does not exist: the name is too long")
    if is_file(path, CheckpointError):
        return _detect_file(path)
    if os.path.isdir(path):
        return _detect_in(path)
    # A kill during an atomic replacement may have left the directory under another name.
    recover_swap(path)
    if os.path.isdir(path):
        return _detect_in(path)
    if _RELEASE.fullmatch(path.name) is None and (name := hub.parse_name(path)) is not None:
        return _detect_in(hub.fetch(name))
    try:
        return "tf", resolve_prefix(path)
    except CheckpointError:
        if path.parent.is_dir() and path.name.endswith("latest"):
            raise
        raise CheckpointError(_describe_missing(path)) from None


def require_checkpoint(path: str | None, config_path: str | None = "") -> None:
    """Check that there is a checkpoint, and a model config, at the paths that are given.

    Programs call this before they read anything else, so that a wrong path is what is reported.

    Raises:
        FunnelError: one of them does not exist.
    """
    if path:
        detect(path)
    if config_path:
        find_config(Path(config_path))


def _detect_file(path: Path) -> tuple[str, Path]:
    is_loaded = path.suffix in (SAFETENSORS, ".bin") and path in weight_files(path.parent)
    # Of two formats in a directory only one is loaded: the other file is then a single one.
    if is_loaded or path.name == EXTRA or path.name.endswith(INDEX_SUFFIX):
        return "hf", path.parent
    if path.suffix == SAFETENSORS or path.suffix in SUFFIXES:
        return "pt", path
    if not any(mark in path.name for mark in (".index", ".data-", ".meta")):
        raise CheckpointError(
            f"{path}: no known checkpoint; should be *.pt, *.safetensors or a TensorFlow prefix"
        )
    return "tf", resolve_prefix(path)


def _detect_in(directory: Path) -> tuple[str, Path]:
    if is_file(directory / HF_CONFIG, CheckpointError) and weight_files(directory):
        return "hf", directory
    released = [path for path in sorted(directory.iterdir()) if path.suffix in (".pt", ".pth")]
    names = [path.name for path in released]
    if set(names) & set(_RELEASED_NAMES) and _OPTIMIZER_FILE in names:
        released.pop(names.index(_OPTIMIZER_FILE))
    has_tf = is_file(directory / STATE_FILE) or any(directory.glob("*.index"))
    if len(released) == 1 and not has_tf:
        return "pt", released[0]
    if has_tf and not released:
        return "tf", resolve_prefix(directory)
    if not released:
        parts = [part for part in _RUN_PARTS if (directory / part / HF_CONFIG).exists()]
        hint = "".join(f"; {directory / part} does" for part in parts[:1])
        raise CheckpointError(
            f"{directory}: holds no checkpoint: neither {HF_CONFIG} with model.safetensors, "
            f"nor a *.pt file, nor a TensorFlow *.index file{hint}"
        )
    listed = ", ".join(path.name for path in released)
    tf = " and a TensorFlow checkpoint" if has_tf else ""
    raise CheckpointError(
        f"{directory}: holds several checkpoints ({listed}{tf}); name one of them"
    )


def _describe_missing(path: Path) -> str:
    """Return the message for a path that does not exist, with where to find what was meant."""
    parent = path.parent
    for folder in (path, *path.parents):
        release = _RELEASE.fullmatch(folder.name)
        if release is None or os.path.isdir(folder):
            continue
        size, form = release.groups()
        command = f"bash download_all_ckpts.sh --sizes {size} --formats {form}"
        return f"{path}: does not exist; `{command}` downloads this released checkpoint into ckpts"
    message = (
        f"{path}: no checkpoint there: neither a directory, nor a *.pt or *.safetensors file, "
        "nor the prefix of a TensorFlow *.index file: the path does not exist"
    )
    if not os.path.isdir(parent):
        return f"{message} (nor does {parent})"
    if any(parent.glob(f"{_escape(path.name)}.data-*")):
        return f"{path}: incomplete TensorFlow checkpoint: {path.name}.index does not exist"
    found = sorted(file for pattern in _WEIGHTS_PATTERNS for file in parent.glob(pattern))
    names = [file.name.removesuffix(".index") for file in found]
    return f"{message}; in that directory: {join_names(names, 4)}" if names else message


def _escape(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)
