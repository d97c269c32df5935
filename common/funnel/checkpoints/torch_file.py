"""PyTorch files (``torch.save``) as named NumPy arrays, without executing code in their pickles.

PyTorch is imported inside the functions, so that it is needed only for files of this kind.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from funnel.checkpoints.state_dict import open_containers
from funnel.config.limits import describe, first_line
from funnel.utils.errors import CheckpointError
from funnel.utils.files import atomic_path

if TYPE_CHECKING:
    from types import ModuleType

    import torch


class _InertOptimizer:
    """Stands in for an optimizer in a pickle; it only holds the state."""

    def __setstate__(self, state: object) -> None:
        self.state = state


def _plain_dict(*_: object) -> dict[Any, Any]:
    """Stand in for ``defaultdict``, the container of an optimizer's state."""
    return {}


def load_torch_file(path: Path) -> dict[str, np.ndarray]:
    """Load the tensors of a state dict, or of a container that training code puts it in.

    Half-precision tensors become float32; other types stay. Only tensors, containers and stand-ins
    for PyTorch's optimizers are built from the file. Names are as in the file; see
    :func:`funnel.checkpoints.state_dict.strip_wrappers`.

    Raises:
        CheckpointError: PyTorch is not installed, or the file is corrupt, holds other objects or
            no named tensors, or a tensor that is not a plain array of numbers.
    """
    torch = _import_torch(path)
    state = open_containers(_load_safely(path, torch), path)
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(f"{path}: should hold named tensors, not {type(state).__name__}")
    size = path.stat().st_size
    tensors = {}
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise CheckpointError(
                f"{path}: should hold named tensors alone, but {describe(name)} is of type "
                f"{type(value).__name__}"
            )
        if problem := find_oddity(value, size):
            raise CheckpointError(
                f"{path}: {name} {problem}; save it as a plain tensor of numbers (dense, on a CPU)"
            )
        tensors[name] = _to_numpy(name, value, path)
    return tensors


def save_torch_file(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write ``tensors`` as an ordered dict of float32 PyTorch tensors, atomically."""
    torch = _import_torch(path)
    # from_numpy warns about read-only arrays, such as views of a memory-mapped file: copy those.
    state = OrderedDict(
        (name, torch.from_numpy(np.require(values, np.float32, ["C", "W"])))
        for name, values in tensors.items()
    )
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def find_oddity(value: torch.Tensor, file_size: int) -> str | None:
    """Return in which way a tensor is no plain array, None if it is one."""
    if value.is_nested:
        return "is a nested tensor"
    if str(value.layout) != "torch.strided":
        return f"is a sparse tensor (layout {value.layout})"
    if value.is_quantized:
        return f"is a quantized tensor ({value.dtype})"
    if value.device.type != "cpu":
        return f"has no values: it is on the device {value.device.type!r}"
    if value.is_conj() or value.is_complex():
        return f"holds complex numbers ({value.dtype})"
    # An expanded tensor repeats its storage, so a small file could ask for any amount of memory.
    stored = value.untyped_storage().nbytes()
    if value.numel() * value.element_size() > max(stored, file_size):
        return f"of shape {list(value.shape)} is larger than its storage of {stored} bytes"
    return None


def _to_numpy(name: str, value: torch.Tensor, path: Path) -> np.ndarray:
    value = value.detach().resolve_neg()
    try:
        return (value.float() if value.is_floating_point() else value).numpy()
    except (TypeError, RuntimeError) as error:  # a type that NumPy lacks, or a subclass
        raise CheckpointError(f"{path}: {name} holds no numbers: {first_line(error)}") from None


def _load_safely(path: Path, torch: ModuleType) -> Any:
    stand_ins = [*_optimizer_stand_ins(torch), (_plain_dict, "collections.defaultdict"), dict]
    try:
        is_zip = zipfile.is_zipfile(path)
        if is_zip:
            verify_archive(path)
        with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about kinds of tensors that are refused below
            # Files of PyTorch before 1.6 are plain pickles, which cannot be memory-mapped.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:
        # torch.load has no error class of its own: a corrupt file raises any of a dozen.
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            raise CheckpointError(
                f"{path}: not tensors only: it refers to {found.group(1)}, which is not loaded for "
                "safety; save the model's state_dict() instead"
            ) from None
        raise CheckpointError(
            f"{path}: no PyTorch file, or corrupt ({first_line(error)})"
        ) from None


def verify_archive(path: Path) -> None:
    """Check the archive's checksums, which torch.load ignores.

    Raises:
        CheckpointError: one does not match, or the archive is not one that torch.save writes.
    """
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            # PyTorch stores its entries as they are and reads them so; another program repacked it.
            if entry.compress_type != zipfile.ZIP_STORED:
                raise CheckpointError(
                    f"{path}: {describe(entry.filename)} is compressed; torch.save does not do this"
                )
        if corrupt := archive.testzip():
            raise CheckpointError(f"{path}: corrupt: the checksum of {corrupt} does not match")


def _optimizer_stand_ins(torch: ModuleType) -> list[tuple[type, str]]:
    """Map every optimizer class of PyTorch, by its full name, to the inert one."""
    classes = [value for value in vars(torch.optim).values() if isinstance(value, type)]
    return [
        (_InertOptimizer, f"{item.__module__}.{item.__qualname__}")
        for item in classes
        if issubclass(item, torch.optim.Optimizer)
    ]


def _import_torch(path: Path) -> ModuleType:
    try:
        import torch
    except ImportError:
        raise CheckpointError(
            f"{path}: a PyTorch file needs PyTorch, which is not installed: pip install torch"
        ) from None
    return torch
