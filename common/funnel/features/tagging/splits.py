"""The splits of a token-classification run: which are read, and their encoded sentences."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from funnel.config.tagging import TaggingWindows
from funnel.features.tagging.windows import TaggingFeatures, encode_sentences
from funnel.tasks.tagging.task import TaggingTask
from funnel.utils.errors import DataError
from funnel.utils.split_report import SplitReport

if TYPE_CHECKING:
    from funnel.tokenization import Tokenizer


@dataclass(frozen=True)
class LoadedSplit:
    """A split: the words of its sentences, the encoded sentences, and what became of the file."""

    words: list[tuple[str, ...]]
    features: TaggingFeatures
    report: SplitReport


def choose_splits(
    task: TaggingTask, data_dir: str | os.PathLike[str], *, trains: bool, predicts: bool
) -> list[str]:
    """Return the names of the splits that a run reads.

    Args:
        task: the task.
        data_dir: directory of its files.
        trains: train and dev are needed; otherwise dev if there is one.
        predicts: test too, if there is one.

    Raises:
        DataError: there is no file to read.
    """
    names = ["train", "dev"] if trains else []
    names += [split for split in ("dev",) if not trains and task.has_split(data_dir, split)]
    names += [split for split in ("test",) if predicts and task.has_split(data_dir, split)]
    if not names:
        task.path(data_dir, "dev")  # raises DataError with the names that are looked for
    return names


def load_split(
    task: TaggingTask,
    data_dir: str | os.PathLike[str],
    split: str,
    tokenizer: Tokenizer,
    windows: TaggingWindows,
) -> LoadedSplit:
    """Read and encode a split, and log what became of it.

    Raises:
        DataError: see :meth:`funnel.tasks.tagging.task.TaggingTask.read`; or sentences to train or
            evaluate on lack their tags.
    """
    words, tags, report = task.read(data_dir, split)
    path = task.path(data_dir, split)
    if tags is None and split != "test":
        raise DataError(f"{path}: some sentences have no tags")
    features = encode_sentences(words, tags, tokenizer, windows)
    report = replace(report, texts=features.texts)
    report.log(split, path, tokenizer.path)
    features.counts.log(split, windows.max_length)
    return LoadedSplit(words, features, report)
