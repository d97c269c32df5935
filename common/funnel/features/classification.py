"""Classification examples as token ids in flat ragged arrays, cached on disk.

Sequences (Devlin et al. 2019, section 3; segment ids as in the Funnel-Transformer release):
``[CLS] a [SEP]`` or ``[CLS] a [SEP] b [SEP]``, with segment id 2 on [CLS], 0 on a and its [SEP],
1 on b and its [SEP]. Padding is added per batch, so memory does not depend on the longest example.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from funnel.config.inputs import SegmentIds
from funnel.tasks.base import Example, Task
from funnel.utils.errors import ConfigError
from funnel.utils.files import atomic_path, atomic_write_json, name_read_errors, sha256_file
from funnel.utils.text import truncate_pair

if TYPE_CHECKING:
    from funnel.tokenization import Tokenizer

logger = logging.getLogger(__name__)

_FORMAT_VERSION = 1  # increment when the same inputs give other arrays: caches are then rebuilt
_CHUNK = 4096  # examples tokenized at a time, to bound the memory of Python lists


@dataclass(frozen=True)
class Features:
    """n encoded examples without padding.

    Attributes:
        input_ids: int32 [total], the concatenated sequences.
        segment_ids: int8 [total].
        offsets: int64 [n + 1]; sequence i is ``input_ids[offsets[i]:offsets[i + 1]]``.
        labels: int64 [n] class ids, float32 [n] for regression, or ``None``.
    """

    input_ids: np.ndarray
    segment_ids: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each example, int64 [n]."""
        return np.diff(self.offsets)

    def row(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Return ``(input_ids, segment_ids)`` of example ``i`` (views, one dimension)."""
        if not 0 <= i < len(self):
            raise IndexError(f"example {i} of {len(self)}")
        part = slice(self.offsets[i], self.offsets[i + 1])
        return self.input_ids[part], self.segment_ids[part]


def encode_examples(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    max_length: int,
    segments: SegmentIds = SegmentIds(),
) -> Features:
    """Encode ``examples`` with at most ``max_length`` tokens each, special tokens included.

    A single text keeps its first ``max_length - 2`` tokens; of a pair, the longer text loses one
    token at a time (b on a tie). Labels are ``None`` if any example lacks one.

    Raises:
        ConfigError: ``max_length`` leaves no room for text.
    """
    if max_length < 3:
        raise ConfigError(f"max_length {max_length}: at least 3 tokens are needed for a sequence")
    ids: list[np.ndarray] = [np.empty(0, np.int32)]
    segment_ids: list[np.ndarray] = [np.empty(0, np.int8)]
    lengths: list[np.ndarray] = [np.empty(0, np.int64)]
    for start in range(0, len(examples), _CHUNK):
        part = _encode_chunk(examples[start : start + _CHUNK], tokenizer, max_length, segments)
        ids.append(part[0])
        segment_ids.append(part[1])
        lengths.append(part[2])
    offsets = np.zeros(len(examples) + 1, np.int64)
    np.cumsum(np.concatenate(lengths), out=offsets[1:])
    return Features(
        np.concatenate(ids), np.concatenate(segment_ids), offsets, _label_array(examples)
    )


def _encode_chunk(
    examples: Sequence[Example], tokenizer: Tokenizer, max_length: int, segments: SegmentIds
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return concatenated ids and segment ids of ``examples``, and the n lengths."""
    cls_id, sep_id = tokenizer.special.cls_id, tokenizer.special.sep_id
    firsts = tokenizer.encode_batch([example.text_a for example in examples])
    seconds = iter(tokenizer.encode_batch([e.text_b for e in examples if e.text_b is not None]))
    flat: list[int] = []
    counts = np.zeros((len(examples), 3), np.int64)  # of [CLS], a + [SEP], b + [SEP]
    counts[:, 0] = 1
    for index, (example, first) in enumerate(zip(examples, firsts, strict=True)):
        flat.append(cls_id)
        if example.text_b is None:
            kept = first[: max_length - 2]
            flat += kept
            flat.append(sep_id)
            counts[index, 1] = len(kept) + 1
            continue
        second = next(seconds)
        keep_a, keep_b = truncate_pair(len(first), len(second), max_length - 3)
        flat += first[:keep_a]
        flat.append(sep_id)
        flat += second[:keep_b]
        flat.append(sep_id)
        counts[index, 1:] = keep_a + 1, keep_b + 1
    kinds = np.array([segments.cls, segments.a, segments.b], np.int8)
    segment_ids = np.repeat(np.tile(kinds, len(examples)), counts.ravel())
    return np.array(flat, np.int32), segment_ids, counts.sum(axis=1)


def _label_array(examples: Sequence[Example]) -> np.ndarray | None:
    labels = [example.label for example in examples]
    if not labels or any(label is None for label in labels):
        return None
    dtype = np.float32 if any(isinstance(label, float) for label in labels) else np.int64
    return np.array(labels, dtype)


def pad_batch(
    features: Features,
    indices: Sequence[int] | np.ndarray,
    length: int,
    pad_id: int,
    segment_pad: int = 0,
) -> dict[str, np.ndarray]:
    """Return the examples ``indices`` (B of them) padded on the right to ``length`` = L.

    Returns:
        ``input_ids``, ``attention_mask`` (1 = real token) and ``token_type_ids``, int64 [B, L], and
        ``labels`` [B] if the features have labels.

    Raises:
        ValueError: an example is longer than ``length``.
    """
    indices = np.asarray(indices, np.int64)
    starts = features.offsets[indices]
    lengths = features.offsets[indices + 1] - starts
    if len(indices) and lengths.max() > length:
        raise ValueError(f"an example has {lengths.max()} tokens, more than the length {length}")
    real = np.arange(length) < lengths[:, None]
    input_ids = np.full(real.shape, pad_id, np.int64)
    token_type_ids = np.full(real.shape, segment_pad, np.int64)
    sources = (starts[:, None] + np.arange(length))[real]
    input_ids[real] = features.input_ids[sources]
    token_type_ids[real] = features.segment_ids[sources]
    batch = {
        "input_ids": input_ids,
        "attention_mask": real.astype(np.int64),
        "token_type_ids": token_type_ids,
    }
    if features.labels is not None:
        batch["labels"] = features.labels[indices]
    return batch


def load_or_build(
    cache_dir: str | os.PathLike[str] | None,
    task: Task,
    split: str,
    data_dir: str | os.PathLike[str],
    tokenizer: Tokenizer,
    max_length: int,
    overwrite: bool = False,
    segments: SegmentIds = SegmentIds(),
) -> Features:
    """Return the features of a split, from a cache in ``cache_dir`` if it matches.

    The cache is ``<task>.<split>.len-<max_length>.npz`` with a ``.json`` of everything the arrays
    depend on. It is rebuilt when the data, labels, tokenizer, lengths or segment ids changed, or
    when a file is corrupt. Without ``cache_dir`` nothing is written. The task's labels must be
    resolved.

    Raises:
        DataError: the data is missing or malformed (see :meth:`funnel.tasks.base.Task.load`).
        FunnelError: the cache cannot be written.
    """
    if not cache_dir:
        return encode_examples(task.load(data_dir, split), tokenizer, max_length, segments)
    arrays = Path(cache_dir) / f"{task.name}.{split}.len-{max_length}.npz"
    key = {
        "version": _FORMAT_VERSION,
        **source_key(task, split, data_dir),
        "tokenizer_sha256": tokenizer.fingerprint,
        "max_length": max_length,
        "segments": asdict(segments),
    }
    if not overwrite and (cached := _read_cache(arrays, key)) is not None:
        return cached
    features = encode_examples(task.load(data_dir, split), tokenizer, max_length, segments)
    _write_cache(arrays, key, features)
    return features


def source_key(task: Task, split: str, data_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """Return everything that determines the examples of a split, as JSON values.

    The task's labels must be resolved.

    Raises:
        DataError: the data is missing.
    """
    return {
        "task": task.name,
        "split": split,
        "definition": _describe_source(task, split),
        "data_sha256": _hash_data(task.input_files(data_dir, split)),
    }


def _describe_source(task: Task, split: str) -> dict[str, Any]:
    """Return everything in a task's definition that determines its examples."""
    source = asdict(task.sources[split])
    del source["names"]  # the file is identified by its content
    return {
        "labels": task.labels and list(task.labels),
        "is_regression": task.is_regression,
        "skipped_labels": list(task.skipped_labels),
        "clean": task.clean,
        "source": source,
    }


def _hash_data(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        # A single file is identified by its content alone, so it can be moved or renamed.
        name = "" if len(files) == 1 else f"{file.parent.name}/{file.name}"
        with name_read_errors(file):
            digest.update(f"{name}\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()


def _hash_key(key: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def _write_cache(arrays: Path, key: dict[str, Any], features: Features) -> None:
    """Write both files atomically; a hash in the arrays file detects a pair of two runs."""
    members: dict[str, Any] = {  # numpy 2's own type of savez does not take arrays by name
        "input_ids": features.input_ids,
        "segment_ids": features.segment_ids,
        "offsets": features.offsets,
        "key": np.array(_hash_key(key)),
    }
    if features.labels is not None:
        members["labels"] = features.labels
    with atomic_path(arrays) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **members)
    atomic_write_json(arrays.with_suffix(".json"), key)


def _read_cache(arrays: Path, key: dict[str, Any]) -> Features | None:
    """Return the cached features, or ``None`` (with the reason in the log) if unusable."""
    key_file = arrays.with_suffix(".json")
    if not (arrays.exists() and key_file.exists()):
        return None
    try:
        stored = json.loads(key_file.read_text(encoding="utf-8"))
        if not isinstance(stored, dict):
            raise ValueError("not a JSON object")
        if changed := [name for name in key if stored.get(name) != key[name]]:
            logger.info("%s: rebuilt because of a different %s", arrays, ", ".join(changed))
            return None
        with np.load(arrays, allow_pickle=False) as members:
            if str(members["key"]) != _hash_key(key):
                raise ValueError(f"does not belong to {key_file.name}")
            features = Features(
                members["input_ids"],
                members["segment_ids"],
                members["offsets"],
                members.get("labels"),
            )
        _check_arrays(features)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        logger.warning("%s: corrupt cache is rebuilt (%s)", arrays, error)
        return None
    return features


def _check_arrays(features: Features) -> None:
    ids, segment_ids, offsets = features.input_ids, features.segment_ids, features.offsets
    is_consistent = (
        (ids.dtype, segment_ids.dtype, offsets.dtype) == (np.int32, np.int8, np.int64)
        and ids.ndim == offsets.ndim == 1
        and ids.shape == segment_ids.shape
        and len(offsets) > 0
        and offsets[0] == 0
        and offsets[-1] == len(ids)
        and bool((np.diff(offsets) > 0).all())
        and (features.labels is None or features.labels.shape == (len(features),))
    )
    if not is_consistent:
        raise ValueError("arrays are inconsistent")
