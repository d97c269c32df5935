"""SQuAD windows as TFRecord files."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from funnel.features.record_files import ExampleFile, load_recorded, read_description, read_meta
from funnel.features.record_schema import RecordSchema, squad_schema
from funnel.features.squad import SquadWindows, build_windows
from funnel.features.squad_cache import SquadSource, load_or_build_windows
from funnel.features.tfrecords import (
    Batch,
    RecordOptions,
    RecordSource,
    iter_chunks,
    load_or_write,
    to_columns,
)
from funnel.tasks.squad import SquadData
from funnel.utils.errors import ConfigError, DataError

if TYPE_CHECKING:
    from funnel.tokenization import Tokenizer


def squad_train_records(
    output_dir: str | os.PathLike[str],
    source: SquadSource,
    tokenizer: Tokenizer,
    seed: int,
    shard: tuple[int, int] = (0, 1),
) -> ExampleFile:
    """Return the training records of one shard, written unless a matching file exists.

    Shard ``i`` of ``n`` has every n-th question. Questions are shuffled before they are cut.

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
    file = load_or_write(
        Path(output_dir, source.shard_name(tokenizer.path, proc_id)),
        _schema(source, tokenizer, training=True),
        source.key(tokenizer) | {"split": "train", "seed": seed, "shard": [proc_id, num_proc]},
        RecordSource(functools.partial(_train_batches, source, tokenizer, seed, shard)),
        RecordOptions(overwrite=source.overwrite),
    )
    split = "train" if num_proc == 1 else f"train, shard {proc_id} of {num_proc}"
    file.report.log(split, source.path, tokenizer.path)
    return file


def _schema(source: SquadSource, tokenizer: Tokenizer, training: bool) -> RecordSchema:
    windows = source.windows
    return squad_schema(windows.max_seq_length, training, tokenizer.vocab_size, windows.segments)


def _train_batches(
    source: SquadSource,
    tokenizer: Tokenizer,
    seed: int,
    shard: tuple[int, int],
    records: RecordSource,
) -> Iterator[Batch]:
    proc_id, num_proc = shard
    data = source.read()
    part = replace(data, questions=data.questions[proc_id::num_proc])
    if not part.questions:
        total = len(data.questions)
        raise ConfigError(f"num_proc={num_proc}: {source.path} has only {total} questions")
    windows = build_windows(part, tokenizer, source.windows, training=True, seed=seed)
    records.report = windows.report(part)
    yield from _batches(windows, tokenizer.special.pad_id, source.windows.max_seq_length)


def count_recorded_shards(
    output_dir: str | os.PathLike[str], source: SquadSource, tokenizer: Tokenizer
) -> int | None:
    """Return the number of shards of existing training records; ``None`` if none match."""
    path = Path(output_dir, source.shard_name(tokenizer.path, 0))
    found = read_meta(path, source.key(tokenizer) | {"split": "train"})
    shard: Any = None if found is None else found.get("shard")
    is_pair = isinstance(shard, list) and len(shard) == 2 and type(shard[1]) is int
    return shard[1] if is_pair and shard[1] > 0 else None


def find_train_records(
    output_dir: str | os.PathLike[str], source: SquadSource, tokenizer: Tokenizer
) -> list[ExampleFile]:
    """Return all shards of existing training records, where the file they are made of is missing.

    Raises:
        DataError: there are none, a shard is missing, or they do not fit.
    """
    schema = _schema(source, tokenizer, training=True)
    key = source.settings_key(tokenizer) | {"split": "train"}
    found: dict[int, ExampleFile] = {}
    for proc_id, path in _list_shards(Path(output_dir), source, tokenizer):
        if (file := load_recorded(path, schema, key)) is not None:
            found[proc_id] = file
    if not found:
        wanted = source.shard_name(tokenizer.path, 0)
        reason = "does not exist" if source.path else "is needed"
        raise DataError(
            f"--train_file={source.path}: {reason}; {output_dir} has no records ({wanted}) to "
            "train on without it"
        )
    _check_shards(found)
    return [file for _, file in sorted(found.items())]


def _list_shards(
    folder: Path, source: SquadSource, tokenizer: Tokenizer
) -> Iterator[tuple[int, Path]]:
    """Yield number and path of every shard in a directory, in order of their numbers."""
    numbers = []
    if folder.is_dir():
        begin, end = source.shard_name(tokenizer.path, 0).split(".0.slen-", 1)
        pattern = re.compile(re.escape(begin) + r"\.(\d+)\.slen-" + re.escape(end))
        names = map(pattern.fullmatch, os.listdir(folder))
        numbers = sorted(int(match.group(1)) for match in names if match)
    for number in numbers:
        yield number, folder / source.shard_name(tokenizer.path, number)


def _check_shards(found: Mapping[int, ExampleFile]) -> None:
    """Check that shards are all those of one division of the same data.

    Of the original's, which do not say how many there are, none may be missing in between.

    Raises:
        DataError: a shard is missing, or two are of different divisions.
    """
    first = next(iter(found.values())).path
    divisions = []
    for file in found.values():
        meta = read_description(file.path)
        shard = meta.get("shard", [0, None])
        if not (isinstance(shard, list) and len(shard) == 2):
            raise DataError(f"{file.meta_path}: shard should be [number, number of shards]")
        divisions.append((shard[1], meta.get("seed"), meta.get("data_sha256")))
    if any(division != divisions[0] for division in divisions):
        raise DataError(f"{first.parent}: its training records are not all shards of one division")
    total = divisions[0][0] or max(found) + 1
    missing = next((number for number in range(total) if number not in found), None)
    if missing is not None:
        raise DataError(
            f"{first}: shard {missing} of {total} is missing, and so is the file to write it from "
            "(--train_file)"
        )


def squad_eval_records(
    output_dir: str | os.PathLike[str],
    source: SquadSource,
    tokenizer: Tokenizer,
    multiple: int = 1,
) -> tuple[ExampleFile, SquadData, SquadWindows]:
    """Return the records of questions to answer, the questions and their windows.

    Records and windows are written unless matching files exist.

    Args:
        multiple: padding examples are added up to a multiple of this number.

    Raises:
        DataError: the data cannot be read.
        FunnelError: a file cannot be written.
    """
    length = source.windows.max_seq_length
    path = Path(output_dir, source.name(Path(tokenizer.path).name, "eval"))
    key = source.key(tokenizer) | {"split": "eval"}
    # Records are matched to windows by position: if either file has to be rebuilt, both are.
    overwrite = source.overwrite or read_meta(path, key) is None
    data, windows, is_cached = load_or_build_windows(
        replace(source, overwrite=overwrite), tokenizer, output_dir
    )
    file = load_or_write(
        path,
        _schema(source, tokenizer, training=False),
        key | {"multiple": multiple},
        RecordSource(lambda _: _batches(windows, tokenizer.special.pad_id, length)),
        RecordOptions(overwrite=not is_cached, multiple=multiple),
    )
    return file, data, windows


def _batches(windows: SquadWindows, pad_id: int, length: int) -> Iterator[Batch]:
    for part in iter_chunks(np.arange(len(windows))):
        batch = windows.pad(part, length, pad_id)
        columns = batch | to_columns(batch) | {"unique_ids": windows.unique_ids[part]}
        # Always 0; the original's readers require the feature, no model uses it.
        yield columns | {"regression_tgt": np.zeros(len(part))}
