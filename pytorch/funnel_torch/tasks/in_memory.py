"""Classification data held in Python: lists, columns, data frames and ``datasets`` objects.

pandas and datasets are recognized by their interface and never imported.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from funnel.tasks import Example, Task
from funnel.tasks.custom import CustomTaskConfig, build_custom_task
from funnel.tasks.labels import FoundLabels, LabelMatcher, clean_label, count_labels
from funnel.utils.errors import ConfigError, DataError
from funnel.utils.split_report import SplitReport
from funnel.utils.text import join_names

TASK_NAME = "texts"
# How pandas writes values that are not there; they are recognized without importing it.
_MISSING_TYPES = ("NAType", "NaTType")
_SHOWN = 20


@dataclass(frozen=True)
class ColumnNames:
    """Columns of a table, or keys of dictionaries.

    Attributes:
        text: the text.
        text_b: the second text of pairs; None is ``text_b`` where there is such a column.
        label: the label.
    """

    text: str = "text"
    text_b: str | None = None
    label: str = "label"


class Row(NamedTuple):
    """One text or pair, and its label as it was given; ``where`` names it in messages."""

    where: str
    text: str
    text_b: str | None
    label: Any


@dataclass(frozen=True)
class Rows:
    """All rows of a split.

    Attributes:
        name: of the split, for messages.
        rows: in their order.
        class_names: names of integer labels, if the data has them (``datasets.ClassLabel``).
    """

    name: str
    rows: Sequence[Row]
    class_names: tuple[str, ...] | None = None

    @property
    def are_pairs(self) -> bool:
        """Whether the rows have two texts; all of them or none."""
        return self.rows[0].text_b is not None

    def check_form(self, pairs: bool) -> None:
        """Check that the rows are of the form of the training data.

        Raises:
            DataError: they are pairs and those were not, or the other way round.
        """
        if self.are_pairs != pairs:
            trained, given = ("pairs", "single texts") if pairs else ("single texts", "pairs")
            raise DataError(
                f"{self.name}: the model is trained on {trained}, these are {given} (of labelled "
                "tuples give the texts only)"
            )


def read_rows(
    name: str, data: Any, columns: ColumnNames = ColumnNames(), *, labelled: bool = True
) -> Rows:
    """Return the rows of any supported object.

    Args:
        name: of the split, for messages.
        data: tuples (text, label) or (text, second text, label); dictionaries; a mapping of
            columns; a pandas data frame; a ``datasets.Dataset``. Without labels also strings and
            pairs of strings.
        columns: names where the object has names.
        labelled: whether the rows have labels.

    Raises:
        DataError: another object, no rows, a missing column or value; names the row.
    """
    if isinstance(data, str | bytes | os.PathLike):
        raise DataError(
            f"{name}: {str(data)[:80]!r} is no list of texts; if it is a file, read it first "
            "(pandas.read_csv), or use classifier.py"
        )
    names = _column_names(data)
    if names is not None:
        rows = _table_rows(name, data, names, columns, labelled)
    elif isinstance(data, Iterable):
        rows = [_read_item(f"{name}[{i}]", row, columns, labelled) for i, row in enumerate(data)]
    else:
        raise DataError(f"{name}: a {type(data).__name__} holds no texts; give a list or a table")
    if not rows:
        raise DataError(f"{name}: is empty; it should hold at least one text")
    if len({row.text_b is None for row in rows}) > 1:
        odd = next(row for row in rows if (row.text_b is None) != (rows[0].text_b is None))
        raise DataError(f"{odd.where}: some rows are pairs and some single texts")
    class_names = _class_names(data, columns.label)
    if class_names and labelled:
        rows = [row._replace(label=_name_class(row, class_names)) for row in rows]
    return Rows(name, rows, class_names)


def _column_names(data: Any) -> list[str] | None:
    """Return the column names of a table; None for any other object."""
    if isinstance(data, Mapping):
        if any(hasattr(part, "column_names") for part in data.values()):
            names = join_names([repr(key) for key in data])
            raise DataError(f"a dictionary of splits: give one of them, by its name: {names}")
        return [str(key) for key in data]
    found = getattr(data, "column_names", None)
    if found is None:
        found = getattr(data, "columns", None)
    return None if found is None or not hasattr(data, "__len__") else [str(c) for c in found]


def _table_rows(
    name: str, data: Any, names: Sequence[str], columns: ColumnNames, labelled: bool
) -> list[Row]:
    text_b = columns.text_b
    if text_b is None and "text_b" in names:
        text_b = "text_b"
    needed = [columns.text, text_b, columns.label if labelled else None]
    for role, column in zip(("text", "text_b", "label"), needed, strict=True):
        if column is not None and column not in names:
            raise DataError(
                f"{name}: has no column {column!r}, only {join_names(names, _SHOWN)}; "
                f"{role}=... names it"
            )
        if column is not None and names.count(column) > 1:
            raise DataError(f"{name}: has {names.count(column)} columns {column!r}; keep one")
    parts = [None if column is None else list(data[column]) for column in needed]
    texts, seconds, labels = parts
    assert texts is not None
    sizes = {len(part) for part in parts if part is not None}
    if len(sizes) != 1:
        raise DataError(f"{name}: its columns have different lengths: {sorted(sizes)}")
    return [
        Row(
            f"{name}[{i}]",
            _read_text(f"{name}[{i}]", text, columns.text),
            None if seconds is None else _read_text(f"{name}[{i}]", seconds[i], text_b or ""),
            None if labels is None else labels[i],
        )
        for i, text in enumerate(texts)
    ]


def _read_item(where: str, item: Any, columns: ColumnNames, labelled: bool) -> Row:
    """Return the row that one item of a list is."""
    if isinstance(item, Mapping):
        second = columns.text_b or ("text_b" if "text_b" in item else None)
        for key in (columns.text, second, columns.label if labelled else None):
            if key is not None and key not in item:
                raise DataError(f"{where}: has no {key!r}, only {join_names(list(map(str, item)))}")
        text_b = None if second is None else _read_text(where, item[second], second)
        label = item[columns.label] if labelled else None
        return Row(where, _read_text(where, item[columns.text], columns.text), text_b, label)
    if isinstance(item, str):
        item = (item,)
    if not isinstance(item, Sequence):
        raise DataError(f"{where}: is a {type(item).__name__}, should be a tuple or a dictionary")
    least = 2 if labelled else 1
    if len(item) not in (least, least + 1):
        form = "(text, label) or (text, second text, label)" if labelled else "a text or a pair"
        raise DataError(f"{where}: has {len(item)} values, should be {form}")
    text_b = None if len(item) == least else _read_text(where, item[1], "second text")
    return Row(where, _read_text(where, item[0], "text"), text_b, item[-1] if labelled else None)


def _read_text(where: str, value: Any, name: str) -> str:
    if isinstance(value, str):
        return value
    if is_missing_value(value):
        raise DataError(f"{where}: {name} is missing; leave the row out, or give an empty string")
    raise DataError(f"{where}: {name} is a {type(value).__name__}, should be a string")


def is_missing_value(value: Any) -> bool:
    """Return whether a value is None, NaN or pandas' mark of a missing one."""
    is_nan = isinstance(value, float) and math.isnan(value)
    return value is None or is_nan or type(value).__name__ in _MISSING_TYPES


