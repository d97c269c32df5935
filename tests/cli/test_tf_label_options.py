"""TensorFlow's classifier with several labels per text, class weights, smoothing and sampling."""

import json

import numpy as np
import pytest

from support_tf import import_tensorflow

import_tensorflow()

from classifier_runs import invoke, refuse
from funnel.features.record_files import read_description
from funnel.formats.tfrecord import read_examples
from funnel.utils.run_lock import release_all
from funnel_tf.cli import classifier
from multi_label_cases import write_texts
from task_files import write
from tf_program_runs import classifier_flags, load_tf_program, parse_settings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def program():
    return load_tf_program("classifier")


@pytest.fixture(scope="module")
def trained(program, tmp_path_factory):
    """Return the folder of a run that has learned which words stand for which labels."""
    folder = tmp_path_factory.mktemp("several")
    write_texts(folder)
    wanted = {"do_eval": True, "do_predict": True, "multi_label": True, "write_logits": True}
    loss = {"class_weights": "balanced", "label_smoothing": 0.05, "eval_start_step": 0}
    flags = _flags(folder, learning_rate=1e-2, train_steps=80, log_freq=50, **wanted, **loss)
    assert invoke(program, flags) == 0
    return folder


def _flags(folder, model_dir="run", **changes):
    own = {"task_name": "jsonl", "data_dir": folder / "own"}
    return classifier_flags(folder, model_dir, **{**own, **changes})


def test_several_labels_are_learned_written_and_read_by_pytorch(trained):
    best = json.loads((trained / "run/best_result.json").read_text())
    assert best["metric"] == "micro_f1" and best["score"] > 0.7
    labels = json.loads((trained / "run/labels.json").read_text())
    assert labels["problem_type"] == "multi_label_classification"
    assert labels["labels"] == ["bad", "cat", "good"]
    rows = [json.loads(x) for x in (trained / "run/test_results.jsonl").read_text().splitlines()]
    lines = (trained / "run/test_results.txt").read_text().splitlines()
    assert [line.split("|") if line else [] for line in lines] == [row["label"] for row in rows]
    pytest.importorskip("torch")
    from classifier_runs import arguments, load_program

    model = {"init_ckpt": trained / "run/latest", "tokenizer_path": None, "init_ckpt_config": None}
    own = {"dataset": "jsonl", "data_dir": trained / "own", "write_logits": True}
    flags = arguments(trained, "torch", test_only=True, write_prediction=True, **own, **model)
    assert invoke(load_program("classifier"), flags) == 0
    text = (trained / "torch/test_results.jsonl").read_text()
    for line, row in zip(text.splitlines(), rows, strict=True):
        theirs, ours = json.loads(line)["logits"], row["logits"]
        np.testing.assert_allclose(list(theirs.values()), list(ours.values()), atol=1e-4)
    scores = json.loads((trained / "torch/final_scores.json").read_text())["dev"]
    assert scores["micro_f1"] == pytest.approx(best["score"])
    assert scores["loss"] == pytest.approx(best["scores"]["dev"]["loss"], abs=1e-5)


def test_balanced_sampling_repeats_records(program, trained, capsys):
    rows = ["good film,yes\n"] * 9 + ["bad plot,no\n"] * 2
    write(trained / "own/train.csv", "text,label\n" + "".join(rows))
    sampled = {"task_name": "csv", "balanced_sampling": True, "output_dir": trained / "sampled"}
    flags = _flags(trained, "sampled-run", train_steps=1, **sampled)
    classifier.prepare(parse_settings("classifier", *flags))
    release_all()
    (path,) = (trained / "sampled").glob("*.tfrecord")
    ids = [int(values["label_ids"][0]) for _, values in read_examples(path, ("label_ids",))]
    assert sorted(ids) == [0] * 9 + [1] * 9
    assert read_description(path)["balanced"] is True
    flags = _flags(trained, "x", multi_label=True, balanced_sampling=True)
    refuse(program, capsys, flags, "--balanced_sampling: goes with one label")
