"""SQuAD windows as TFRecord files, and the windows themselves beside them for the answers.

A record knows no text. To turn what a model says about it into an answer, the places of its tokens
in the paragraph are needed: they lie in ``{vocab}.slen-{L}.qlen-{Q}.eval.features.npz``.
"""

from __future__ import annotations

import logging
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from funnel.features.classification import SegmentIds
from funnel.features.pair_sequences import PairSequences
from funnel.features.squad import EncodedParagraphs, SquadWindows, WindowConfig, build_windows
from funnel.features.tfrecords import (
    Batch,
    ExampleFile,
    FieldSpec,
    RecordOptions,
    RecordSchema,
    as_columns,
    chunks,
    load_or_write,
    read_meta,
)
from funnel.tasks.squad import SquadData, read_squad
from funnel.utils.errors import ConfigError
from funnel.utils.files import atomic_path, name_read_errors, sha256_file

if TYPE_CHECKING:
    from funnel.tokenization import Tokenizer

logger = logging.getLogger(__name__)

_WINDOWS_VERSION = 1  # raise it when the same data give other windows: saved ones are then rebuilt
_SEQUENCE_ARRAYS = ("tokens", "first_begins", "first_lengths", "second_begins", "second_lengths")
_PARAGRAPH_ARRAYS = ("ids", "starts", "ends", "offsets")
_WINDOW_ARRAYS = ("question", "paragraph", "first_token", "context_begin", "context_end")
_TARGET_ARRAYS = ("start_positions", "end_positions")  # of windows made for training