def _class_names(data: Any, label: str) -> tuple[str, ...] | None:
    """Return the names in a ``datasets.ClassLabel``, if the labels have that type."""
    features = getattr(data, "features", None)
    feature = features.get(label) if isinstance(features, Mapping) else None
    names = getattr(feature, "names", None)
    return tuple(map(str, names)) if isinstance(names, list | tuple) else None


def _name_class(row: Row, names: Sequence[str]) -> Any:
    """Return the name of an integer label; -1 marks a row without label."""
    label = _unwrap(row.label)  # a number of NumPy or PyTorch after Dataset.with_format
    if not isinstance(label, int) or label == -1:
        return None
    if not 0 <= label < len(names):
        raise DataError(f"{row.where}: label {label} is none of the {len(names)} classes")
    return names[label]


@dataclass(frozen=True)
class LabelRequest:
    """How labels are read; None leaves it to the data.

    Attributes:
        labels: the classes, in the order of the model's outputs.
        regression: labels are numbers to predict; None: if all are fractional numbers.
        metric: as ``--metric`` of ``classifier.py``.
    """

    labels: Sequence[Any] | None = None
    regression: bool | None = None
    metric: str | None = None


def build_task(train: Rows, request: LabelRequest) -> Task:
    """Return the task of the training rows: problem type, labels and metrics.

    Raises:
        DataError: a label is missing or no label.
        ConfigError: the settings contradict the labels or each other.
    """
    labels = None if request.labels is None else tuple(map(_spell, request.labels))
    if labels is None and not _is_regression(train, request):
        labels = train.class_names or _find_labels(train)
        if len(labels) < 2:
            raise DataError(
                f"{train.name}: every label is {labels[0]!r}; at least two labels are needed, "
                "which labels=[...] may name"
            )
    regression = _is_regression(train, request)
    config = CustomTaskConfig("jsonl", labels=labels, regression=regression, metric=request.metric)
    return replace(build_custom_task(config), name=TASK_NAME, sources={}, label_origin=train.name)


