"""The tags of a trained model: they, and not the data, say what its outputs mean."""

from __future__ import annotations

import logging
import os
from dataclasses import replace

from funnel.config.heads import SavedHead
from funnel.tasks.labels import clean_label, describe_labels, match_order, name_unnamed
from funnel.tasks.tagging.task import TaggingTask
from funnel.utils.errors import CheckpointError, ConfigError
from funnel.utils.text import join_names

logger = logging.getLogger(__name__)

_SHOWN = 20


def take_tags(
    task: TaggingTask,
    head: SavedHead,
    data_dir: str | os.PathLike[str] = "",
    remedy: str = "",
) -> TaggingTask:
    """Return ``task`` with its tags in the order of a model's outputs.

    If the model does not name its tags, they are those of the task, else of its training file, if
    there is one, else ``LABEL_0``, ``LABEL_1``, …; this is logged.

    Args:
        task: a task, whose tags may not have been resolved.
        head: the model's token-classification head.
        data_dir: directory of the task's files.
        remedy: what the user can do if the model is to be trained further, for messages.

    Raises:
        ConfigError: the model has other tags.
        CheckpointError: the model has another number of outputs.
    """
    fix = f"; {remedy}" if remedy else ""
    if head.labels is None:
        if task.labels is None and task.has_split(data_dir, "train"):
            task = task.resolve_labels(data_dir)
        names = task.labels or name_unnamed(head.num_outputs)
        logger.warning(
            "%s: does not name its tags; its outputs are taken for %s",
            *(head.where, describe_labels(names)),
        )
        _check_count(head, len(names), fix)
        return replace(task, labels=names, label_origin=task.label_origin or head.where)
    names = tuple(clean_label(label) for label in head.labels)
    if len(set(names)) != len(names) or len(names) != head.num_outputs:
        raise CheckpointError(
            f"{head.where}: names the tags {join_names(names, _SHOWN)}; a head of "
            f"{head.num_outputs} outputs needs as many different names"
        )
    if task.labels is None:
        logger.info("tags of %s: %s", head.where, describe_labels(names))
        return replace(task, labels=names, label_origin=head.where)
    _check_count(head, len(task.labels), fix)
    ordered = match_order(task.labels, names)
    if ordered is None:
        raise ConfigError(
            f"{head.where}: the tags of the model are {join_names(names, _SHOWN)}, those of the "
            f"data are {join_names(task.labels, _SHOWN)}{fix}"
        )
    if not ordered == task.labels == names:
        logger.warning(
            "%s: its tags are %s; those of the data are read in this order: %s",
            *(head.where, describe_labels(names), describe_labels(ordered)),
        )
    return replace(task, labels=ordered)


def _check_count(head: SavedHead, needed: int, fix: str) -> None:
    if head.num_outputs != needed:
        raise CheckpointError(
            f"{head.where}: its token classifier has {head.num_outputs} outputs, the data has "
            f"{needed} tags{fix}"
        )
