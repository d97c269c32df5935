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
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from funnel.config.inputs import SegmentIds
from funnel.tasks.base import Example, LoadedSplit, Task
from funnel.tasks.example_list import ExampleList
from funnel.utils.errors import ConfigError, DataError
from funnel.utils.files import atomic_path, atomic_write_json, name_read_errors, sha256_file
from funnel.utils.json_files import read_json_object
from funnel.utils.npz import read_npz
from funnel.utils.scratch import ScratchArray
from funnel.utils.split_report import NO_TEXTS, SplitReport, TextCounts, count_texts
from funnel.utils.text import truncate_pair

if TYPE_CHECKING:
    from funnel.tokenization import Tokenizer

logger = logging.getLogger(__name__)

_FORMAT_VERSION = 2  # increment when the same inputs give other arrays: caches are then rebuilt
_CHUNK = 512  # examples tokenized at a time, to bound the memory of Python lists


@dataclass(frozen=True)
class Features:
    """n encoded examples without padding.

    Attributes:
        input_ids: int32 [total], the concatenated sequences.
        segment_ids: int8 [total].
        offsets: int64 [n + 1]; sequence i is ``input_ids[offsets[i]:offsets[i + 1]]``.
        labels: int64 [n] class ids, float32 [n] for regression, float32 [n, L] of 0 and 1 where
            several labels can hold, or ``None``.
        texts: counts of truncated texts and unknown tokens.
        files: temporary files that hold the arrays, if they are large.
    """

    input_ids: np.ndarray
    segment_ids: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray | None
    texts: TextCounts = NO_TEXTS
    files: tuple[ScratchArray, ...] = ()

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each example, int64 [n]."""
        return np.diff(self.offsets)

    def release(self) -> None:
        """Let the system take back the memory of what was read."""
        for file in self.files:
            file.release()

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
    folder = tempfile.gettempdir()
    ids, segment_ids = ScratchArray(folder, np.int32), ScratchArray(folder, np.int8)
    lengths: list[np.ndarray] = [np.empty(0, np.int64)]
    texts = TextCounts(limit=max_length)
    for start in range(0, len(examples), _CHUNK):
        part = _encode_chunk(examples[start : start + _CHUNK], tokenizer, max_length, segments)
        ids.append(part[0])
        segment_ids.append(part[1])
        lengths.append(part[2])
        texts += part[3]
    offsets = np.zeros(len(examples) + 1, np.int64)
    np.cumsum(np.concatenate(lengths), out=offsets[1:])
    files, labels = (ids, segment_ids), _label_array(examples)
    return Features(ids.read(), segment_ids.read(), offsets, labels, texts, files)


def _encode_chunk(
    examples: Sequence[Example], tokenizer: Tokenizer, max_length: int, segments: SegmentIds
) -> tuple[np.ndarray, np.ndarray, np.ndarray, TextCounts]:
    """Return concatenated ids and segment ids of ``examples``, the n lengths, and counts."""
    cls_id, sep_id = tokenizer.special.cls_id, tokenizer.special.sep_id
    firsts = tokenizer.encode_batch([example.text_a for example in examples])
    others = tokenizer.encode_batch([e.text_b for e in examples if e.text_b is not None])
    seconds = iter(others)
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
    lengths = counts.sum(axis=1)
    texts = _count_texts(examples, firsts, others, max_length, tokenizer.special.unk_id)
    return np.array(flat, np.int32), segment_ids, lengths, texts


def _count_texts(
    examples: Sequence[Example],
    firsts: Sequence[list[int]],
    others: Sequence[list[int]],
    max_length: int,
    unk_id: int,
) -> TextCounts:
    """Return the counts of the token ids of first texts, and of second texts where there are."""
    seconds = iter(others)
    sizes = [
        # [CLS], and [SEP] after each text.
        len(first) + 2 if example.text_b is None else len(first) + len(next(seconds)) + 3
        for example, first in zip(examples, firsts, strict=True)
    ]
    every = (*firsts, *others)
    tokens, unknown = sum(map(len, every)), sum(ids.count(unk_id) for ids in every)
    return count_texts(sizes, max_length, tokens=tokens, unknown=unknown)


def _label_array(examples: Sequence[Example]) -> np.ndarray | None:
    if isinstance(examples, ExampleList):
        labels = examples.labels
    else:
        labels = [example.label for example in examples]
    if not labels or any(label is None for label in labels):
        return None
    is_float = any(isinstance(label, float | tuple) for label in labels)
    dtype = np.float32 if is_float else np.int64
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
    features.release()
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
    depend on and of the counts that are logged. It is rebuilt when the data, labels, tokenizer,
    lengths or segment ids changed, or when a file is corrupt. Without ``cache_dir`` nothing is
    written. The task's labels must be resolved.

    Raises:
        DataError: the data is missing or malformed (see :meth:`funnel.tasks.base.Task.read`).
        FunnelError: the cache cannot be written.
    """
    path = task.path(data_dir, split)
    if not cache_dir:
        features, report = _encode(task.read(data_dir, split), tokenizer, max_length, segments)
        report.log(split, path, tokenizer.path)
        return features
    arrays = Path(cache_dir) / f"{task.name}.{split}.len-{max_length}.npz"
    key = {
        "version": _FORMAT_VERSION,
        **source_key(task, split, data_dir),
        "tokenizer_sha256": tokenizer.fingerprint,
        "max_length": max_length,
        "segments": asdict(segments),
    }
    found = None if overwrite else _read_cache(arrays, key)
    if found is None:
        found = _encode(task.read(data_dir, split), tokenizer, max_length, segments)
        _write_cache(arrays, key, *found)
    features, report = found
    report.log(split, path, tokenizer.path)
    return features


