"""Tasks as records of files, columns, labels and metrics; loading one gives examples."""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from funnel.tasks.example_list import ExampleList
from funnel.tasks.tables import Source, TableRow, folder_files, read_header, read_records
from funnel.utils.errors import ConfigError, DataError
from funnel.utils.text import clean_classification_text, join_names

logger = logging.getLogger(__name__)

_SHOWN_LABELS = 20


@dataclass(frozen=True, slots=True)
class Example:
    """One text or pair of texts. ``label`` is a class id, a number (regression) or ``None``."""

    text_a: str
    text_b: str | None = None
    label: int | float | None = None


@dataclass(frozen=True)
class Task:
    """A classification or regression task.

    Attributes:
        name: canonical lower-case name.
        labels: label texts in the order of their ids; ``None`` for regression, and for a custom
            task before :meth:`resolve_labels`.
        sources: split name (``train``, ``dev``, ``test``) -> its file and columns.
        metrics: names of the metrics in :mod:`funnel.tasks.metrics`, main one first.
        is_regression: the label is a real number.
        label_range: smallest and largest number allowed in regression.
        skipped_labels: labels for disagreement among annotators; such lines are left out and
            counted.
        clean: apply :func:`funnel.utils.text.clean_classification_text` to all texts.
        submission_file: file name that the benchmark requires for test predictions.
        constant_prediction: class id submitted for every test example, whatever the model predicts.
        also_submits: task whose test set is predicted and submitted with this one's.
    """

    name: str
    labels: tuple[str, ...] | None
    sources: Mapping[str, Source] = field(hash=False)
    metrics: tuple[str, ...]
    is_regression: bool = False
    label_range: tuple[float, float] | None = None
    skipped_labels: tuple[str, ...] = ()
    clean: bool = False
    submission_file: str | None = None
    constant_prediction: int | None = None
    also_submits: str | None = None

    def __post_init__(self) -> None:
        if self.labels is None:
            return
        if len(self.labels) < 2:
            raise ConfigError(f"task {self.name}: at least two labels are needed: {self.labels}")
        if len(self.labels) > 2 and "f1" in self.metrics:
            raise ConfigError(
                f"task {self.name}: f1 is a metric for two labels, not {len(self.labels)}; "
                "use macro_f1"
            )

    @property
    def num_labels(self) -> int:
        """Size of the output layer: the number of classes, 1 for regression.

        Raises:
            DataError: the labels have not been read from the training data.
        """
        return 1 if self.is_regression else len(self.known_labels())

    def known_labels(self) -> tuple[str, ...]:
        """Return the labels in the order of their ids; empty for regression.

        Raises:
            DataError: the labels have not been read from the training data.
        """
        if self.is_regression:
            return ()
        if self.labels is None:
            raise DataError(
                f"task {self.name}: its labels are unknown; resolve_labels() reads them"
            )
        return self.labels

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of all splits."""
        return tuple(self.sources)

    @property
    def eval_splits(self) -> tuple[str, ...]:
        """Names of the splits to evaluate on during training."""
        return tuple(split for split in self.sources if split.startswith("dev"))

    def path(self, data_dir: str | os.PathLike[str], split: str) -> Path:
        """Return the file (or folder) of a split.

        Raises:
            DataError: the task has no such split, or no file of the expected name exists.
        """
        if split not in self.sources:
            raise DataError(f"task {self.name} has no {split} split, only {', '.join(self.splits)}")
        names, directory = self.sources[split].names, Path(data_dir)
        right_kind = Path.is_dir if self.sources[split].format == "folders" else Path.is_file
        if not directory.is_dir():
            raise DataError(f"{directory}: no such directory (data of task {self.name})")
        for name in names:
            if right_kind(directory / name):
                return directory / name
        raise DataError(
            f"{directory}: no {' or '.join(names)}, which task {self.name} needs as {split} data"
        )

    def input_files(self, data_dir: str | os.PathLike[str], split: str) -> list[Path]:
        """Return every file that :meth:`load` reads for a split."""
        path = self.path(data_dir, split)
        if self.sources[split].format == "folders":
            return [file for _, file in folder_files(path, self.labels or ())]
        return [path]

    def resolve_labels(self, data_dir: str | os.PathLike[str]) -> Task:
        """Return this task with known labels; they are read from the training data if needed.

        Integer labels are sorted by value, others alphabetically. Call it once, before anything
        that depends on the labels: :meth:`load`, :attr:`num_labels`, caches and record files.

        Raises:
            DataError: the training data is missing or has an empty label.
            ConfigError: the number of labels does not fit the task's metric.
        """
        if self.labels is not None or self.is_regression:
            return self
        found = {_check_label(record) for record in self._records(data_dir, "train")}
        return replace(self, labels=tuple(sorted(found, key=_label_order(found))))

    def load(self, data_dir: str | os.PathLike[str], split: str) -> Sequence[Example]:
        """Read the examples of a split in file order; their texts are not held in memory.

        Broken lines are logged and counted, see :func:`funnel.tasks.tables.read_records`. In a
        split without labels they become empty texts, so that predictions keep their positions.

        Raises:
            DataError: missing or empty file, missing column, unknown label, too many broken lines,
                or labels that have not been resolved.
        """
        ids = {label: index for index, label in enumerate(self.known_labels())}
        self._check_header(data_dir, split)
        skipped: Counter[str] = Counter()
        examples = ExampleList(Example)
        for record in self._records(data_dir, split):
            if record.label in self.skipped_labels:
                skipped[str(record.label)] += 1
                continue
            label = self._parse_label(record, ids, split)
            text_a, text_b = record.text_a, record.text_b
            if self.clean:
                text_a = clean_classification_text(text_a)
                text_b = None if text_b is None else clean_classification_text(text_b)
            examples.append(Example(text_a, text_b, label))
        path = self.path(data_dir, split)
        for text, count in skipped.items():
            logger.warning("%s: %d lines with the label %r were left out", path, count, text)
        if not examples:
            raise DataError(f"{path}: no line with a label that task {self.name} uses")
        return examples

    def _records(self, data_dir: str | os.PathLike[str], split: str) -> Iterator[TableRow]:
        return read_records(self.path(data_dir, split), self.sources[split], self.labels or ())

    def _check_header(self, data_dir: str | os.PathLike[str], split: str) -> None:
        """Refuse a file whose header was cut off: its first example would be lost silently."""
        path, source = self.path(data_dir, split), self.sources[split]
        if source.format == "jsonl" or not source.header or not isinstance(source.label, int):
            return
        header = read_header(path, source)
        try:
            cell = header[source.label]
        except IndexError:
            return  # read_records names the missing column
        if cell in (self.labels or ()) or (self.is_regression and _parse_number(cell) is not None):
            raise DataError(f"{path}:1: holds data, but task {self.name} expects a header there")

    def _parse_label(
        self, record: TableRow, ids: Mapping[str, int], split: str
    ) -> int | float | None:
        source = self.sources[split]
        if record.label is None or (source.label_optional and not record.label):
            return None
        if self.is_regression:
            value = _parse_number(record.label)
            low, high = self.label_range or (-math.inf, math.inf)
            if value is None or not low <= value <= high:
                allowed = f"number from {low:g} to {high:g}" if self.label_range else "number"
                raise DataError(f"{record.where}: label {record.label!r} is not a {allowed}")
            return value
        if record.label not in ids:
            raise DataError(
                f"{record.where}: unknown label {record.label!r}; allowed: "
                f"{join_names(self.labels or (), _SHOWN_LABELS)}"
            )
        return ids[record.label]


def _parse_number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _check_label(record: TableRow) -> str:
    """Return the label of a training record; predictions are written one per line, after a tab."""
    label = record.label or ""
    if not label.strip() or "\t" in label or "\n" in label:
        raise DataError(f"{record.where}: label {label!r} is empty or holds a tab or line end")
    return label


def _label_order(labels: set[str]) -> type[int] | type[str]:
    """Return the sort key: int if all labels are integers of different value, else str."""
    try:
        distinct = {int(label) for label in labels}
    except ValueError:
        return str
    return int if len(distinct) == len(labels) else str
