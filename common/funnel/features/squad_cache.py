"""SQuAD files cut into windows, with a cache on disk.

The cache file ``{vocab}.slen-{L}.qlen-{Q}.eval.features.npz`` has the character offsets of
tokens, which records lack; with them predicted positions become answer texts.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from funnel.config.inputs import SegmentIds
from funnel.features.pair_sequences import PairSequences
from funnel.features.squad import EncodedParagraphs, SquadWindows, WindowConfig, build_windows
from funnel.tasks.squad import SquadData, read_squad
from funnel.utils.errors import DataError
from funnel.utils.files import atomic_path, name_read_errors, sha256_file
from funnel.utils.npz import read_npz
from funnel.utils.split_report import TextCounts

if TYPE_CHECKING:
    from funnel.tokenization import Tokenizer

logger = logging.getLogger(__name__)

_WINDOWS_VERSION = 2  # increment when the same data give other windows: old caches are then rebuilt
_ANY_DATA = "*"
_CHECKSUM = re.compile("'data_sha256': '[0-9a-f]{64}'")
_SEQUENCE_ARRAYS = ("tokens", "first_begins", "first_lengths", "second_begins", "second_lengths")
_PARAGRAPH_ARRAYS = ("ids", "starts", "ends", "offsets")
_WINDOW_ARRAYS = ("question", "paragraph", "first_token", "context_begin", "context_end")
_TEXT_COUNTS = ("texts", "truncated", "longest", "limit", "tokens", "unknown")
_TARGET_ARRAYS = ("start_positions", "end_positions")  # only in windows for training


@dataclass(frozen=True)
class SquadSource:
    """A SQuAD file and how its questions are cut into windows.

    Attributes:
        path: SQuAD JSON.
        version: ``v2``, or ``v1``, which leaves out unanswerable questions.
        windows: how paragraphs are cut.
        limit: number of questions to use, from the first; ``None`` uses all.
        overwrite: rebuild caches and records even if they match.
    """

    path: str
    version: str = "v2"
    windows: WindowConfig = field(default_factory=WindowConfig)
    limit: int | None = None
    overwrite: bool = False

    def read(self) -> SquadData:
        """Read the questions.

        Raises:
            DataError: the file is missing or malformed.
        """
        data = read_squad(self.path, self.version)
        return replace(data, questions=data.questions[: self.limit])

    def key(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """Return everything that determines the windows, as JSON values."""
        with name_read_errors(Path(self.path)):
            content = sha256_file(self.path)
        return self.key_of_data(tokenizer, content)

    def key_of_data(self, tokenizer: Tokenizer, content: str) -> dict[str, Any]:
        """Return the key for the checksum of a file, which need not be there."""
        # The order is that of the keys in existing caches, which hold them as one text.
        first = {"task": "squad", "version_of_data": self.version, "data_sha256": content}
        return first | self.settings_key(tokenizer)

    def settings_key(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """Return everything but the data that determines the windows, as JSON values."""
        return {
            "task": "squad",
            "version_of_data": self.version,
            "limit": self.limit,
            "uncased": tokenizer.uncased,
            "tokenizer_sha256": tokenizer.fingerprint,
            **asdict(self.windows),
        }

    def name(self, prefix: str, part: str, suffix: str = "tfrecord") -> str:
        """Return a file name; ``part`` is ``eval``, ``eval.features`` or ``train``."""
        sizes = f"slen-{self.windows.max_seq_length}.qlen-{self.windows.max_query_length}"
        version = ".v1" if self.version == "v1" else ""
        return f"{prefix}.{sizes}.{part}{version}.{suffix}"

    def shard_name(self, vocab_path: str, proc_id: int) -> str:
        """Return the file name of one shard of the training records."""
        return self.name(f"{Path(vocab_path).name}.{proc_id}", "train")


class CutQuestions(NamedTuple):
    """Questions and their windows; ``is_cached`` is true if the windows were read from disk."""

    data: SquadData
    windows: SquadWindows
    is_cached: bool


def load_or_build_windows(
    source: SquadSource,
    tokenizer: Tokenizer,
    cache_dir: str | os.PathLike[str] = "",
    split: str = "eval",
    num_proc: int = 1,
) -> CutQuestions:
    """Return the questions of a file and their windows, in the file's order.

    Args:
        source: the file and how it is cut.
        tokenizer: encodes questions and paragraphs.
        cache_dir: windows are read from here if they match and written here otherwise; empty
            disables the cache.
        split: ``train`` for windows with answer positions, or ``eval``.
        num_proc: processes that tokenize.

    Raises:
        DataError: the data cannot be read, or no question is left to train on.
        FunnelError: the cache cannot be written.
    """
    data = source.read()
    path = _cache_path(source, tokenizer, cache_dir, split)
    key = str(source.key(tokenizer) | {"split": split})
    windows = None
    if cache_dir and not source.overwrite:
        windows = load_windows(path, key)
    is_cached = windows is not None
    if windows is None:
        training = split == "train"
        windows = build_windows(data, tokenizer, source.windows, training, num_proc=num_proc)
        if cache_dir:
            save_windows(path, windows, key)
    windows.report(data).log(split, source.path, tokenizer.path)
    return CutQuestions(data, windows, is_cached)


def find_train_windows(
    source: SquadSource, tokenizer: Tokenizer, cache_dir: str | os.PathLike[str]
) -> SquadWindows:
    """Return the cached windows to train on, where the file they were made from is missing.

    Raises:
        DataError: there are none that fit.
    """
    path = _cache_path(source, tokenizer, cache_dir, "train")
    found = None
    if cache_dir:
        key = source.key_of_data(tokenizer, _ANY_DATA) | {"split": "train"}
        found = load_windows(path, str(key))
    if found is None:
        reason = "does not exist" if source.path else "is needed"
        place = (
            f"{path} has no windows that fit" if cache_dir else "there is no cache (--output_dir)"
        )
        raise DataError(f"--train_file={source.path}: {reason}; {place}, to train on without it")
    logger.info("%s: used as it is, its data is missing", path)
    return found


def _cache_path(
    source: SquadSource, tokenizer: Tokenizer, cache_dir: str | os.PathLike[str], split: str
) -> Path:
    return Path(cache_dir, source.name(Path(tokenizer.path).name, f"{split}.features", "npz"))


def save_windows(path: Path, windows: SquadWindows, key: str) -> None:
    """Write windows atomically, with a ``key`` that describes their source."""
    sequences = windows.sequences
    arrays = {f"sequences.{name}": getattr(sequences, name) for name in _SEQUENCE_ARRAYS}
    arrays |= {f"paragraphs.{n}": getattr(windows.paragraphs, n) for n in _PARAGRAPH_ARRAYS}
    arrays |= {name: getattr(windows, name) for name in _WINDOW_ARRAYS}
    if windows.start_positions is not None:
        arrays |= {name: getattr(windows, name) for name in _TARGET_ARRAYS}
    texts = windows.texts
    arrays["texts"] = np.array([getattr(texts, name) for name in _TEXT_COUNTS])
    segments = list(asdict(sequences.segments).values())
    arrays["symbols"] = np.array([sequences.cls_id, sequences.sep_id, *segments])
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, key=np.array(f"{_WINDOWS_VERSION} {key}"), **arrays)


def load_windows(path: Path, key: str) -> SquadWindows | None:
    """Return saved windows; ``None`` (with the reason in the log) if corrupt or of another key.

    The checksum ``*`` in a key stands for any data.
    """
    if not path.exists():
        return None
    try:
        arrays = read_npz(path)
        stored = str(arrays["key"])
        if f"'{_ANY_DATA}'" in key:
            stored = _CHECKSUM.sub(f"'data_sha256': '{_ANY_DATA}'", stored)
        if stored != f"{_WINDOWS_VERSION} {key}":
            logger.info("%s: made from other data or settings; it is rebuilt", path)
            return None
        windows = _restore_windows(arrays)
        _check_windows(windows)
    except (DataError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s: corrupt, it is rebuilt (%s)", path, error)
        return None
    return windows


def _check_windows(windows: SquadWindows) -> None:
    """Raise ValueError if an array is of another kind or size, or refers to a missing token."""
    sequences, paragraphs, count = windows.sequences, windows.paragraphs, len(windows)
    named = {n: getattr(sequences, n) for n in _SEQUENCE_ARRAYS}
    named |= {f"paragraphs.{n}": getattr(paragraphs, n) for n in _PARAGRAPH_ARRAYS}
    named |= {n: getattr(windows, n) for n in (*_WINDOW_ARRAYS, *_TARGET_ARRAYS)}
    for name, array in named.items():
        is_per_window = name != "tokens" and not name.startswith("paragraphs.")
        if array is not None and (
            array.ndim != 1
            or array.dtype.kind != "i"
            or array.min(initial=0) < 0
            or (is_per_window and len(array) != count)
        ):
            raise ValueError(f"array {name} is of another kind or size")
    size, paragraph_size = len(sequences.tokens), len(paragraphs.ids)
    is_consistent = (
        (sequences.first_begins + sequences.first_lengths).max(initial=0) <= size
        and (sequences.second_begins + sequences.second_lengths).max(initial=0) <= size
        and len(paragraphs.starts) == len(paragraphs.ends) == paragraph_size
        and (np.diff(paragraphs.offsets) >= 0).all()
        and paragraphs.offsets[-1:].tolist() == [paragraph_size]
        and windows.paragraph.max(initial=0) < len(paragraphs.offsets) - 1
    )
    if not is_consistent:
        raise ValueError("arrays are inconsistent")


def _restore_windows(arrays: Mapping[str, np.ndarray]) -> SquadWindows:
    cls_id, sep_id, *segments = arrays["symbols"].tolist()
    sequences = PairSequences(
        tokens=arrays["sequences.tokens"],
        first_begins=arrays["sequences.first_begins"],
        first_lengths=arrays["sequences.first_lengths"],
        second_begins=arrays["sequences.second_begins"],
        second_lengths=arrays["sequences.second_lengths"],
        cls_id=cls_id,
        sep_id=sep_id,
        segments=SegmentIds(*segments),
    )
    paragraphs = EncodedParagraphs(*(arrays[f"paragraphs.{name}"] for name in _PARAGRAPH_ARRAYS))
    named = {n: arrays[n] for n in (*_WINDOW_ARRAYS, *_TARGET_ARRAYS) if n in arrays}
    counts = dict(zip(_TEXT_COUNTS, arrays["texts"].tolist(), strict=True))
    texts = TextCounts(**counts, unit="questions")
    return SquadWindows(sequences, paragraphs, **named, texts=texts)
