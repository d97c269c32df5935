"""Build the folder of a set from its downloads, and count the records in it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from funnel.tasks import get_task
from funnel.tasks.base import Task
from funnel.tasks.json_files import read_json
from funnel.tasks.squad import read_squad
from funnel.tasks.tables import read_records
from funnel.utils.errors import DataError
from funnel.utils.text_files import list_texts, read_text
from funnel_data.downloads.archives import unpack
from funnel_data.downloads.catalog import DownloadSet

Builder = Callable[[DownloadSet, Sequence[Path], Path], None]
Check = Callable[[DownloadSet, Path], dict[str, int]]


def build(dataset: DownloadSet, files: Sequence[Path], folder: Path) -> None:
    """Fill the empty ``folder`` from the downloads of a set, in the order of its addresses.

    Raises:
        DataError: a file is corrupt or has other contents than its name promises.
    """
    BUILDERS[dataset.build](dataset, files, folder)


def count(dataset: DownloadSet, folder: Path) -> dict[str, int]:
    """Read a set as the training programs do; return the number of records by file or folder.

    Raises:
        DataError: a file is missing, cannot be read, lacks a column, or has an unknown label.
    """
    return CHECKS[dataset.check](dataset, folder)


def compare(dataset: DownloadSet, folder: Path, counts: Mapping[str, int]) -> list[str]:
    """Return a message for each number of records that is not the published one."""
    return [
        f"{folder / name}: {counts.get(name, 0):,} records, {expected:,} were published"
        for name, expected in dataset.published.items()
        if counts.get(name, 0) != expected
    ]


def _unpack_all(dataset: DownloadSet, files: Sequence[Path], folder: Path) -> None:
    for file in files:
        unpack(file, folder, dataset.keep)


def _copy_all(dataset: DownloadSet, files: Sequence[Path], folder: Path) -> None:
    del dataset
    for file in files:
        _link_or_copy(file, folder / file.name)


def _copy_diagnostic(dataset: DownloadSet, files: Sequence[Path], folder: Path) -> None:
    del dataset
    _link_or_copy(files[0], folder / "diagnostic.tsv")


def _link_or_copy(source: Path, target: Path) -> None:
    """Make a hard link, which takes no disk space, or a copy where links are not possible."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


_MRPC_COLUMNS = 5  # Quality, #1 ID, #2 ID, #1 String, #2 String


def _build_mrpc(dataset: DownloadSet, files: Sequence[Path], folder: Path) -> None:
    """Split the published training pairs by GLUE's list of development pairs.

    The test file gets GLUE's columns: an index in place of the label.
    """
    del dataset
    train, test, ids = files
    in_dev = {tuple(line.split("\t")[:2]) for line in _lines(ids)}
    header, *rows = _mrpc_rows(train)
    splits: dict[str, list[list[str]]] = {"train": [], "dev": []}
    for row in rows:
        splits["dev" if (row[1], row[2]) in in_dev else "train"].append(row)
    test_header, *test_rows = _mrpc_rows(test)
    tables = {
        "train": [header, *splits["train"]],
        "dev": [header, *splits["dev"]],
        "test": [
            ["index", *test_header[1:]],
            *([str(index), *row[1:]] for index, row in enumerate(test_rows)),
        ],
    }
    for split, table in tables.items():
        text = "".join("\t".join(row) + "\n" for row in table)
        (folder / f"{split}.tsv").write_text(text, encoding="utf-8", newline="")


def _mrpc_rows(path: Path) -> list[list[str]]:
    rows = [line.split("\t") for line in _lines(path)]
    for number, row in enumerate(rows, start=1):
        if len(row) != _MRPC_COLUMNS:
            raise DataError(f"{path}:{number}: {len(row)} columns instead of {_MRPC_COLUMNS}")
    if not rows:
        raise DataError(
            f"{path}: the file is empty; a header and at least one line of data are needed"
        )
    return rows


def _lines(path: Path) -> list[str]:
    """Return the non-blank lines; quotes and Unicode line separators are ordinary characters."""
    text = read_text(path)
    return [line.removesuffix("\r") for line in text.split("\n") if line.strip()]


def _count_task(dataset: DownloadSet, folder: Path) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in dataset.tasks:
        task = get_task(name)
        for split in task.splits:
            file = task.path(folder, split).name
            if file not in counts:
                counts[file] = _count_split(task, folder, split)
    return counts


def _count_split(task: Task, folder: Path, split: str) -> int:
    records = 0
    allowed = {*(task.labels or ()), *task.skipped_labels}
    for record in read_records(task.path(folder, split), task.sources[split], task.labels or ()):
        records += 1
        if record.label is not None and allowed and record.label not in allowed:
            raise DataError(f"{record.where}: {record.label!r} is not a label of task {task.name}")
    return records


def _count_squad(dataset: DownloadSet, folder: Path) -> dict[str, int]:
    return {name: len(read_squad(folder / name).questions) for name in dataset.published}


def _count_race(dataset: DownloadSet, folder: Path) -> dict[str, int]:
    return {name: sum(map(_race_questions, _texts(folder / name))) for name in dataset.published}


def _texts(folder: Path) -> list[Path]:
    return list_texts(folder)


def _race_questions(file: Path) -> int:
    root = read_json(file)
    answers, options = (root.member(name, list).value for name in ("answers", "options"))
    root.member("article", str)
    if not len(answers) == len(options) == len(root.member("questions", list).value):
        raise root.error("file has different numbers of questions, options and answers")
    return len(answers)


# Some TensorFlow archives hold model.ckpt, others model.ckpt-STEP.
_TF_INDEX = re.compile(r"(model\.ckpt(?:-\d+)?)\.index")
_CHECKPOINT_FILES = {
    "weights": ("model.ckpt.index", "model.ckpt-STEP.index", "model.pt", "model.ckpt.pt"),
    "configuration": ("net_config.json", "net_config.pytorch.json"),
    "vocabulary": ("vocab.uncased.txt",),
}


def _check_checkpoint(dataset: DownloadSet, folder: Path) -> dict[str, int]:
    del dataset
    present = {path.name for path in folder.iterdir() if path.stat().st_size}
    prefixes = [match.group(1) for match in map(_TF_INDEX.fullmatch, sorted(present)) if match]
    for role, names in _CHECKPOINT_FILES.items():
        has_index = role == "weights" and bool(prefixes)
        if not has_index and not present.intersection(names):
            raise DataError(f"{folder}: no {role} ({' or '.join(names)})")
    for prefix in prefixes:
        if not any(name.startswith(f"{prefix}.data-") for name in present):
            raise DataError(f"{folder}: {prefix}.index without {prefix}.data-*")
    return {}


def _count_nothing(dataset: DownloadSet, folder: Path) -> dict[str, int]:
    del dataset, folder
    return {}


BUILDERS: Mapping[str, Builder] = {
    "unpack": _unpack_all,
    "copy": _copy_all,
    "mrpc": _build_mrpc,
    "diagnostic": _copy_diagnostic,
}

CHECKS: Mapping[str, Check] = {
    "task": _count_task,
    "squad": _count_squad,
    "race": _count_race,
    "checkpoint": _check_checkpoint,
    "none": _count_nothing,
}