def _is_regression(train: Rows, request: LabelRequest) -> bool:
    if request.regression is not None or request.labels is not None:
        return bool(request.regression)
    values = [_unwrap(row.label) for row in train.rows]
    if not all(isinstance(value, float) for value in values):
        return False
    if all(value.is_integer() for value in values):
        raise ConfigError(
            f"{train.name}: its labels are whole numbers of type float: regression=True predicts "
            "numbers, regression=False takes them for classes"
        )
    return True


def _find_labels(train: Rows) -> tuple[str, ...]:
    found = FoundLabels()
    for row in train.rows:
        found.add(_label_text(row), row.where)
    found.warn()
    return found.ordered()


def _unwrap(value: Any) -> Any:
    """Return a NumPy or PyTorch number as one of Python."""
    return value.item() if hasattr(value, "item") and not isinstance(value, str) else value


def _label_text(row: Row) -> str:
    value = _unwrap(row.label)
    if is_missing_value(value):
        raise DataError(f"{row.where}: has no label; leave the row out")
    if not isinstance(value, str | int | float):
        raise DataError(
            f"{row.where}: label {str(value)[:40]!r} is a {type(value).__name__}; it should be one "
            "string or number"
        )
    return _spell(value)


def _spell(value: Any) -> str:
    """Return a label as text; a whole number of type float is that number."""
    value = _unwrap(value)
    is_whole = isinstance(value, float) and value.is_integer()
    return clean_label(str(int(value) if is_whole else value))


def original_labels(train: Rows, task: Task) -> dict[str, Any]:
    """Return each class as it was given: a number or boolean, where every label is one."""
    if task.is_regression:
        return {}
    values = {_spell(row.label): _unwrap(row.label) for row in train.rows}
    # Blanks around a label are no part of it, and rows may differ in them.
    values = {key: key if isinstance(value, str) else value for key, value in values.items()}
    kinds = {type(value) for value in values.values()}
    complete = set(values) == set(task.known_labels()) and len(kinds) == 1
    return values if complete else {label: label for label in task.known_labels()}


def read_examples(rows: Rows, task: Task) -> tuple[list[Example], SplitReport]:
    """Return the rows as examples of a task, and the counts that are logged.

    Raises:
        DataError: a label is missing, unknown or no number; names the row.
    """
    matcher = LabelMatcher(task.known_labels())
    given = [_read_label(row, task, matcher) for row in rows.rows]
    pairs = zip(rows.rows, given, strict=True)
    examples = [Example(row.text, row.text_b, label) for row, label in pairs]
    respelled = tuple((*pair, count) for pair, count in matcher.respelled.items())
    report = SplitReport(len(examples), respelled=respelled)
    if task.is_regression:
        numbers = (float(min(given)), float(sum(given) / len(given)), float(max(given)))
        return examples, replace(report, numbers=numbers)
    counts = count_labels(task.known_labels(), Counter(map(int, given)))
    return examples, replace(report, labels=counts)


def _read_label(row: Row, task: Task, matcher: LabelMatcher) -> int | float:
    text = _label_text(row)
    if task.is_regression:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise DataError(f"{row.where}: label {text!r} is no number, which regression predicts")
        return number
    found = matcher.find(text)
    if found is None:
        allowed = join_names(task.known_labels(), _SHOWN)
        raise DataError(f"{row.where}: unknown label {text!r}; allowed: {allowed}")
    return found
