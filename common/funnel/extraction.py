"""Input and output files of ``extract_features.py``, which both trees have."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from funnel.errors import DataError
from funnel.features import encode_examples, pad_batch
from funnel.files import atomic_path
from funnel.tasks import Example
from funnel.tokenization import Tokenizer

_NAMES = ("input_ids", "token_type_ids", "attention_mask")


@dataclass(frozen=True)
class ModelInputs:
    """A batch as ``extract_features.py`` reads it: int64 [B, T] each, the last two optional."""

    input_ids: np.ndarray
    token_type_ids: np.ndarray | None = None
    attention_mask: np.ndarray | None = None

    def rows(self, start: int, stop: int) -> dict[str, np.ndarray | None]:
        """Rows ``start`` to ``stop`` of everything, as arguments by name."""
        arrays = {name: getattr(self, name) for name in _NAMES}
        return {k: None if v is None else v[start:stop] for k, v in arrays.items()}

    def to_dict(self) -> dict[str, np.ndarray]:
        """The arrays that are there, by name."""
        return {name: array for name, array in self.rows(0, len(self.input_ids)).items()
                if array is not None}


def read_ids(path: str | Path, vocab_size: int) -> ModelInputs:
    """Read an ``.npz`` with ``input_ids`` and optionally the other two arrays.

    Raises:
        DataError: not such a file, arrays of different shapes, ids outside the vocabulary.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in _NAMES if name in file}
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError) as error:
        raise DataError(f"{path}: is no readable .npz file of arrays ({error})") from error
    if "input_ids" not in arrays:
        raise DataError(f"{path}: holds no array input_ids [B, T]")
    shape = arrays["input_ids"].shape
    for name, array in arrays.items():
        if array.ndim != 2 or array.shape != shape or array.dtype.kind not in "iub":
            raise DataError(
                f"{path}: {name} is {array.dtype} {list(array.shape)}; it should hold whole "
                f"numbers in the shape of input_ids, [B, T]"
            )
    if 0 in shape:
        raise DataError(f"{path}: input_ids is empty")
    ranges = {"input_ids": vocab_size, "token_type_ids": 3, "attention_mask": 2}
    for name, array in arrays.items():
        if array.min() < 0 or array.max() >= ranges[name]:
            raise DataError(f"{path}: {name} should hold numbers from 0 to {ranges[name] - 1}")
    return ModelInputs(**{name: array.astype(np.int64) for name, array in arrays.items()})


def read_text(path: str | Path, tokenizer: Tokenizer, max_length: int) -> ModelInputs:
    """Encode a text file: a sequence per line, a tab between the two texts of a pair.

    Raises:
        DataError: the file is missing, not UTF-8 or empty.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    lines = lines[:-1] if lines and not lines[-1] else lines
    if not lines:
        raise DataError(f"{path}: is empty; it should hold one text per line")
    parts = (line.partition("\t") for line in lines)
    examples = [Example(a, b if tab else None, None) for a, tab, b in parts]
    features = encode_examples(examples, tokenizer, max_length)
    rows = np.arange(len(features))
    batch = pad_batch(features, rows, int(features.lengths.max()), tokenizer.special.pad_id)
    return ModelInputs(**{name: np.asarray(batch[name], np.int64) for name in _NAMES})


def write_arrays(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an ``.npz``, whole or not at all."""
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, **arrays)
