"""Tasks by name: GLUE, SNLI, seven text-classification sets, and custom tasks."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from funnel.tables.readers import register_reader
from funnel.tasks import glue, textcls
from funnel.tasks.base import Example, Task
from funnel.tasks.custom import FORMATS, CustomTaskConfig, build_custom_task
from funnel.tasks.tables import Source
from funnel.utils.errors import ConfigError
from funnel.utils.files import sha256_file

__all__ = [
    "CustomTaskConfig",
    "Example",
    "Task",
    "get_task",
    "register_task",
    "task_names",
]


def _normalize_name(name: str) -> str:
    """Return the form in which names are compared: ``SST-2``, ``sst_2`` and ``SST2`` are equal."""
    return name.lower().replace("-", "").replace("_", "")


_TASKS = {_normalize_name(task.name): task for task in (*glue.TASKS, *textcls.TASKS)}
_TASKS |= {
    _normalize_name(alias): _TASKS[_normalize_name(name)]
    for alias, name in (glue.ALIASES | textcls.ALIASES).items()
}


_REGISTERED: dict[str, Task] = {}


def task_names() -> list[str]:
    """Return the canonical name of every task, registered ones and the custom formats last."""
    tasks = (*glue.TASKS, *textcls.TASKS, *_REGISTERED.values())
    return [task.name for task in tasks] + list(FORMATS)


def register_task(
    name: str,
    read: Callable[[Path], Iterable[Sequence[str]]],
    files: Mapping[str, str],
    *,
    labels: Sequence[str] | None = None,
    metrics: Sequence[str] = ("accuracy",),
    pairs: bool = False,
    regression: bool = False,
) -> Task:
    """Add a task of files in a format of their own; see docs/extending.md.

    Args:
        name: of the task: letters, digits, ``-`` and ``_``.
        read: yields the rows of a file, strings: a text, with ``pairs`` a second one, and the
            label. In test data an empty label means that it is not known.
        files: file names by split: ``train``, ``dev`` and, for predictions, ``test``.
        labels: label texts in the order of their ids; None reads them from the training data.
        metrics: names of metrics, the main one first.
        pairs: rows have two texts.
        regression: the label is a number.

    Raises:
        ConfigError: the name is that of another task, or is not valid.
    """
    key = _normalize_name(name)
    if not re.fullmatch(r"[A-Za-z][\w-]*", name, re.ASCII):
        raise ConfigError(f"task {name!r}: a name has letters, digits, - and _")
    if key in FORMATS or (key in _TASKS and key not in _REGISTERED):
        raise ConfigError(f"task {name!r} exists; give yours another name")
    known = {"train", "dev", "test"}
    if unknown := [split for split in files if split not in known]:
        raise ConfigError(f"task {name!r}: split {unknown[0]!r} is none of {', '.join(known)}")
    file_format = f"{key}{_fingerprint(read)}"
    register_reader(file_format, read)
    second, width = (1, 3) if pairs else (None, 2)
    sources = {
        split: Source(
            *((file,), 0, second, width - 1, file_format),
            header=False,
            width=width,
            label_optional=split == "test",
        )
        for split, file in files.items()
    }
    task = Task(
        *(name.lower(), None if labels is None else tuple(labels), sources, tuple(metrics)),
        is_regression=regression,
    )
    _TASKS[key] = _REGISTERED[key] = task
    return task


def _fingerprint(function: Callable[..., object]) -> str:
    """Return a hash of the file that defines a function; empty if there is none.

    It is part of a task's format, so that cached examples are made again when the reader changes.
    """
    code = getattr(function, "__code__", None)
    path = Path(getattr(code, "co_filename", ""))
    return f"-{sha256_file(path)[:16]}" if path.is_file() else ""


def get_task(name: str, *, custom: CustomTaskConfig | None = None) -> Task:
    """Return the task called ``name``; case, ``-`` and ``_`` do not matter.

    Args:
        name: a name of :func:`task_names` or an alias (``MNLI``, ``ag_news`` ...); ``tsv``,
            ``csv``, ``jsonl``, ``json`` and ``parquet`` are custom tasks.
        custom: how the files of a custom task are read.

    Raises:
        ConfigError: there is no such task, or ``custom`` does not match it.
    """
    key = _normalize_name(name)
    if key in FORMATS:
        config = custom or CustomTaskConfig(format=key)
        if config.format != key:
            raise ConfigError(f"task {name}: the custom format is {config.format!r}, not {key!r}")
        return build_custom_task(config)
    if key not in _TASKS:
        close = difflib.get_close_matches(key, _TASKS, n=1)
        hint = f"did you mean {_TASKS[close[0]].name}? " if close else ""
        raise ConfigError(f"unknown task {name!r}; {hint}known: {', '.join(task_names())}")
    if custom is not None:
        raise ConfigError(f"task {name}: columns and files of a known task cannot be set")
    return _TASKS[key]