@dataclass(frozen=True)
class SquadSource:
    """What questions become which records.

    Attributes:
        path: SQuAD JSON.
        version: ``v2``, or ``v1``, which leaves out unanswerable questions.
        windows: how paragraphs are cut.
        limit: only the first questions; None takes all.
        overwrite: write the records even if what is there fits.
    """

    path: str
    version: str = "v2"
    windows: WindowConfig = field(default_factory=WindowConfig)
    limit: int | None = None
    overwrite: bool = False

    def read(self) -> SquadData:
        """The questions.

        Raises:
            DataError: the file is missing or malformed.
        """
        data = read_squad(self.path, self.version)
        return replace(data, questions=data.questions[: self.limit])

    def key(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """Everything that decides the windows, as JSON values."""
        with name_read_errors(Path(self.path)):
            content = sha256_file(self.path)
        return {
            "task": "squad",
            "version_of_data": self.version,
            "data_sha256": content,
            "limit": self.limit,
            "uncased": tokenizer.uncased,
            "tokenizer_sha256": tokenizer.fingerprint,
            **asdict(self.windows),
        }

    def name(self, prefix: str, part: str, suffix: str = "tfrecord") -> str:
        """File name; ``part`` is ``eval``, ``eval.features`` or ``train``."""
        sizes = f"slen-{self.windows.max_seq_length}.qlen-{self.windows.max_query_length}"
        version = ".v1" if self.version == "v1" else ""
        return f"{prefix}.{sizes}.{part}{version}.{suffix}"

    def shard_name(self, vocab_path: str, proc_id: int) -> str:
        """File name of one shard of the training records."""
        return self.name(f"{Path(vocab_path).name}.{proc_id}", "train")


def squad_schema(length: int, training: bool) -> RecordSchema:
    """Records of one window of ``length`` = T tokens; masks are 1 on padding or no answer."""
    number = FieldSpec(())
    schema = {
        "unique_ids": number,
        "cls_index": number,
        "input_ids": FieldSpec((length,)),
        "segment_ids": FieldSpec((length,)),
        "input_mask": FieldSpec((length,), is_float=True),
        "p_mask": FieldSpec((length,), is_float=True),
    }
    if training:
        schema |= {"start_positions": number, "end_positions": number}
        schema |= dict.fromkeys(("is_impossible", "regression_tgt"), FieldSpec((), is_float=True))
    return RecordSchema(schema)


def squad_train_records(
    output_dir: str | os.PathLike[str],
    source: SquadSource,
    tokenizer: Tokenizer,
    seed: int,
    shard: tuple[int, int] = (0, 1),
) -> ExampleFile:
    """Return the training records of one shard, written if what is there does not fit.

    Questions are shuffled, then cut into windows; shard ``i`` of ``n`` has every n-th question.

    Args:
        shard: ``(i, n)``.

    Raises:
        ConfigError: no such shard.
        DataError: the data cannot be read, or a question has no answer on file.
        FunnelError: the file cannot be written.
    """
    proc_id, num_proc = shard
    if not 0 <= proc_id < num_proc:
        raise ConfigError(f"proc_id={proc_id}: of num_proc={num_proc}, it must be 0 to num_proc-1")
    length = source.windows.max_seq_length

    def batches() -> Iterator[Batch]:
        data = source.read()
        part = replace(data, questions=data.questions[proc_id::num_proc])
        if not part.questions:
            total = len(data.questions)
            raise ConfigError(f"num_proc={num_proc}: {source.path} has only {total} questions")
        windows = build_windows(part, tokenizer, source.windows, training=True, seed=seed)
        yield from _columns(windows, tokenizer.special.pad_id, length)

    return load_or_write(
        Path(output_dir, source.shard_name(tokenizer.path, proc_id)),
        squad_schema(length, training=True),
        source.key(tokenizer) | {"split": "train", "seed": seed, "shard": [proc_id, num_proc]},
        batches,
        RecordOptions(overwrite=source.overwrite),
    )


def recorded_shards(
    output_dir: str | os.PathLike[str], source: SquadSource, tokenizer: Tokenizer
) -> int | None:
    """In how many shards the training data lies there already; None where it does not."""
    path = Path(output_dir, source.shard_name(tokenizer.path, 0))
    found = read_meta(path, source.key(tokenizer) | {"split": "train"})
    return None if found is None else int(found["shard"][1])


def squad_eval_records(
    output_dir: str | os.PathLike[str],
    source: SquadSource,
    tokenizer: Tokenizer,
    multiple: int = 1,
) -> tuple[ExampleFile, SquadData, SquadWindows]:
    """Return the records of questions to answer, the questions and their windows.

    Records and windows are written if what is there does not fit.

    Args:
        multiple: fakes are added up to a multiple of this number.

    Raises:
        DataError: the data cannot be read.
        FunnelError: a file cannot be written.
    """
    data, length = source.read(), source.windows.max_seq_length
    vocab = Path(tokenizer.path).name
    arrays = Path(output_dir, source.name(vocab, "eval.features", "npz"))
    path = Path(output_dir, source.name(vocab, "eval"))
    key = source.key(tokenizer) | {"split": "eval"}
    windows = None
    if not source.overwrite and read_meta(path, key) is not None:
        windows = load_windows(arrays, str(key))
    overwrite = source.overwrite or windows is None
    if windows is None:
        windows = build_windows(data, tokenizer, source.windows)
        save_windows(arrays, windows, str(key))
    made = windows
    file = load_or_write(
        path,
        squad_schema(length, training=False),
        key | {"multiple": multiple},
        lambda: _columns(made, tokenizer.special.pad_id, length),
        RecordOptions(overwrite=overwrite, multiple=multiple),
    )
    return file, data, windows


def _columns(windows: SquadWindows, pad_id: int, length: int) -> Iterator[Batch]:
    for part in chunks(np.arange(len(windows))):
        batch = windows.pad(part, length, pad_id)
        columns = batch | as_columns(batch) | {"unique_ids": windows.unique_ids[part]}
        yield columns | {"regression_tgt": np.zeros(len(part))}  # always 0: no model reads it


def save_windows(path: Path, windows: SquadWindows, key: str) -> None:
    """Write windows, atomically; ``key`` says what they were made from."""
    sequences = windows.sequences
    arrays = {f"sequences.{name}": getattr(sequences, name) for name in _SEQUENCE_ARRAYS}
    arrays |= {f"paragraphs.{n}": getattr(windows.paragraphs, n) for n in _PARAGRAPH_ARRAYS}
    arrays |= {name: getattr(windows, name) for name in _WINDOW_ARRAYS}
    if windows.start_positions is not None:
        arrays |= {name: getattr(windows, name) for name in _TARGET_ARRAYS}
    segments = list(asdict(sequences.segments).values())
    arrays["symbols"] = np.array([sequences.cls_id, sequences.sep_id, *segments])
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, key=np.array(f"{_WINDOWS_VERSION} {key}"), **arrays)


def load_windows(path: Path, key: str) -> SquadWindows | None:
    """Return windows as they were saved; None (the log says why) if they are others or damaged."""
    try:
        with np.load(path, allow_pickle=False) as found:
            arrays = dict(found)
        if str(arrays["key"]) != f"{_WINDOWS_VERSION} {key}":
            logger.info("%s: made from other data or settings; it is rebuilt", path)
            return None
        return _windows(arrays)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        logger.warning("%s: is damaged and rebuilt (%s)", path, error)
        return None


def _windows(arrays: Mapping[str, np.ndarray]) -> SquadWindows:
    cls_id, sep_id, *segments = arrays["symbols"].tolist()
    sequences = PairSequences(
        *(arrays[f"sequences.{name}"] for name in _SEQUENCE_ARRAYS),
        cls_id=cls_id,
        sep_id=sep_id,
        segments=SegmentIds(*segments),
    )
    paragraphs = EncodedParagraphs(*(arrays[f"paragraphs.{name}"] for name in _PARAGRAPH_ARRAYS))
    named = {n: arrays[n] for n in (*_WINDOW_ARRAYS, *_TARGET_ARRAYS) if n in arrays}
    return SquadWindows(sequences, paragraphs, **named)
