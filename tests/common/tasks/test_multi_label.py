"""Several labels per text: files, scores, saved models, predictions, weights and sampling."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from funnel.config.heads import MULTI_LABEL, REGRESSION, SINGLE_LABEL, SavedHead
from funnel.config.inputs import CustomTaskSettings
from funnel.config.training.losses import LabelLoss, LossSettings
from funnel.features.class_balance import balance_examples, count_classes, label_loss
from funnel.features.classification import encode_examples
from funnel.tasks import get_task
from funnel.tasks.custom import custom_task_config
from funnel.tasks.metrics import compute
from funnel.tasks.multi_label import score_labels, split_labels
from funnel.tasks.predictions import decide, write_predictions
from funnel.tasks.saved_labels import take_labels
from funnel.utils.errors import ConfigError, DataError
from task_files import LetterTokenizer, write

SEVERAL = {"multi_label": True}


def _task(kind="csv", **changes):
    return get_task(kind, custom=custom_task_config(kind, CustomTaskSettings(**changes)))


@pytest.fixture
def files(tmp_path):
    write(tmp_path / "train.csv", "text,label\na,x|y\nb,\nc, y | z \nd,X\n")
    rows = [{"text": "a", "label": ["x", "y"]}, {"text": "b", "label": []}]
    write(tmp_path / "train.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write(tmp_path / "test.csv", "text,label\na,\nb,\n")
    return tmp_path


def test_cells():
    assert split_labels("a| b |a||", "|") == ["a", "b"]
    assert split_labels('["a|b", 3]', "|") == ["a|b", "3"]
    assert split_labels("[a|b]", "|") == ["[a", "b]"]
    assert split_labels(" ", "|") == split_labels("[]", ";") == []


@pytest.mark.parametrize("value", [["x", None], [["x"]], [{"a": 1}, "x"]])
def test_lists_that_are_no_labels(tmp_path, value):
    """They must not be read as one label that is spelled like JSON."""
    rows = [{"text": "a", "label": ["x", "y"]}, {"text": "b", "label": value}]
    write(tmp_path / "train.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"train\.jsonl:2: label .* should hold names and numbers"):
        _task("jsonl", **SEVERAL).resolve_labels(tmp_path)
    with pytest.raises(DataError, match=r"train\.jsonl:2: label .* should hold names and numbers"):
        _task("jsonl", labels="x,y", **SEVERAL).read(tmp_path, "train")


def test_numbers_in_lists_and_texts_without_labels(tmp_path):
    write(
        tmp_path / "train.jsonl", '{"text": "a", "label": [1.5, 2]}\n{"text": "a", "label": []}\n'
    )
    assert _task("jsonl", **SEVERAL).resolve_labels(tmp_path).labels == ("1.5", "2")
    write(tmp_path / "train.csv", "text,label\na,\nb,\n")
    with pytest.raises(DataError, match=r"train\.csv: no row has a label"):
        _task(**SEVERAL).resolve_labels(tmp_path)


def test_a_label_that_holds_the_separator_is_named(tmp_path, caplog):
    write(tmp_path / "train.jsonl", '{"text": "a", "label": ["x|y", "z"]}\n')
    assert _task("jsonl", **SEVERAL).resolve_labels(tmp_path).labels == ("x|y", "z")
    assert "labels that hold the separator '|': 'x|y'" in caplog.text


def test_files(files):
    task = _task(**SEVERAL).resolve_labels(files)
    assert task.labels == ("X", "x", "y", "z") and task.problem_type == MULTI_LABEL
    examples, report = task.read(files, "train")
    assert [e.label for e in examples] == [(0, 1, 1, 0), (0,) * 4, (0, 0, 1, 1), (1, 0, 0, 0)]
    assert report.labels == {"X": 1, "x": 1, "y": 2, "z": 1}
    features = encode_examples(examples, LetterTokenizer(), 8)
    assert features.labels.shape == (4, 4) and features.labels.dtype == np.float32
    assert task.read(files, "test").report.unlabelled == 2
    lists = _task("jsonl", **SEVERAL, labels="x,y").read(files, "train").examples
    assert [e.label for e in lists] == [(1, 1), (0, 0)]
    with pytest.raises(DataError, match=r"train.csv:2: unknown label 'y'; allowed: x, z"):
        _task(**SEVERAL, labels="x,z").read(files, "train")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"regression": True}, "several labels and regression"),
        ({"label_separator": " "}, "' ' cannot separate labels"),
        ({"metric": "accuracy"}, "'accuracy' is not one for several labels: micro_f1"),
    ],
)
def test_contradictions(changes, message):
    with pytest.raises(ConfigError, match=message):
        _task(**SEVERAL, **changes)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), n=st.integers(1, 6), count=st.integers(1, 4))
def test_scores_are_those_of_scikit_learn(data, n, count):
    from sklearn.metrics import accuracy_score, f1_score

    bits = st.lists(st.integers(0, 1), min_size=n * count, max_size=n * count)
    found, gold = (np.array(data.draw(bits)).reshape(n, count) for _ in range(2))
    scores = score_labels(found, gold)
    if count > 1:  # scikit-learn takes one column for classes
        for name in ("micro", "macro"):
            expected = f1_score(gold, found, average=name, zero_division=0)
            assert scores[f"{name}_f1"] == pytest.approx(expected)
    assert scores["subset_accuracy"] == pytest.approx(accuracy_score(gold, found))


def test_metrics_and_predictions(files):
    task = _task(**SEVERAL, labels="x,y,z", metric="macro_f1")
    logits = np.array([[0.0, -1.0, 2.0], [-1.0, -1.0, -0.1]])
    found = decide(task, logits)
    assert found.tolist() == [[1, 0, 1], [0, 0, 0]]
    scores = compute(task, found, np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]))
    assert list(scores) == ["macro_f1", "micro_f1", "subset_accuracy"]
    assert scores["micro_f1"] == pytest.approx(0.8) and scores["subset_accuracy"] == 0.5
    write_predictions(files / "p.txt", task, found)
    assert (files / "p.txt").read_text() == "x|z\n\n"
    with pytest.raises(ValueError, match="predictions for"):
        score_labels(found, found[:1])


def test_a_saved_model_decides_how_labels_are_read():
    head = SavedHead("M", 2, ("x", "y"), MULTI_LABEL)
    task = take_labels(_task(), head)
    assert task.is_multi_label and task.metrics[0] == "micro_f1" and task.labels == ("x", "y")
    assert task.sources["dev"].label_list
    for other in (_task(regression=True), get_task("sst-2"), _task(metric="f1")):
        with pytest.raises(ConfigError, match="problem_type is multi_label_classification"):
            take_labels(other, head)
    single = replace(head, problem_type=SINGLE_LABEL)
    with pytest.raises(ConfigError, match="is single_label.*with --multi_label it is multi_label"):
        take_labels(_task(**SEVERAL), single)


def test_weights():
    task = _task(labels="a,b,c")
    balanced = LossSettings("balanced", 0.1)
    assert label_loss(balanced, task, [1, 2, 3], 6) == LabelLoss((2.0, 1.0, 2 / 3), 0.1)
    given = LossSettings('{"B": 2, "a": 0.5}')
    assert label_loss(given, task, [1, 2, 3], 6).weights == (0.5, 2.0, 1.0)
    assert label_loss(LossSettings(), task, [1, 2, 3], 6) == LabelLoss()
    several = _task(**SEVERAL, labels="a,b")
    assert label_loss(balanced, several, [1, 3], 4).weights == (3.0, 1 / 3)
    with pytest.raises(DataError, match="no training example has 'b'"):
        label_loss(balanced, task, [1, 0, 3], 4)
    for text, message in (
        ("often", "balanced or a JSON object"),
        ('{"d": 1}', "'d' is no label of the task: a, b, c"),
        ('{"a": 0}', "a: 0 should be a positive number"),
        ('{"a": true}', "should be a positive number"),
        ('{"a": NaN}', "should be a positive number"),
    ):
        with pytest.raises(ConfigError, match=message):
            label_loss(LossSettings(text), task, [1, 2, 3], 6)


def test_settings_that_have_no_meaning():
    with pytest.raises(ConfigError, match="label_smoothing=1.0"):
        LossSettings(label_smoothing=1.0).check(SINGLE_LABEL)
    with pytest.raises(ConfigError, match="--label_smoothing: goes with labels"):
        LossSettings(label_smoothing=0.1).check(REGRESSION)
    with pytest.raises(ConfigError, match="--balanced_sampling: goes with one label per text"):
        LossSettings(balanced_sampling=True).check(MULTI_LABEL)
    LossSettings("balanced", 0.1, True).check(SINGLE_LABEL)


@settings(max_examples=40, deadline=None)
@given(labels=st.lists(st.integers(0, 3), min_size=1, max_size=40), seed=st.integers(0, 5))
def test_balanced_examples(labels, seed):
    labels = np.array(labels)
    found = balance_examples(labels, seed)
    assert set(found) == set(range(len(labels)))
    most = np.bincount(labels).max()
    assert all(n in (0, most) for n in np.bincount(labels[found]))
    assert (found == balance_examples(labels, seed)).all()


def test_counts_of_classes():
    assert count_classes(np.array([0, 2, 2]), 4) == [1, 0, 2, 0]
    assert count_classes(np.array([[1.0, 0.0], [1.0, 1.0]], np.float32), 2) == [2, 1]
