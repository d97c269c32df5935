"""Input and output files of ``extract_features.py``, for both backends."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import trange

from funnel.checkpoints import Checkpoint
from funnel.checkpoints.names import BINARY_OUTPUT, SUMMARY
from funnel.features.classification import encode_examples, pad_batch
from funnel.tasks import Example
from funnel.tokenization import Tokenizer, get_tokenizer
from funnel.utils.errors import ConfigError, DataError
from funnel.utils.files import atomic_path

_NAMES = ("input_ids", "token_type_ids", "attention_mask")


class ModelParts(NamedTuple):
    """Outputs that a checkpoint has weights for, apart from the encoder's hidden states."""

    decoder: bool
    summary: bool
    discriminator: bool


@dataclass(frozen=True)
class TextSource:
    """A text file and its tokenizer; ``vocabulary`` None uses the file next to the weights."""

    path: str
    tokenizer_type: str = "word_piece"
    vocabulary: str | None = None
    uncased: bool = True
    max_length: int = 512


@dataclass(frozen=True)
class ModelInputs:
    """Model inputs, int64 [B, T] each; the last two are optional."""

    input_ids: np.ndarray
    token_type_ids: np.ndarray | None = None
    attention_mask: np.ndarray | None = None

    def rows(self, start: int, stop: int) -> dict[str, np.ndarray | None]:
        """Return rows ``start`` to ``stop`` of every array, as keyword arguments."""
        arrays = {name: getattr(self, name) for name in _NAMES}
        return {k: None if v is None else v[start:stop] for k, v in arrays.items()}

    def to_dict(self) -> dict[str, np.ndarray]:
        """Return the arrays that are not ``None``, by name."""
        return {
            name: array
            for name, array in self.rows(0, len(self.input_ids)).items()
            if array is not None
        }


def detect_parts(checkpoint: Checkpoint) -> ModelParts:
    """Return which parts a checkpoint has weights for."""
    tensors, config = checkpoint.tensors, checkpoint.config
    layers = any(name.startswith("model/decoder/") for name in tensors)
    # Without decoder layers, several blocks still have the up-sampled residual sum.
    only_sum = config.decoder is None and len(config.blocks) > 1
    summary = f"{SUMMARY}/kernel" in tensors
    return ModelParts(layers or only_sum, summary, f"{BINARY_OUTPUT}/weight" in tensors)


def config_changes(
    checkpoint: Checkpoint, attn_type: str | None, truncate_seq: bool | None
) -> dict[str, Any]:
    """Return the changes of a checkpoint's config by run-time flags; ``None`` keeps a value.

    Raises:
        ConfigError: an attention form is given for a model without relative attention.
    """
    if checkpoint.config.rel_attn_type == "null" and attn_type:
        raise ConfigError("--attn_type: this model has no relative attention (rel_attn_type null)")
    changes = {"rel_attn_type": attn_type, "truncate_seq": truncate_seq}
    return {key: value for key, value in changes.items() if value is not None}


def load_inputs(checkpoint: Checkpoint, ids: str | None, text: TextSource) -> ModelInputs:
    """Return the model inputs from the file ``ids`` or, without one, from a text.

    Raises:
        ConfigError: no vocabulary, or one that does not fit the model.
        DataError: the file is missing or malformed.
    """
    if ids:
        return read_ids(ids, checkpoint.config.vocab_size)
    vocabulary = text.vocabulary or checkpoint.metadata.get("vocab_path")
    if not vocabulary:
        path = checkpoint.metadata.get("path")
        raise ConfigError(f"{path}: no vocabulary next to the weights; set --tokenizer_path")
    tokenizer = get_tokenizer(text.tokenizer_type, vocabulary, uncased=text.uncased)
    if tokenizer.vocab_size > checkpoint.config.vocab_size:
        raise ConfigError(
            f"{vocabulary}: {tokenizer.vocab_size} tokens do not fit the model's vocab_size "
            f"{checkpoint.config.vocab_size}"
        )
    return read_text(text.path, tokenizer, text.max_length)


def extract_batches(
    extract: Callable[..., dict[str, np.ndarray]], inputs: ModelInputs, batch_size: int
) -> dict[str, np.ndarray]:
    """Call ``extract`` on ``batch_size`` sequences at a time and concatenate its outputs."""
    starts = trange(0, len(inputs.input_ids), batch_size, disable=None, desc="batches")
    parts = [extract(**inputs.rows(start, start + batch_size)) for start in starts]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def read_ids(path: str | Path, vocab_size: int) -> ModelInputs:
    """Read an ``.npz`` with ``input_ids`` and optionally the other two arrays.

    Raises:
        DataError: no such file, arrays of different shapes, or ids outside the vocabulary.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in _NAMES if name in file}
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError) as error:
        raise DataError(f"{path}: not a readable .npz file of arrays ({error})") from error
    if "input_ids" not in arrays:
        raise DataError(f"{path}: holds no array input_ids [B, T]")
    shape = arrays["input_ids"].shape
    for name, array in arrays.items():
        if array.ndim != 2 or array.shape != shape or array.dtype.kind not in "iub":
            raise DataError(
                f"{path}: {name} is {array.dtype} {list(array.shape)}; it should hold integers "
                "in the shape of input_ids, [B, T]"
            )
    if 0 in shape:
        raise DataError(f"{path}: input_ids is empty")
    ranges = {"input_ids": vocab_size, "token_type_ids": 3, "attention_mask": 2}
    for name, array in arrays.items():
        if array.min() < 0 or array.max() >= ranges[name]:
            raise DataError(f"{path}: {name} should hold numbers from 0 to {ranges[name] - 1}")
    return ModelInputs(**{name: array.astype(np.int64) for name, array in arrays.items()})


def read_text(path: str | Path, tokenizer: Tokenizer, max_length: int) -> ModelInputs:
    """Encode a text file with one sequence per line, a tab between the texts of a pair.

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
    """Write an ``.npz`` file atomically."""
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        members: dict[str, Any] = dict(arrays)  # numpy 2's type of savez takes no arrays by name
        np.savez(stream, **members)
