"""Custom tasks: the user's own tables in any format, columns by name or position."""

from __future__ import annotations

import csv
import json
import logging
import re
from dataclasses import asdict, dataclass, replace

from funnel.config.inputs import CUSTOM_FORMATS, CustomTaskSettings
from funnel.tables.readers import KEYED_FORMATS
from funnel.tasks import multi_label
from funnel.tasks.base import Task
from funnel.tasks.labels import clean_label
from funnel.tasks.tables import Column, Source
from funnel.utils.errors import ConfigError
from funnel.utils.text_files import check_encoding

logger = logging.getLogger(__name__)

# Format -> default delimiter.
FORMATS = dict(zip(CUSTOM_FORMATS, ("\t", ",", "", "", ""), strict=True))

# Shells make it hard to pass a tab character, so two spellings of it are accepted.
_DELIMITER_SPELLINGS = {"\\t": "\t", "tab": "\t"}

# Attribute of a column -> flag that sets it.
_FLAGS = {
    "text_a": "--text_column",
    "text_b": "--text_b_column",
    "label": "--label_column",
    "id": "--id_column",
}

METRICS = {
    "accuracy": ("accuracy", "error_rate"),
    "f1": ("f1", "accuracy"),
    "macro_f1": ("macro_f1", "accuracy"),
    "accuracy_f1": ("accuracy_f1", "accuracy", "f1"),
    "matthews_corr": ("matthews_corr", "accuracy"),
    "pearson_spearman": ("pearson_spearman", "pearson", "spearman"),
    "pearson": ("pearson", "spearman", "pearson_spearman"),
    "spearman": ("spearman", "pearson", "pearson_spearman"),
}


@dataclass(frozen=True)
class CustomTaskConfig:
    """Files and columns of a custom task.

    Attributes:
        format: ``tsv`` (tab-separated, quotes are text), ``csv`` (quotes doubled), ``jsonl`` or
            ``json`` (one JSON object a line, or one array of them), or ``parquet``.
        text_a: column of the text: a name in the header (or JSON key), or a 0-based position.
        text_b: column of the second text; ``None`` for single texts.
        label: column of the label. The test file may lack it, or leave it empty.
        labels: label texts in the order of their ids; ``None`` reads them from the training file
            (numeric order if all are integers, otherwise alphabetical).
        regression: the label is a real number.
        train_file, dev_file, test_file: file names; the default is ``train.<format>`` and so on.
        header: whether the first line names the columns; if not, columns are positions.
        delimiter: column separator; the default is a tab (tsv) or a comma (csv).
        metric: main metric; the default is ``accuracy``, or ``pearson_spearman`` for regression.
        id: column that names the examples of dev and test data in files of predictions.
        encoding: of the files.
        label_separator: several labels can hold for a text, in a cell with this between them (or a
            JSON list); None: one label.
    """

    format: str = "tsv"
    text_a: Column = "text"
    text_b: Column | None = None
    label: Column = "label"
    labels: tuple[str, ...] | None = None
    regression: bool = False
    train_file: str | None = None
    dev_file: str | None = None
    test_file: str | None = None
    header: bool = True
    delimiter: str | None = None
    metric: str | None = None
    id: Column | None = None
    encoding: str = "utf-8"
    label_separator: str | None = None


def custom_task_config(name: str | None, settings: CustomTaskSettings) -> CustomTaskConfig | None:
    """Return how the files of task ``name`` are read; None if it is not one of the formats."""
    kind = (name or "").lower()
    if kind not in FORMATS:
        _warn_of_unused(name, settings)
        return None
    second, delimiter, name = settings.text_b_column, settings.delimiter, settings.id_column
    return CustomTaskConfig(
        format=kind,
        text_a=parse_column(settings.text_column, kind),
        text_b=None if second is None else parse_column(second, kind),
        label=parse_column(settings.label_column, kind),
        labels=tuple(map(clean_label, split_labels(settings.labels))) if settings.labels else None,
        regression=settings.regression,
        train_file=settings.train_file,
        dev_file=settings.dev_file,
        test_file=settings.test_file,
        header=settings.header,
        delimiter=None if delimiter is None else _DELIMITER_SPELLINGS.get(delimiter, delimiter),
        metric=settings.metric,
        id=None if name is None else parse_column(name, kind),
        encoding=check_encoding(settings.encoding, ConfigError),
        label_separator=settings.label_separator if settings.multi_label else None,
    )


def split_labels(text: str) -> list[str]:
    """Return the labels in a list: separated by commas, some of them quoted, or a JSON list.

    A text that is neither a JSON list of strings and numbers nor properly quoted is split at every
    comma.
    """
    if text.lstrip().startswith("["):
        try:
            values = json.loads(text)
        except ValueError:
            values = None
        if isinstance(values, list) and all(isinstance(x, str | int | float) for x in values):
            return [x if isinstance(x, str) else json.dumps(x) for x in values]
    try:
        (row,) = csv.reader([text], skipinitialspace=True, strict=True)
    except (csv.Error, ValueError):
        return text.split(",")
    return row


