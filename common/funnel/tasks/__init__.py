"""Tasks by name: GLUE, SNLI, seven text-classification sets, and custom tasks."""

from __future__ import annotations

import difflib

from funnel.tasks import glue, textcls
from funnel.tasks.base import Example, Task
from funnel.tasks.custom import FORMATS, CustomTaskConfig, build_custom_task
from funnel.utils.errors import ConfigError

__all__ = [
    "CustomTaskConfig",
    "Example",
    "Task",
    "get_task",
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


def task_names() -> list[str]:
    """Return the canonical name of every task, the custom formats last."""
    return [task.name for task in (*glue.TASKS, *textcls.TASKS)] + list(FORMATS)


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
