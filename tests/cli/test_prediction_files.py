"""Files of predictions with probabilities and logits, of all programs of pytorch/."""

import csv
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from answering_runs import RACE, SQUAD
from classifier_runs import arguments, invoke, load_program, refuse, write_files
from funnel.tasks.race import read_race

torch.set_num_threads(1)


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def read_jsonl(path):
    return [json.loads(line) for line in path.open(encoding="utf-8")]


@pytest.fixture(scope="module")
def classifier():
    return load_program("classifier")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, classifier):
    """A finished run with files of text and of rows."""
    folder = tmp_path_factory.mktemp("finished")
    write_files(folder)
    assert invoke(classifier, arguments(folder, write_prediction=True, write_logits=True)) == 0
    return folder


def _predict(finished, classifier, folder, **flags):
    """The directory of another prediction with the model of the finished run."""
    model = {"init_ckpt": finished / "run" / "best", "init_ckpt_config": None}
    flags = {"test_only": True, "write_prediction": True} | model | flags
    assert invoke(classifier, arguments(finished, model_dir=folder, **flags)) == 0
    return folder


def test_text_stays_and_rows_go_to_a_file_of_their_own(finished):
    run = finished / "run"
    for name, count in (("valid", 12), ("test", 9)):
        labels = (run / f"{name}_results.txt").read_text().splitlines()
        rows = read_jsonl(run / f"{name}_results.jsonl")
        assert [row["label"] for row in rows] == labels and len(rows) == count
        assert [row["index"] for row in rows] == [row["id"] for row in rows] == list(range(count))
        for row in rows:
            logits = np.array([row["logits"]["0"], row["logits"]["1"]])
            expected = np.exp(logits) / np.exp(logits).sum()
            assert list(row["probabilities"].values()) == pytest.approx(expected, abs=1e-5)
            assert row["probability"] == row["probabilities"][row["label"]]


def test_csv_replaces_the_text(finished, classifier, tmp_path):
    run = _predict(finished, classifier, tmp_path / "run", prediction_format="csv")
    assert not (run / "test_results.txt").exists()
    rows, before = (
        read_csv(run / "test_results.csv"),
        read_jsonl(finished / "run" / "test_results.jsonl"),
    )
    assert list(rows[0]) == ["index", "id", "label", "probability"]
    for row, other in zip(rows, before, strict=True):
        assert row["label"] == other["label"]
        assert float(row["probability"]) == pytest.approx(other["probability"], abs=1e-5)


def test_rows_have_the_ids_of_the_file(finished, classifier, tmp_path):
    texts = ("good film", "bad plot", "", "the cat")
    rows = [{"key": f"k{i}", "t": text, "label": "01"[i % 2]} for i, text in enumerate(texts)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = {"dataset": "jsonl", "data_dir": tmp_path, "text_column": "t", "id_column": "key"}
    flags |= {"prediction_format": "jsonl"}
    run = _predict(finished, classifier, tmp_path / "run", **flags)
    assert [row["id"] for row in read_jsonl(run / "test_results.jsonl")] == ["k0", "k1", "k2", "k3"]


def test_flags_that_would_have_no_effect(finished, classifier, tmp_path, capsys):
    model = {"init_ckpt": finished / "run" / "best", "init_ckpt_config": None}
    for flag in ({"write_logits": True}, {"prediction_format": "csv"}):
        argv = arguments(finished, model_dir=tmp_path / "run", test_only=True, **model, **flag)
        refuse(classifier, capsys, argv, "--write_prediction")
    argv = arguments(finished, prediction_format="xml")
    refuse(classifier, capsys, argv, "--prediction_format", "jsonl")


def test_race_writes_the_chosen_options(tmp_path):
    program = load_program("race")
    RACE.write(tmp_path)
    flags = {"epochs": 1, "write_prediction": True, "write_logits": True}
    assert invoke(program, RACE.arguments(tmp_path, **flags)) == 0
    labels = (tmp_path / "run" / "valid_results.txt").read_text().splitlines()
    rows = read_jsonl(tmp_path / "run" / "valid_results.jsonl")
    questions = read_race(tmp_path / "RACE", "dev").questions
    assert [row["label"] for row in rows] == labels and set(labels) <= set("ABCD")
    assert [row["id"] for row in rows] == [question.id for question in questions]
    assert rows[0]["id"] == "middle/0.txt#0" and len(rows[0]["logits"]) == 4
    final = json.loads((tmp_path / "run" / "final_scores.json").read_text())
    right = [label == "ABCD"[q.label] for label, q in zip(labels, questions, strict=True)]
    assert final["dev"]["accuracy"] == pytest.approx(np.mean(right))


def test_squad_writes_answers_as_rows(tmp_path):
    program = load_program("squad")
    SQUAD.write(tmp_path)
    flags = {"epochs": 1, "prediction_format": "csv", "write_logits": True}
    assert invoke(program, SQUAD.arguments(tmp_path, **flags)) == 0
    answers = json.loads((tmp_path / "run" / "predictions.json").read_text())
    nbest = json.loads((tmp_path / "run" / "nbest_predictions.json").read_text())
    rows = read_csv(tmp_path / "run" / "predictions.csv")
    assert {row["id"]: row["label"] for row in rows} == answers
    for row in rows:
        best = nbest[row["id"]][0]
        assert float(row["probability"]) == pytest.approx(best["probability"], abs=1e-7)
        assert json.loads(row["nbest"]) == nbest[row["id"]]