def _warn_of_unused(name: str | None, settings: CustomTaskSettings) -> None:
    """Log the settings that a task with files and labels of its own does not use."""
    usual, values = asdict(CustomTaskSettings()), asdict(settings)
    if given := [key for key in values if values[key] != usual[key]]:
        formats = ", ".join(FORMATS)
        logger.warning("%s are for %s, not used by task %s", ", ".join(given), formats, name)


def parse_column(text: str, file_format: str) -> Column:
    """Return the column that a string names: an integer is a position, unless columns are keys.

    Negative positions count from the last column. In JSON and parquet files every column is a key,
    also ``"0"``.
    """
    is_position = file_format not in KEYED_FORMATS and re.fullmatch(r"-?[0-9]+", text)
    return int(text) if is_position else text


def build_custom_task(config: CustomTaskConfig) -> Task:
    """Build the task of a configuration; its name is the format.

    Raises:
        ConfigError: a setting is unknown or contradicts another.
    """
    _check(config)
    default = "pearson_spearman" if config.regression else "accuracy"
    metrics = METRICS if config.label_separator is None else multi_label.METRICS
    metric = config.metric or (default if metrics is METRICS else "micro_f1")
    files = {
        "train": config.train_file or f"train.{config.format}",
        "dev": config.dev_file or f"dev.{config.format}",
        "test": config.test_file or f"test.{config.format}",
    }
    sources = {
        split: Source(
            names=(file,),
            text_a=config.text_a,
            text_b=config.text_b,
            label=config.label,
            format=config.format,
            header=config.header,
            delimiter=config.delimiter or FORMATS[config.format],
            label_optional=split == "test",
            label_list=config.label_separator is not None,
            id=None if split == "train" else config.id,
            encoding=config.encoding,
        )
        for split, file in files.items()
    }
    labels = None if config.labels is None else tuple(config.labels)
    task = Task(config.format, labels, sources, metrics[metric], is_regression=config.regression)
    return replace(task, label_separator=config.label_separator)


def _check(config: CustomTaskConfig) -> None:
    if config.format not in FORMATS:
        raise ConfigError(
            f"custom task: format {config.format!r} is not one of {', '.join(FORMATS)}"
        )
    delimiter = config.delimiter
    has_keys = config.format in KEYED_FORMATS
    if delimiter is not None and (has_keys or len(delimiter) != 1):
        raise ConfigError(f"custom task: delimiter {delimiter!r} must be one character (tsv, csv)")
    if delimiter is not None and delimiter in '"\r\n':
        raise ConfigError("custom task: the delimiter cannot be a quote or a line end")
    for role in _FLAGS:
        column = getattr(config, role)
        if isinstance(column, str) and not config.header and not has_keys:
            raise ConfigError(
                f"custom task: {_FLAGS[role]}={column}: without a header, give a position, from 0"
            )
        if isinstance(column, int) and has_keys:
            raise ConfigError(
                f"custom task: {_FLAGS[role]}={column}: in {config.format} a column is a key"
            )
    texts = {"--text_column": config.text_a, "--text_b_column": config.text_b}
    for flag, column in texts.items():
        if column == config.label:
            raise ConfigError(f"custom task: {flag} and --label_column are both {column!r}")
    _check_labels(config)


def _check_labels(config: CustomTaskConfig) -> None:
    if config.labels is not None and config.regression:
        raise ConfigError("custom task: labels and regression exclude each other")
    if config.labels is not None and len(set(config.labels)) != len(config.labels):
        raise ConfigError("custom task: a label is listed twice")
    if config.labels is not None and "" in config.labels:
        raise ConfigError("custom task: a label in the list is empty")
    if config.labels is not None and not config.labels:
        raise ConfigError("custom task: the list of labels is empty")
    if config.label_separator is not None:
        _check_multi_label(config)
        return
    if config.metric is None:
        return
    fitting = [name for name in METRICS if ("pearson" in METRICS[name]) == config.regression]
    if config.metric not in fitting:
        kind = "regression" if config.regression else "classification"
        raise ConfigError(
            f"custom task: metric {config.metric!r} is not one for {kind}: {', '.join(fitting)}"
        )


def _check_multi_label(config: CustomTaskConfig) -> None:
    if config.regression:
        raise ConfigError("custom task: several labels and regression exclude each other")
    if not config.label_separator or config.label_separator.isspace():
        raise ConfigError(f"custom task: {config.label_separator!r} cannot separate labels")
    if config.metric is not None and config.metric not in multi_label.METRICS:
        raise ConfigError(
            f"custom task: metric {config.metric!r} is not one for several labels: "
            f"{', '.join(multi_label.METRICS)}"
        )
