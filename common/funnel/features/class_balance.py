"""Weights of labels, and examples repeated, so that rare labels count as much as frequent ones."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence

import numpy as np

from funnel.config.training.losses import LabelLoss, LossSettings
from funnel.tasks.base import Task
from funnel.tasks.labels import match_order
from funnel.utils.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

BALANCED = "balanced"


def label_loss(settings: LossSettings, task: Task, counts: Sequence[int], total: int) -> LabelLoss:
    """Return the loss that settings describe.

    ``balanced`` weighs a class by ``total / (classes * count)``, so that the mean weight of an
    example is 1; and where several labels hold, one by the number of examples without it over that
    with it.

    Args:
        settings: those of the program.
        task: its labels give the order of the weights.
        counts: training examples of each label.
        total: training examples.

    Raises:
        ConfigError: a weight is no positive number, or for no label of the task.
        DataError: a label without training examples cannot be balanced.
    """
    labels = task.known_labels()
    if not settings.class_weights:
        return LabelLoss((), settings.label_smoothing)
    if settings.class_weights != BALANCED:
        weights = _parse_weights(settings.class_weights, labels)
    else:
        rare = [label for label, count in zip(labels, counts, strict=True) if not count]
        if rare:
            raise DataError(f"--class_weights=balanced: no training example has {rare[0]!r}")
        if task.is_multi_label:
            # A label that always holds has no example without it; its weight stays positive.
            weights = tuple(max(total - count, 1) / count for count in counts)
        else:
            weights = tuple(total / (len(labels) * count) for count in counts)
    shown = ", ".join(f"{name} {value:.4g}" for name, value in zip(labels, weights, strict=True))
    logger.info("weights of the labels in the loss: %s", shown)
    return LabelLoss(weights, settings.label_smoothing)


def _parse_weights(text: str, labels: Sequence[str]) -> tuple[float, ...]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise ConfigError(f"--class_weights={text}: should be balanced or a JSON object")
    weights = dict.fromkeys(labels, 1.0)
    for name, value in values.items():
        found = next((label for label in labels if match_order([label], [name])), None)
        if found is None:
            raise ConfigError(
                f"--class_weights: {name!r} is no label of the task: {', '.join(labels[:20])}"
            )
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 < value < math.inf:
            raise ConfigError(f"--class_weights: {name}: {value} should be a positive number")
        weights[found] = float(value)
    return tuple(weights.values())


def count_classes(labels: np.ndarray, count: int) -> list[int]:
    """Return the examples of each label, for class ids [n] or vectors of 0 and 1 [n, count]."""
    if labels.ndim == 2:
        return labels.sum(axis=0).astype(int).tolist()
    return np.bincount(labels, minlength=count).tolist()


def balance_examples(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return numbers of examples, some repeated, in which every class of ``labels`` is as frequent.

    Every example occurs; those of a rarer class are repeated as often as it takes, and the rest is
    drawn from them without replacement.

    Args:
        labels: class ids [n].
        seed: of the draw.
    """
    generator = np.random.default_rng(seed)
    classes, counts = np.unique(labels, return_counts=True)
    most = int(counts.max(initial=0))
    parts = []
    for label, count in zip(classes, counts.tolist(), strict=True):
        members = np.flatnonzero(labels == label)
        times, rest = divmod(most, count)
        parts += [np.tile(members, times), generator.choice(members, rest, replace=False)]
    found = np.sort(np.concatenate(parts)) if parts else np.empty(0, np.int64)
    logger.info("balanced sampling: %d examples become %d a pass", len(labels), len(found))
    return found
