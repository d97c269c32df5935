"""Tasks as records of files, columns, labels and metrics; loading one gives examples."""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from funnel.config.heads import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from funnel.tasks.labels import (
    PLACEHOLDER,
    FoundLabels,
    LabelMatcher,
    clean_label,
    count_labels,
    is_missing,
)
from funnel.tasks.multi_label import count_holding, find_labels, split_labels, warn_of_separator
from funnel.tasks.tables import Source, TableRow, Tally, folder_files, read_header, read_records
from funnel.utils.errors import ConfigError, DataError
from funnel.utils.split_report import SplitReport
from funnel.utils.text import clean_classification_text, join_names
from funnel.utils.text_files import find_file

if TYPE_CHECKING:
    from funnel.tasks.example_list import ExampleList

logger = logging.getLogger(__name__)

_SHOWN_LABELS = 20
_BROKEN = "broken"  # reason for which a line is left out


@dataclass(frozen=True, slots=True)
class Example:
    """One text or pair of texts.

    ``label`` is a class id, a number (regression), 0 or 1 for every label (several labels), or
    ``None``.
    """

    text_a: str
    text_b: str | None = None
    label: int | float | tuple[int, ...] | None = None


class LoadedSplit(NamedTuple):
    """The examples of a split in file order, and what became of its lines."""

    examples: Sequence[Example]
    report: SplitReport


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
        positive_id: class id that precision, recall and F1 of two classes are about.
        label_origin: where the labels come from, for messages; empty: the definition of the task.
        label_separator: several labels can hold for a text, and this separates them in a file;
            None if one does.
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
    positive_id: int = 1
    label_origin: str = ""
    label_separator: str | None = None

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
    def is_multi_label(self) -> bool:
        """Whether several labels can hold for a text."""
        return self.label_separator is not None

    @property
    def problem_type(self) -> str:
        """Problem type, as a saved model states it."""
        kind = MULTI_LABEL if self.is_multi_label else SINGLE_LABEL
        return REGRESSION if self.is_regression else kind

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
        """Return the file (or folder) of a split; the file may be compressed, as ``train.tsv.gz``.

        Raises:
            DataError: the task has no such split, or no file of the expected name exists.
        """
        if split not in self.sources:
            raise DataError(f"task {self.name} has no {split} split, only {', '.join(self.splits)}")
        names, directory = self.sources[split].names, Path(data_dir)
        is_folder = self.sources[split].format == "folders"
        if not directory.is_dir():
            raise DataError(f"{directory}: no such directory (data of task {self.name})")
        for name in names:
            found = directory / name if is_folder else find_file(directory, name)
            if found is not None and (found.is_dir() or not is_folder):
                return found
        raise DataError(
            f"{directory}: no {' or '.join(names)}, which task {self.name} needs as {split} data"
        )

    def has_split(self, data_dir: str | os.PathLike[str], split: str) -> bool:
        """Return whether a split has a file or folder."""
        try:
            return self.path(data_dir, split).exists()
        except DataError:
            return False

    def input_files(self, data_dir: str | os.PathLike[str], split: str) -> list[Path]:
        """Return every file that :meth:`load` reads for a split."""
        path = self.path(data_dir, split)
        if self.sources[split].format == "folders":
            return [file for _, file in folder_files(path, self.labels or ())]
        return [path]

    def resolve_labels(self, data_dir: str | os.PathLike[str]) -> Task:
        """Return this task with known labels; they are read from the training data if needed.

        Integer labels are sorted by value, others alphabetically; probable slips are logged with
        file and line. Call it once, before anything that depends on the labels: :meth:`load`,
        :attr:`num_labels`, caches and record files. Without training,
        :func:`funnel.tasks.saved_labels.take_labels` is called instead.

        Raises:
            DataError: the training data is missing, or a label is empty or a mark such as ``nan``.
            ConfigError: the number of labels does not fit the task's metric.
        """
        if self.labels is not None or self.is_regression:
            return self
        found = FoundLabels()
        for record in self._records(data_dir, "train"):
            names = [record.label]
            if self.label_separator is not None:
                label, separator = record.label or "", self.label_separator
                names = [*split_labels(label, separator, record.where)]
            for name in names:
                found.add(name, record.where)
        origin = str(self.path(data_dir, "train"))
        if not found.counts:
            raise DataError(f"{origin}: no row has a label, so there is none to learn")
        if len(found.counts) == 1:
            raise DataError(f"{origin}: every label is {found.ordered()[0]!r}; two are needed")
        found.warn()
        if self.label_separator is not None:
            warn_of_separator(found.ordered(), self.label_separator)
        return replace(self, labels=found.ordered(), label_origin=origin)

    def load(self, data_dir: str | os.PathLike[str], split: str) -> Sequence[Example]:
        """Read the examples of a split in file order; log what :meth:`read` reports.

        Raises:
            DataError: as in :meth:`read`.
        """
        examples, report = self.read(data_dir, split)
        path = self.path(data_dir, split)
        for reason, count in report.skipped.items():
            # Reading has logged broken lines one by one.
            if not reason.startswith(_BROKEN):
                logger.warning("%s: %d lines with %s were left out", path, count, reason)
        report.log_respelled(path)
        return examples

    def read(self, data_dir: str | os.PathLike[str], split: str) -> LoadedSplit:
        """Read a split; its texts are not held in memory.

        White space around labels is ignored. A label that differs from a class in case and blanks
        only is that class, which the report counts. In a split whose labels are optional, an empty
        label, ``nan``, or -1 where that is no class, means "not labelled".

        Broken lines are logged and counted, see :func:`funnel.tasks.tables.read_records`. In a
        split without labels they become empty texts, so that predictions keep their positions.

        Raises:
            DataError: missing or empty file, missing column, unknown label, too many broken lines,
                or labels that have not been resolved.
        """
        from funnel.tasks.example_list import ExampleList  # NumPy, which --help does without

        matcher = LabelMatcher(self.known_labels())
        self._check_header(data_dir, split)
        path = self.path(data_dir, split)
        tally, skipped, examples = Tally(path), Counter[str](), ExampleList(Example)
        for record in read_records(path, self.sources[split], self.labels or (), tally):
            if record.label is not None and self.skips(record):
                skipped[f"the label {clean_label(record.label)!r}"] += 1
                continue
            label = self._parse_label(record, matcher, split)
            tally.check_texts(record)
            text_a, text_b = record.text_a, record.text_b
            if self.clean:
                text_a = clean_classification_text(text_a)
                text_b = None if text_b is None else clean_classification_text(text_b)
            examples.append(Example(text_a, text_b, label))
        if not examples:
            raise DataError(f"{path}: no line with a label that task {self.name} uses")
        if self.sources[split].label_optional:
            _drop_placeholders(self, examples)
        tally.warn_of_empty_texts()
        if tally.broken:
            kept = self.sources[split].label is None or self.sources[split].label_optional
            skipped[f"{_BROKEN}, kept as empty text" if kept else _BROKEN] = len(tally.broken)
        return LoadedSplit(examples, self._report(examples, skipped, matcher))

    def skips(self, record: TableRow) -> bool:
        """Return whether :meth:`read` leaves a record out because of its label."""
        return record.label is not None and clean_label(record.label) in self.skipped_labels

    def _report(
        self, examples: ExampleList[Example], skipped: Counter[str], matcher: LabelMatcher
    ) -> SplitReport:
        given = [label for label in examples.labels if label is not None]
        labels: Mapping[str, int] = {}
        numbers = None
        if given and self.is_multi_label:
            labels = count_holding(self.known_labels(), cast("list[tuple[int, ...]]", given))
        elif given and self.is_regression:
            values = cast("list[float]", given)
            numbers = (float(min(values)), float(sum(values) / len(values)), float(max(values)))
        elif given:
            ids = cast("list[int]", given)
            labels = count_labels(self.known_labels(), Counter(map(int, ids)))
        return SplitReport(
            rows=len(examples),
            skipped=dict(skipped),
            labels=labels,
            respelled=tuple((*pair, count) for pair, count in matcher.respelled.items()),
            numbers=numbers,
            unlabelled=len(examples) - len(given),
        )

    def _records(self, data_dir: str | os.PathLike[str], split: str) -> Iterator[TableRow]:
        return read_records(self.path(data_dir, split), self.sources[split], self.labels or ())

    def _check_header(self, data_dir: str | os.PathLike[str], split: str) -> None:
        """Refuse a file whose header was cut off: its first example would be lost silently."""
        path, source = self.path(data_dir, split), self.sources[split]
        if source.has_keys or not source.header or not isinstance(source.label, int):
            return
        header = read_header(path, source)
        try:
            cell = header[source.label]
        except IndexError:
            return  # read_records names the missing column
        is_number = self.is_regression and _parse_number(cell) is not None
        if clean_label(cell) in (self.labels or ()) or is_number:
            raise DataError(f"{path}:1: holds data, but task {self.name} expects a header there")

    def _parse_label(
        self, record: TableRow, matcher: LabelMatcher, split: str
    ) -> int | float | tuple[int, ...] | None:
        if record.label is None:
            return None
        text, is_optional = clean_label(record.label), self.sources[split].label_optional
        if self.is_regression:
            return None if is_optional and is_missing(text) else self._parse_score(record)
        if self.label_separator is not None:
            count = len(self.known_labels())
            holds, unknown = find_labels(text, self.label_separator, matcher, count, record.where)
            if unknown is None:
                return holds
            text = unknown
        elif (found := matcher.find(text)) is not None:
            return found
        if is_optional and (is_missing(text) or text == PLACEHOLDER):
            return None
        origin = f" (the labels of {self.label_origin})" if self.label_origin else ""
        raise DataError(
            f"{record.where}: unknown label {text!r}; allowed: "
            f"{join_names(self.labels or (), _SHOWN_LABELS)}{origin}"
        )

    def _parse_score(self, record: TableRow) -> float:
        value = _parse_number(record.label or "")
        low, high = self.label_range or (-math.inf, math.inf)
        if value is None or not low <= value <= high:
            allowed = f"number from {low:g} to {high:g}" if self.label_range else "number"
            raise DataError(f"{record.where}: label {record.label!r} is not a {allowed}")
        return value


def _drop_placeholders(task: Task, examples: ExampleList[Example]) -> None:
    """Leave out the labels of the examples, if all of these are the placeholder.

    That is a number in a regression, and no label where several can hold.
    """
    given = set(examples.labels) - {None}
    is_empty = task.is_multi_label and given == {(0,) * len(task.known_labels())}
    if is_empty or (task.is_regression and given == {float(PLACEHOLDER)}):
        examples.drop_labels()


def _parse_number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
