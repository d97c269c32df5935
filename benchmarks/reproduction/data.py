"""Data of ``benchmarks/reproduce.py``: task files cut to a number of labels, and corpora."""

from __future__ import annotations

import gzip
import json
import random
import tarfile
from pathlib import Path

from funnel.tasks import Example, get_task
from funnel.utils.errors import DataError
from funnel.utils.files import atomic_write_text
from reproduction.plan import Task

_IMDB_ARCHIVE = "text_cls/imdb.tar.gz"


def write_task(task: Task, data: Path, folder: Path) -> Path:
    """Write ``train.jsonl`` and ``dev.jsonl`` of a task into a folder, unless they are there.

    The rows are a sample drawn with a fixed seed, so that all runs train on the same labels.
    """
    target = folder / f"{task.name}-{task.train_rows}-{task.eval_rows}"
    source = data / task.folder
    if not source.exists() and task.name == "imdb":
        source = _unpack_imdb(data, folder)
    known = get_task(task.name)
    for name, split, rows in (
        ("train", "train", task.train_rows),
        ("dev", task.eval_split, task.eval_rows),
    ):
        path = target / f"{name}.jsonl"
        if not path.exists():
            examples = known.load(source, split)
            chosen = random.Random(1).sample(examples, min(rows, len(examples)))
            target.mkdir(parents=True, exist_ok=True)
            atomic_write_text(path, "".join(_line(e, known.labels) for e in chosen))
    return target


def _line(example: Example, labels: tuple[str, ...]) -> str:
    row = {"text": example.text_a, "label": labels[int(example.label)]}
    if example.text_b:
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
