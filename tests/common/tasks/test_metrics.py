"""Scores of every task, against their definitions, and where those divide zero by zero."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest

from funnel.tasks import CustomTaskConfig, get_task
from funnel.tasks.metrics import compute

TRUTH = np.array([0, 0, 0, 1, 1, 1, 1, 0])
GUESS = np.array([0, 1, 0, 1, 1, 0, 1, 0])  # 3 true positives, 1 false one, 1 missed, 3 negatives


def test_matthews_correlation_by_its_definition():
    scores = compute(get_task("cola"), GUESS, TRUTH)
    assert list(scores) == ["matthews_corr", "accuracy"]
    assert scores["matthews_corr"] == pytest.approx((3 * 3 - 1 * 1) / math.sqrt(4 * 4 * 4 * 4))
    assert scores["accuracy"] == 0.75


def test_accuracy_and_f1_by_their_definitions():
    scores = compute(get_task("mrpc"), np.array([1, 1, 0, 1]), np.array([1, 0, 0, 1]))
    f1 = 2 * 2 / (2 * 2 + 1)
    assert scores == pytest.approx({"accuracy_f1": (0.75 + f1) / 2, "accuracy": 0.75, "f1": f1})
    assert next(iter(scores)) == "accuracy_f1"


def test_correlations_by_their_definitions():
    labels = np.array([0.0, 1.0, 2.0, 5.0], np.float32)
    scores = compute(get_task("sts-b"), np.array([1.0, 2.0, 9.0, 8.0]), labels)
    pearson = np.corrcoef([1, 2, 9, 8], labels)[0, 1]
    assert scores == pytest.approx(
        {"pearson_spearman": (pearson + 0.8) / 2, "pearson": pearson, "spearman": 0.8}, abs=1e-6
    )


def test_error_rate_of_text_classification():
    scores = compute(get_task("ag"), np.array([0, 1, 2, 2]), np.array([0, 1, 2, 3]))
    assert scores == {"accuracy": 0.75, "error_rate": 0.25}


def test_macro_f1_of_a_custom_task():
    config = CustomTaskConfig(labels=("a", "b", "c"), metric="macro_f1")
    scores = compute(get_task("tsv", custom=config), np.array([0, 1, 1]), np.array([0, 1, 2]))
    assert scores["macro_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)


@pytest.mark.parametrize("guess", [0, 1])
@pytest.mark.parametrize("truth", [0, 1])
@pytest.mark.parametrize("name", ["cola", "mrpc"])
def test_constant_classes_are_defined(name, guess, truth):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = compute(get_task(name), np.full(5, guess), np.full(5, truth))
    assert scores["accuracy"] == float(guess == truth)
    assert scores.get("matthews_corr", 0.0) == 0.0
    if name == "mrpc":
        assert scores["f1"] == float(guess == truth == 1)


@pytest.mark.parametrize(
    "guess",
    [
        [2.5, 2.5, 2.5],
        [np.nan, 1, 2],
        [np.inf, 1, 2],
        [1, 1, 1 + 1e-16],
        [1e9, 1e9 + 1e-7, 1e9],
    ],
)
def test_correlation_of_constant_or_broken_scores_is_zero(guess):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = compute(get_task("sts-b"), np.array(guess), np.array([0.0, 2.0, 5.0]))
    assert np.isfinite(list(scores.values())).all()
    if np.ptp(guess) < 1e-9 or not np.isfinite(guess).all():
        assert set(scores.values()) == {0.0}


@pytest.mark.parametrize("name", ["sts-b", "cola", "mrpc", "rte"])
def test_one_example(name):
    assert all(np.isfinite(v) for v in compute(get_task(name), np.array([1]), [1]).values())


def test_diagnostic_has_no_metric():
    assert compute(get_task("diagnostic"), np.array([1]), np.array([1])) == {}


@pytest.mark.parametrize("guess, truth", [([], []), ([1], [1, 0])])
def test_arrays_that_do_not_match(guess, truth):
    with pytest.raises(ValueError, match="predictions for"):
        compute(get_task("rte"), np.array(guess), np.array(truth))


def test_every_metric_of_every_task_can_be_computed():
    for metric in ("f1", "accuracy_f1", "matthews_corr", "macro_f1", "accuracy"):
        task = get_task("tsv", custom=CustomTaskConfig(labels=("a", "b"), metric=metric))
        assert compute(task, GUESS, TRUTH)[metric] > 0.4
    for metric in ("pearson", "spearman", "pearson_spearman"):
        task = get_task("tsv", custom=CustomTaskConfig(regression=True, metric=metric))
        assert next(iter(compute(task, GUESS, TRUTH))) == metric
    assert compute(replace(get_task("rte"), metrics=()), GUESS, TRUTH) == {}
