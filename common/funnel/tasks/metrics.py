"""Metrics of classification and regression tasks, as fractions.

Every metric is defined for any input of at least one example: if its formula divides zero by zero
(e.g. for a model that always predicts the same class), it is 0.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np

from funnel.tasks.base import Task
from funnel.tasks.multi_label import score_labels
from funnel.utils.errors import ConfigError


def compute(task: Task, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Compute every metric of ``task``, main metric first, as fractions (from -1 or 0 to 1).

    Args:
        task: determines the metrics; the diagnostic set has none.
        predictions: class ids, or scores for regression, [n]; 0 or 1 for every label, [n, L], where
            several can hold.
        labels: gold labels, of the same shape.

    Raises:
        ValueError: the arrays are empty or of different lengths.
    """
    if task.is_multi_label:
        scores = score_labels(np.asarray(predictions), np.asarray(labels))
        return {name: scores[name] for name in task.metrics}
    predictions, labels = np.asarray(predictions).reshape(-1), np.asarray(labels).reshape(-1)
    if len(predictions) != len(labels) or not len(labels):
        raise ValueError(f"{len(predictions)} predictions for {len(labels)} labels")
    if task.positive_id != 1:
        predictions, labels = (_swap(ids, 1, task.positive_id) for ids in (predictions, labels))
    if task.is_regression:
        predictions, labels = predictions.astype(np.float64), labels.astype(np.float64)
    with warnings.catch_warnings():
        # Scikit-learn and scipy warn about constant inputs, for which 0 is intended.
        warnings.simplefilter("ignore")
        return {name: _finite(_METRICS[name](predictions, labels)) for name in task.metrics}


def register_metric(name: str, function: Metric) -> None:
    """Add a metric that tasks can name.

    Args:
        name: of the metric.
        function: returns the score of predictions and gold labels, class ids [n] each (numbers in
            a regression).

    Raises:
        ConfigError: there is a metric of this name.
    """
    if name in _METRICS and name not in _REGISTERED:
        raise ConfigError(f"metric {name!r} exists; give yours another name")
    _REGISTERED.add(name)
    _METRICS[name] = function


def _swap(ids: np.ndarray, one: int, other: int) -> np.ndarray:
    """Return class ids with two classes exchanged; metrics are about class 1, or symmetric."""
    return np.where(ids == one, other, np.where(ids == other, one, ids))


def _finite(value: float) -> float:
    return float(value) if np.isfinite(value) else 0.0


# Scikit-learn and scipy take seconds to import, so they are imported when first used.


def _accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(predictions == labels))


def _error_rate(predictions: np.ndarray, labels: np.ndarray) -> float:
    return 1.0 - _accuracy(predictions, labels)


def _f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Return the F1 of class 1 of two classes."""
    from sklearn.metrics import f1_score

    return f1_score(labels == 1, predictions == 1, zero_division=0)


def _macro_f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Return the unweighted mean of the F1 of all classes that occur."""
    from sklearn.metrics import f1_score

    return f1_score(labels, predictions, average="macro", zero_division=0)


def _accuracy_f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    return (_accuracy(predictions, labels) + _f1(predictions, labels)) / 2


def _matthews(predictions: np.ndarray, labels: np.ndarray) -> float:
    from sklearn.metrics import matthews_corrcoef

    return matthews_corrcoef(labels, predictions)


def _is_correlation_defined(predictions: np.ndarray, labels: np.ndarray) -> bool:
    return all(np.isfinite(a).all() and np.ptp(a) > 0 for a in (predictions, labels))


def _pearson(predictions: np.ndarray, labels: np.ndarray) -> float:
    from scipy.stats import pearsonr

    if not _is_correlation_defined(predictions, labels):
        return 0.0
    return pearsonr(predictions, labels).statistic


def _spearman(predictions: np.ndarray, labels: np.ndarray) -> float:
    from scipy.stats import spearmanr

    if not _is_correlation_defined(predictions, labels):
        return 0.0
    return spearmanr(predictions, labels).statistic


def _pearson_spearman(predictions: np.ndarray, labels: np.ndarray) -> float:
    return (_finite(_pearson(predictions, labels)) + _finite(_spearman(predictions, labels))) / 2


Metric = Callable[[np.ndarray, np.ndarray], float]
_REGISTERED: set[str] = set()
_METRICS: dict[str, Metric] = {
    "accuracy": _accuracy,
    "error_rate": _error_rate,
    "f1": _f1,
    "macro_f1": _macro_f1,
    "accuracy_f1": _accuracy_f1,
    "matthews_corr": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
    "pearson_spearman": _pearson_spearman,
}
