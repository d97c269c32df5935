"""Which record files a pretraining run reads: found by the descriptions that lie beside them.

:mod:`funnel.pretraining.create_records` writes a description (JSON) for every finished record
file, so a file without
one is unfinished, and a set of files that is not complete can be told from one that is.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from funnel.formats.indexed_tfrecord import count_records
from funnel.pretraining.create_records import RecordSet
from funnel.utils.errors import ConfigError, DataError
from funnel.utils.files import name_read_errors
from funnel.utils.text import join_names


class RecordFile(NamedTuple):
    """A TFRecord file and the number of records in it."""

    path: Path
    num_example: int


@dataclass(frozen=True)
class RecordCollection:
    """The record files of a run in a fixed order, all with records of ``seq_len`` tokens."""

    files: tuple[RecordFile, ...]
    seq_len: int

    @property
    def counts(self) -> np.ndarray:
        """Records of every file, int64 [files]."""
        return np.array([file.num_example for file in self.files], np.int64)

    @property
    def num_examples(self) -> int:
        """Records of all files together."""
        return sum(file.num_example for file in self.files)


def find_records(
    record_dir: str, split: str, seq_len: int, uncased: bool, num_passes: int = 1
) -> RecordCollection:
    """Find the records to read, ordered by folder, pass and task.

    Args:
        record_dir: folders, separated by commas.
        split: ``train``, ``dev`` or ``test``.
        seq_len: tokens of a record.
        uncased: whether the tokenizer lower-cased the text.
        num_passes: passes with a smaller number are read, those that there are.

    Raises:
        ConfigError: ``num_passes`` below 1, or no folder is named.
        DataError: a folder lacks such records (the message says what it has), some tasks of a pass
            are missing or come from two ways of sharing out, or a description is wrong.
    """
    if num_passes < 1:
        raise ConfigError(f"num_passes={num_passes}: must be at least 1")
    folders = [Path(name.strip()) for name in record_dir.split(",") if name.strip()]
    if not folders:
        raise ConfigError("record_dir: it should name a folder with pretraining records")
    files: list[RecordFile] = []
    for folder in folders:
        found = _described(folder)
        wanted = [
            described for described in found
            if (described.split, described.seq_len, described.uncased) == (split, seq_len, uncased)
            and described.pass_id < num_passes
        ]  # fmt: skip
        if not wanted:
            asked = RecordSet(split, 0, seq_len, uncased, 1)
            passes = f"pass-0 to pass-{num_passes - 1}" if num_passes > 1 else "pass-0"
            raise DataError(
                f"{folder}: no records of {_words(asked, passes)}; it holds {_listed(found)}"
            )
        _refuse_mixture(folder, wanted)
        for described in sorted(wanted, key=lambda one: one.pass_id):
            files += _files_of(folder, described, found[described])
    collection = RecordCollection(tuple(files), seq_len)
    if not collection.num_examples:
        raise DataError(f"{record_dir}: the record files of split {split} are empty")
    return collection


def _described(folder: Path) -> dict[RecordSet, set[int]]:
    """The tasks of every set that have a description in a folder."""
    found: dict[RecordSet, set[int]] = defaultdict(set)
    with name_read_errors(folder):
        names = sorted(os.listdir(folder))
    for parsed in map(RecordSet.of_meta, names):
        if parsed is not None:
            found[parsed[0]].add(parsed[1])
    return found


def _refuse_mixture(folder: Path, wanted: Iterable[RecordSet]) -> None:
    """The same text shared out twice would count twice, or half of it be missing."""
    seen: dict[int, RecordSet] = {}
    for described in wanted:
        other = seen.setdefault(described.pass_id, described)
        if other != described:
            both = sorted((other.num_task, described.num_task))
            raise DataError(
                f"{folder}: {_words(described)} was written both for num_task={both[0]} and "
                f"num_task={both[1]}; remove the files of one of them"
            )


def _files_of(folder: Path, described: RecordSet, tasks: set[int]) -> list[RecordFile]:
    missing = [task for task in range(described.num_task) if task not in tasks]
    if missing:
        names = join_names([str(task) for task in missing])
        raise DataError(
            f"{folder}: {_words(described)} is not complete: {len(missing)} of its "
            f"{described.num_task} tasks ({names}) wrote no {described.meta_name(missing[0])}"
        )
    metas = [folder / described.meta_name(task) for task in range(described.num_task)]
    return [file for meta in metas for file in _read_meta(meta)]


def _read_meta(meta: Path) -> list[RecordFile]:
    """The files that a description names."""
    with name_read_errors(meta):
        text = meta.read_text(encoding="utf-8")
    try:
        content = json.loads(text)
        names, num_example = content["filenames"], content["num_example"]
        well_formed = all(isinstance(name, str) for name in names) and len(names) > 0
        if not well_formed or not isinstance(num_example, int) or num_example < 0:
            raise ValueError("wrong kind of values")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{meta}: it should hold a list of names `filenames` and a number `num_example`: "
            f"{type(error).__name__} {error}"
        ) from None
    paths = [meta.parent / name for name in names]
    for path in paths:
        if not path.is_file():
            raise DataError(f"{meta}: it names {path.name}, which is not there")
    if len(paths) == 1:
        return [RecordFile(paths[0], num_example)]
    files = [RecordFile(path, count_records(path)) for path in paths]
    if (total := sum(file.num_example for file in files)) != num_example:
        raise DataError(f"{meta}: it speaks of {num_example} records; its files hold {total}")
    return files


def _words(described: RecordSet, passes: str = "") -> str:
    case = "uncased" if described.uncased else "cased"
    passes = passes or f"pass-{described.pass_id}"
    return f"{described.split} {passes} seq-{described.seq_len} {case}"


def _listed(found: Iterable[RecordSet]) -> str:
    words = sorted({_words(described) for described in found})
    return join_names(words) or "no records at all"