def _encode(
    loaded: LoadedSplit, tokenizer: Tokenizer, max_length: int, segments: SegmentIds
) -> tuple[Features, SplitReport]:
    features = encode_examples(loaded.examples, tokenizer, max_length, segments)
    return features, replace(loaded.report, texts=features.texts)


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
    del source["id"]  # decides no example
    if source["encoding"] == "utf-8":
        del source["encoding"]  # caches of earlier versions do not record it
    # Only where it is used: other caches stay valid.
    fraction = getattr(task, "dev_fraction", None)
    held_out = {} if fraction is None or split == "test" else {"dev_fraction": fraction}
    return {
        **held_out,
        "labels": task.labels and list(task.labels),
        "is_regression": task.is_regression,
        "label_separator": task.label_separator,
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


def _write_cache(
    arrays: Path, key: dict[str, Any], features: Features, report: SplitReport
) -> None:
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
    atomic_write_json(arrays.with_suffix(".json"), key | {"report": report.to_json()})


def _read_cache(arrays: Path, key: dict[str, Any]) -> tuple[Features, SplitReport] | None:
    """Return cached features and report, or ``None`` (with the reason in the log) if unusable."""
    key_file = arrays.with_suffix(".json")
    if not (arrays.exists() and key_file.exists()):
        return None
    try:
        stored = read_json_object(key_file, DataError)
        if changed := [name for name in key if stored.get(name) != key[name]]:
            logger.info("%s: rebuilt because of a different %s", arrays, ", ".join(changed))
            return None
        report = SplitReport.from_json(stored.get("report"))
        members = read_npz(arrays)
        if str(members["key"]) != _hash_key(key):
            raise ValueError(f"does not belong to {key_file.name}")
        features = Features(
            members["input_ids"],
            members["segment_ids"],
            members["offsets"],
            members.get("labels"),
            report.texts,
        )
        _check_arrays(features)
    except (DataError, ValueError, KeyError) as error:
        logger.warning("%s: corrupt cache is rebuilt (%s)", arrays, error)
        return None
    return features, report


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
        and ids.min(initial=0) >= 0
        and (features.labels is None or len(features.labels) == len(features))
    )
    if not is_consistent:
        raise ValueError("arrays are inconsistent")
