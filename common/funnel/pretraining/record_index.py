"""Find the record files of a pretraining run through their metadata files.

:mod:`funnel.pretraining.create_records` writes a metadata file (JSON) next to every finished record
file. A record file without one is unfinished, and an incomplete set of files can be recognised.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from funnel.formats.indexed_tfrecord import check_count, count_records
from funnel.pretraining.create_records import RecordSet
from funnel.pretraining.record_origin import (
    check_origin,
    recorded_segments,
    report_unknown_origin,
)
from funnel.tokenization import Tokenizer
from funnel.utils.errors import ConfigError, DataError
from funnel.utils.files import name_read_errors
from funnel.utils.json_files import read_json_object
from funnel.utils.text import join_names

logger = logging.getLogger(__name__)

# Bytes of record files that are counted at the start of a run, which reads them. The counts of more
# are only compared with the sizes of the files, and checked when a file is opened (PyTorch) or
# has been read (TensorFlow).
_COUNTED_BYTES = 1 << 30


class RecordFile(NamedTuple):
    """A TFRecord file and its number of records."""

    path: Path
    num_example: int


@dataclass(frozen=True)
class RecordCollection:
    """The record files of a run in a fixed order; all records have ``seq_len`` tokens."""

    files: tuple[RecordFile, ...]
    seq_len: int

    @property
    def counts(self) -> np.ndarray:
        """Number of records of every file, int64 [files]."""
        return np.array([file.num_example for file in self.files], np.int64)

    @property
    def num_examples(self) -> int:
        """Number of records of all files."""
        return sum(file.num_example for file in self.files)


def find_records(
    record_dir: str,
    split: str,
    seq_len: int,
    uncased: bool,
    num_passes: int = 1,
    tokenizer: Tokenizer | None = None,
) -> RecordCollection:
    """Find the record files of a split, ordered by folder, pass and task.

    Args:
        record_dir: folders, separated by commas.
        split: ``train``, ``dev`` or ``test``.
        seq_len: tokens per record.
        uncased: whether the tokenizer lower-cased the text.
        num_passes: the existing passes 0 to ``num_passes - 1`` are read.
        tokenizer: the records must have been made with it; it takes over their segment ids. None
            skips this check.

    Raises:
        ConfigError: ``num_passes`` is below 1, or no folder is given.
        DataError: a folder has no such records (the message lists those it has), tasks of a pass
            are missing or were written for different values of ``num_task``, a metadata file is
            invalid, a record file holds another number of records, or records were made with
            another tokenizer.
    """
    if num_passes < 1:
        raise ConfigError(f"num_passes={num_passes}: must be at least 1")
    folders = [Path(name.strip()) for name in record_dir.split(",") if name.strip()]
    if not folders:
        raise ConfigError("record_dir: it should name a folder with pretraining records")
    files: list[RecordFile] = []
    metas: list[Path] = []
    for folder in folders:
        found = _find_sets(folder)
        wanted = [
            records for records in found
            if (records.split, records.seq_len, records.uncased) == (split, seq_len, uncased)
            and records.pass_id < num_passes
        ]  # fmt: skip
        if not wanted:
            requested = RecordSet(split, 0, seq_len, uncased, 1)
            passes = f"pass-0 to pass-{num_passes - 1}" if num_passes > 1 else "pass-0"
            raise DataError(
                f"{folder}: no records of {_describe(requested, passes)}; "
                f"it holds {_describe_all(found)}"
            )
        _check_single_division(folder, wanted)
        for records in sorted(wanted, key=lambda one: one.pass_id):
            complete = _list_metas(folder, records, found[records])
            files += [file for meta in complete for file in _read_meta(meta)]
            metas += complete
    if tokenizer is not None:
        _check_tokenizer(metas, record_dir, tokenizer)
    collection = RecordCollection(tuple(files), seq_len)
    _check_counts(collection)
    if not collection.num_examples:
        raise DataError(f"{record_dir}: the record files of split {split} are empty")
    return collection


def _check_counts(collection: RecordCollection) -> None:
    """Compare the numbers of records with the files.

    A number that is too large would otherwise show as an epoch without an end or without records.
    """
    counted = 0
    for path, num_example in collection.files:
        size = path.stat().st_size
        counted += size
        least = 2 * collection.seq_len  # bytes of two lists of seq_len numbers
        if counted <= _COUNTED_BYTES or num_example * least > size:
            check_count(path, num_example)


def _find_sets(folder: Path) -> dict[RecordSet, set[int]]:
    """Return the record sets in a folder with the tasks that have a metadata file."""
    found: dict[RecordSet, set[int]] = defaultdict(set)
    with name_read_errors(folder):
        names = sorted(os.listdir(folder))
    for parsed in map(RecordSet.parse_meta_name, names):
        if parsed is not None:
            found[parsed[0]].add(parsed[1])
    return found


def _check_single_division(folder: Path, wanted: Iterable[RecordSet]) -> None:
    """Raise DataError if a pass was written for two values of ``num_task``.

    The same text would otherwise be read twice, or only part of it.
    """
    seen: dict[int, RecordSet] = {}
    for records in wanted:
        other = seen.setdefault(records.pass_id, records)
        if other != records:
            both = sorted((other.num_task, records.num_task))
            raise DataError(
                f"{folder}: {_describe(records)} was written both for num_task={both[0]} and "
                f"num_task={both[1]}; remove the files of one of them"
            )


def _check_tokenizer(metas: list[Path], record_dir: str, tokenizer: Tokenizer) -> None:
    """Raise DataError if records were made with another tokenizer, or with different segments."""
    contents = {meta: read_json_object(meta, DataError) for meta in metas}
    unknown = [m for m, content in contents.items() if not check_origin(content, m, tokenizer)]
    if unknown:
        report_unknown_origin(len(unknown), record_dir)
    segments = {meta: recorded_segments(content) for meta, content in contents.items()}
    stated = {found: meta for meta, found in segments.items() if found is not None}
    if len(stated) > 1:
        first, second = list(stated.items())[:2]
        raise DataError(f"{first[1]}: segment ids {first[0]}, but {second[1]} has {second[0]}")
    for found in stated:
        if found != tokenizer.segments:
            logger.warning(
                "%s: the segment ids of the records, %s, are used instead of %s",
                *(record_dir, found, tokenizer.segments),
            )
            tokenizer.use_segments(found)


def _list_metas(folder: Path, records: RecordSet, tasks: set[int]) -> list[Path]:
    missing = [task for task in range(records.num_task) if task not in tasks]
    if missing:
        names = join_names([str(task) for task in missing])
        raise DataError(
            f"{folder}: {_describe(records)} is not complete: {len(missing)} of its "
            f"{records.num_task} tasks ({names}) wrote no {records.meta_name(missing[0])}"
        )
    return [folder / records.meta_name(task) for task in range(records.num_task)]


def _read_meta(meta: Path) -> list[RecordFile]:
    """Return the record files that a metadata file names."""
    wanted = f"{meta}: it should hold a list of names `filenames` and a number `num_example`"
    try:
        content = read_json_object(meta, DataError)
    except DataError as error:
        raise DataError(f"{wanted}; {str(error).removeprefix(f'{meta}:').lstrip()}") from None
    names, num_example = content.get("filenames"), content.get("num_example")
    well_formed = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not (well_formed and names and type(num_example) is int and num_example >= 0):
        raise DataError(wanted)
    paths = [meta.parent / name for name in names]
    for name, path in zip(names, paths, strict=True):
        if not os.path.isfile(path):  # False also for a name that the file system refuses
            raise DataError(f"{meta}: it names {name[:200]}, which is not there")
    if len(paths) == 1:
        return [RecordFile(paths[0], num_example)]
    files = [RecordFile(path, count_records(path)) for path in paths]
    if (total := sum(file.num_example for file in files)) != num_example:
        raise DataError(f"{meta}: it states {num_example} records, but its files hold {total}")
    return files


def _describe(records: RecordSet, passes: str = "") -> str:
    case = "uncased" if records.uncased else "cased"
    passes = passes or f"pass-{records.pass_id}"
    return f"{records.split} {passes} seq-{records.seq_len} {case}"


def _describe_all(found: Iterable[RecordSet]) -> str:
    return join_names(sorted({_describe(records) for records in found})) or "no records"
