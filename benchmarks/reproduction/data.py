"""Data of ``benchmarks/reproduce.py``: tasks cut to a number of labels, and corpora."""

from __future__ import annotations

import gzip
import json
import tarfile
from pathlib import Path
from typing import Any

from funnel.tasks import Example, get_task
from funnel.utils.errors import DataError
from funnel.utils.files import atomic_write_text
from reproduction.reading import sample, write_race, write_squad
from reproduction.tasks import RACE, SQUAD, Task

_IMDB_ARCHIVE = "text_cls/imdb.tar.gz"


def write_task(task: Task, data: Path, folder: Path) -> Path:
    """Write the training and evaluation data of a task below a folder, unless they are there.

    The rows are a sample drawn with a fixed seed, so that all runs train on the same labels.
    """
    target = folder / f"{task.name}-{task.train_rows}-{task.eval_rows}"
    source = data / task.folder
    if not source.exists() and task.name == "imdb":
        source = _unpack_imdb(data, folder)
    if task.program == SQUAD:
        write_squad(task, source, target)
    elif task.program == RACE:
        write_race(task, source, target)
    else:
        _write_texts(task, source, target)
    return target


def data_flags(task: Task, folder: Path) -> dict[str, Any]:
    """Return the flags by which the task's program reads what :func:`write_task` wrote.

    They include scoring the evaluation data after training.
    """
    if task.program == SQUAD:
        return {
            "do_train": True, "train_file": folder / "train.json", "train_version": "v1",
            "predict_file": folder / "dev.json", "eval_version": "v1", "target_eval_key": "f1",
        }  # fmt: skip
    if task.program == RACE:
        return {"do_train": True, "data_dir": folder}
    known = get_task(task.name)
    flags: dict[str, Any] = {
        "dataset": "jsonl", "data_dir": folder, "text_column": "text", "label_column": "label",
    }  # fmt: skip
    if known.sources["train"].text_b is not None:
        flags["text_b_column"] = "text2"
    if known.is_regression:
        flags["regression"] = True
    elif known.metrics[0] != "accuracy":
        flags["metric"] = known.metrics[0]
    return flags


def _write_texts(task: Task, source: Path, target: Path) -> None:
    """Write ``train.jsonl`` and ``dev.jsonl``."""
    known = get_task(task.name)
    for name, split, rows in (
        ("train", "train", task.train_rows),
        ("dev", task.eval_split, task.eval_rows),
    ):
        path = target / f"{name}.jsonl"
        if not path.exists():
            chosen = sample(known.load(source, split), rows)
            target.mkdir(parents=True, exist_ok=True)
            atomic_write_text(path, "".join(_line(e, known.labels) for e in chosen))


def _line(example: Example, labels: tuple[str, ...] | None) -> str:
    label = str(example.label) if labels is None else labels[int(example.label)]
    row = {"text": example.text_a, "label": label}
    if example.text_b is not None:
        row["text2"] = example.text_b
    return json.dumps(row) + "\n"


def _unpack_imdb(data: Path, folder: Path) -> Path:
    if not (folder / "aclImdb").exists():
        archive = data / _IMDB_ARCHIVE
        if not archive.exists():
            raise DataError(f"{archive}: no such file; download_textcls.sh fetches the data set")
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
    return folder / "aclImdb"


def write_corpus(corpus: str, data: Path, folder: Path) -> Path:
    """Return a corpus as a text file: that of the data directory, or an unpacked copy."""
    source = data / corpus
    if not source.exists():
        raise DataError(f"{source}: no such file")
    if source.suffix != ".gz":
        return source
    target = folder / source.stem
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with gzip.open(source, "rt", encoding="utf-8") as stream:
            atomic_write_text(target, stream.read())
    return target
