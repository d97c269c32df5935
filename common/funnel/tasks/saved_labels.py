"""The labels of a trained model: they, and not the data, say what its outputs mean."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace

from funnel.config.heads import MULTI_LABEL, REGRESSION, SINGLE_LABEL, SavedHead
from funnel.tasks import multi_label
from funnel.tasks.base import Task
from funnel.tasks.custom import FORMATS, METRICS
from funnel.tasks.labels import clean_label, describe_labels, match_order, name_unnamed
from funnel.utils.errors import CheckpointError, ConfigError, DataError
from funnel.utils.text import join_names

logger = logging.getLogger(__name__)

_SHOWN = 20


def take_labels(
    task: Task, head: SavedHead, data_dir: str | os.PathLike[str] = "", remedy: str = ""
) -> Task:
    """Return ``task`` with its labels in the order of a model's outputs.

    The labels keep the task's spelling if they differ from the model's in case and blanks only. A
    task of own files takes the labels and the problem type of the model. If the model does not
    name its labels, they are those of the task, else of its training file, if there is one, else
    ``LABEL_0``, ``LABEL_1``, …; this is logged.

    Args:
        task: a task, whose labels may not have been resolved.
        head: the model's classification head.
        data_dir: directory of the task's files.
        remedy: what the user can do if the model is to be trained further, for messages.

    Raises:
        ConfigError: the model has another problem type, or other labels.
        CheckpointError: the model has another number of outputs.
    """
    task = _take_problem_type(task, head, remedy)
    if task.is_regression:
        _check_outputs(head, 1, remedy)
        return task
    if head.labels is None:
        return _name_outputs(task, head, data_dir, remedy)
    names = tuple(clean_label(label) for label in head.labels)
    if len(set(names)) != len(names) or len(names) != head.num_outputs:
        raise CheckpointError(
            f"{head.where}: names the labels {join_names(names, _SHOWN)}; a head of "
            f"{head.num_outputs} outputs needs as many different names"
        )
    if task.labels is None:
        logger.info("labels of %s: %s", head.where, describe_labels(names))
        return replace(task, labels=names, label_origin=head.where)
    _check_outputs(head, len(task.labels), remedy)
    return _reorder(task, names, head, remedy)


def _take_problem_type(task: Task, head: SavedHead, remedy: str) -> Task:
    if head.problem_type == MULTI_LABEL and not task.is_multi_label:
        return _take_several_labels(task, head, remedy)
    if task.is_multi_label and head.problem_type not in (MULTI_LABEL, None):
        raise ConfigError(
            f"{head.where}: its problem_type is {head.problem_type}, with --multi_label it is "
            f"{MULTI_LABEL}{_add(remedy)}"
        )
    if task.is_multi_label:
        return task
    if task.is_regression == head.is_regression:
        return task
    # A head of one output without stated type is refused for its size.
    if head.problem_type is None and not task.is_regression and task.labels is not None:
        return task
    if head.is_regression and task.labels is None:
        if task.metrics != METRICS["accuracy"]:
            raise ConfigError(
                f"{head.where}: predicts a number, for which {task.metrics[0]} is no metric"
            )
        logger.info("%s: predicts a number: the labels are read as numbers", head.where)
        return replace(task, is_regression=True, metrics=METRICS["pearson_spearman"])
    ours = REGRESSION if task.is_regression else SINGLE_LABEL
    theirs = head.problem_type or (REGRESSION if head.is_regression else SINGLE_LABEL)
    raise ConfigError(
        f"{head.where}: its problem_type is {theirs}, task {task.name} is {ours}{_add(remedy)}"
    )


def _take_several_labels(task: Task, head: SavedHead, remedy: str) -> Task:
    """Return a task of own files whose labels are read as those of a model with several."""
    is_own = task.name in FORMATS and not task.is_regression
    if not is_own or task.metrics != METRICS["accuracy"]:
        about = f"for which {task.metrics[0]} is no metric" if is_own else f"task {task.name}'s not"
        raise ConfigError(
            f"{head.where}: its problem_type is {MULTI_LABEL}: several labels hold at a time, "
            f"{about}{_add(remedy)}"
        )
    logger.info("%s: several labels can hold for a text", head.where)
    sources = {split: replace(one, label_list=True) for split, one in task.sources.items()}
    metrics, separator = multi_label.METRICS["micro_f1"], multi_label.DEFAULT_SEPARATOR
    return replace(task, label_separator=separator, sources=sources, metrics=metrics)


def _check_outputs(head: SavedHead, needed: int, remedy: str) -> None:
    if head.num_outputs != needed:
        raise CheckpointError(
            f"{head.where}: its classification head has {head.num_outputs} outputs, the task "
            f"needs {needed}{_add(remedy)}"
        )


def _name_outputs(
    task: Task, head: SavedHead, data_dir: str | os.PathLike[str], remedy: str
) -> Task:
    """Return the task with labels for a model that does not name its own."""
    if task.labels is None:
        try:
            task.path(data_dir, "train")
        except DataError:
            names = name_unnamed(head.num_outputs)
            task = replace(task, labels=names, label_origin=f"{head.where}; --labels names them")
        else:
            task = task.resolve_labels(data_dir)
    labels = task.known_labels()
    _check_outputs(head, len(labels), remedy)
    logger.warning(
        "%s: does not name its labels; its outputs are taken for %s",
        *(head.where, describe_labels(labels)),
    )
    return task


def _reorder(task: Task, names: Sequence[str], head: SavedHead, remedy: str) -> Task:
    before = task.known_labels()
    after = match_order(before, names)
    if after is None:
        fix = remedy or "if they mean the same, name them so in the files of the model or the data"
        raise ConfigError(
            f"{head.where}: the labels of the model are {join_names(names, _SHOWN)}, those of "
            f"task {task.name} are {join_names(before, _SHOWN)}{_add(fix)}"
        )
    if after == before == tuple(names):
        return task
    logger.warning(
        "%s: its labels are %s; those of task %s are read in this order: %s",
        *(head.where, describe_labels(names), task.name, describe_labels(after)),
    )
    constant = task.constant_prediction
    return replace(
        task,
        labels=after,
        positive_id=after.index(before[task.positive_id]),
        constant_prediction=None if constant is None else after.index(before[constant]),
    )


def _add(remedy: str) -> str:
    return f"; {remedy}" if remedy else ""
