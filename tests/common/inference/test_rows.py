"""Outputs of heads as rows of a csv or jsonl file."""

import csv
import json

import numpy as np
import pytest

from funnel.inference.files import open_rows, write_rows_of_arrays
from funnel.inference.rows import Answer, RowFormat, name_choice, sigmoid, softmax
from funnel.utils.errors import ConfigError, DataError

SINGLE, MULTI = "single_label_classification", "multi_label_classification"
LABELS = ("no", "yes, sir", "may\nbe")


def test_single_label_rows():
    form = RowFormat(SINGLE, LABELS, write_logits=True)
    logits = np.array([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]], np.float32)
    first, second = form.rows(logits, 7, ["a", "b"])
    powers = np.exp(logits[0].astype(float))
    expected = powers / powers.sum()
    assert (first["index"], first["id"], first["label"]) == (7, "a", "yes, sir")
    assert first["probability"] == pytest.approx(expected[1], abs=1e-8)
    assert list(first["probabilities"].values()) == pytest.approx(expected.tolist(), abs=1e-8)
    assert second["logits"] == dict(zip(LABELS, [3.0, 0.0, 0.0], strict=True))
    (short,) = RowFormat(SINGLE, LABELS).rows(logits[:1])
    assert short == {
        "index": 0,
        "id": 0,
        "label": "yes, sir",
        "probability": first["probability"],
    }


def test_multi_label_rows():
    form = RowFormat(MULTI, LABELS, write_logits=True)
    one, none = form.rows(np.array([[0.0, -1.0, 4.0], [-9.0, -9.0, -9.0]]))
    assert one["label"] == ["no", "may\nbe"]
    assert one["probability"] == pytest.approx([0.5, 1 / (1 + np.exp(-4.0))], abs=1e-8)
    assert none["label"] == [] and none["logits"]["no"] == -9.0
    (strict,) = RowFormat(MULTI, LABELS, threshold=0.9).rows(np.array([[0.0, -1.0, 4.0]]))
    assert strict["label"] == ["may\nbe"]


def test_regression_rows():
    rows = list(RowFormat("regression", write_logits=True).rows(np.array([[1.5], [-2.0]])))
    assert [row["label"] for row in rows] == [1.5, -2.0]
    assert rows[0]["logits"] == [1.5] and "probability" not in rows[0]
    assert [r["label"] for r in RowFormat("regression").rows(np.array([3.0]))] == [3.0]


def test_choices_tokens_and_answers():
    choice = RowFormat("multiple_choice", write_logits=True)
    one, two = choice.rows([np.array([0.0, 1.0]), np.array([5.0, 0.0, 0.0])])
    assert (one["label"], two["label"], len(two["probabilities"])) == ("B", "A", 3)
    assert name_choice(25) == "Z" and name_choice(26) == "27"
    tags = RowFormat("token_classification", ("O", "B-X"), write_logits=True)
    first, empty = tags.rows([np.array([[2.0, 0.0], [0.0, 2.0]]), np.zeros((0, 2))])
    assert first["label"] == ["O", "B-X"] and len(first["logits"]) == 2
    assert empty["label"] == [] and empty["probability"] == []
    nbest = [{"text": "x", "probability": 0.75}, {"text": "y", "probability": 0.25}]
    form = RowFormat("question_answering", write_logits=True)
    found, refused = form.rows([Answer(nbest, -1.0), Answer(nbest, 2.0, "")])
    assert (found["label"], found["probability"], found["no_answer"]) == ("x", 0.75, -1.0)
    assert (refused["label"], refused["probability"]) == ("", None)
    assert [entry["text"] for entry in found["nbest"]] == ["x", "y"]


def test_what_is_not_finite_is_null():
    form = RowFormat(SINGLE, ("a", "b"), write_logits=True)
    bad, good = form.rows(np.array([[np.nan, 1.0], [0.0, 1.0]]))
    assert bad["label"] is None and bad["probability"] is None and bad["logits"]["a"] is None
    assert good["label"] == "b"
    json.dumps(bad, allow_nan=False)


def test_functions_do_not_overflow():
    assert softmax(np.array([1e4, -1e4])).tolist() == [1.0, 0.0]
    assert sigmoid(np.array([-1e4, 0.0, 1e4])).tolist() == [0.0, 0.5, 1.0]


def test_outputs_must_fit_the_labels():
    with pytest.raises(DataError, match="2 logits per example for 3 labels"):
        list(RowFormat(SINGLE, LABELS).rows(np.zeros((4, 2))))
    with pytest.raises(DataError, match="problem type 'ranking'"):
        RowFormat("ranking")


def test_both_formats_hold_the_same(tmp_path):
    form = RowFormat(SINGLE, LABELS, write_logits=True)
    logits = np.random.default_rng(0).normal(size=(2500, 3)).astype(np.float32)
    ids = [f"t{i}" for i in range(2500)]
    for kind in ("csv", "jsonl"):
        write_rows_of_arrays(tmp_path / f"out.{kind}", kind, form, logits, iter(ids))
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").open(encoding="utf-8")]
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as stream:
        table = list(csv.DictReader(stream))
    assert len(rows) == len(table) == 2500
    assert [row["id"] for row in rows] == [row["id"] for row in table] == ids
    for row, line in zip(rows, table, strict=True):
        assert line["label"] == row["label"] and int(line["index"]) == row["index"]
        for label in LABELS:
            assert float(line[f"logit_{label}"]) == row["logits"][label]
            assert float(line[f"probability_{label}"]) == row["probabilities"][label]


def test_lists_are_json_in_a_csv_cell(tmp_path):
    form = RowFormat(MULTI, LABELS)
    write_rows_of_arrays(tmp_path / "x.csv", "csv", form, np.array([[1.0, 1.0, -1.0]]))
    with (tmp_path / "x.csv").open(encoding="utf-8", newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert json.loads(row["label"]) == ["no", "yes, sir"]


def test_a_failed_file_is_not_left(tmp_path):
    form = RowFormat("regression")
    with pytest.raises(RuntimeError), open_rows(tmp_path / "a.csv", "csv", form) as writer:
        writer.write(form.rows(np.zeros(3)))
        raise RuntimeError("stopped")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="csv or jsonl"), open_rows("x", "xml", form):
        raise AssertionError
