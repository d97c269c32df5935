"""TensorFlow's classifier.py end to end on a tiny task: outputs, resuming, user errors."""

import json
import shutil
import signal

import numpy as np
import pytest

from support_tf import import_tensorflow

import_tensorflow()

from classifier_runs import invoke, refuse, write_files
from funnel.checkpoints import load_checkpoint, save_checkpoint
from funnel.formats.tensor_bundle import TFCheckpoint, write_tf_checkpoint
from funnel.utils.logging import read_metrics
from funnel_tf.training.run_directory import latest_step
from task_files import write
from tf_program_runs import classifier_flags, kill_tf_program, load_tf_program

pytestmark = pytest.mark.slow

HEAD = "model/cola/logit/kernel"


@pytest.fixture(scope="module")
def program():
    return load_tf_program("classifier")


@pytest.fixture(scope="module")
def trained(program, tmp_path_factory):
    """Return the folder of a run that trained, evaluated, predicted and submitted."""
    folder = tmp_path_factory.mktemp("trained")
    write_files(folder)
    wanted = {"do_eval": True, "do_submit": True, "do_predict": True, "save_steps": 2}
    wanted["write_logits"] = True
    assert invoke(program, classifier_flags(folder, weight_decay=0.01, **wanted)) == 0
    return folder


def _losses(model_dir):
    rows = read_metrics(model_dir / "metrics.jsonl")
    return {row["step"]: row["loss"] for row in rows if row["split"] == "train"}


def test_outputs_of_a_run(trained):
    run = trained / "run"
    best = json.loads((run / "best_result.json").read_text())
    rows = read_metrics(run / "metrics.jsonl")
    dev = {row["step"]: row["matthews_corr"] for row in rows if row["split"] == "dev"}
    assert sorted(dev) == [0, 2, 4] and best["score"] == max(dev.values())
    kept = {path.name for path in run.glob("model.ckpt-*.index")}
    assert kept == {f"{best['checkpoint']}.index", "model.ckpt-4.index"}
    lines = (run / "submit" / "CoLA.tsv").read_text().splitlines()
    assert lines[0] == "index\tprediction" and len(lines) == 10
    labels = [line.split("\t")[1] for line in lines[1:]]
    assert (run / "test_results.txt").read_text().splitlines() == labels
    rows = [json.loads(line) for line in (run / "test_results.jsonl").open()]
    assert [row["label"] for row in rows] == labels
    assert all(max(row["logits"], key=row["logits"].get) == row["label"] for row in rows)
    recorded = json.loads((run / "run_config.json").read_text())
    assert recorded["seed"] == 1 and recorded["settings"]["learning_rate"] == 1e-3
    assert sorted(_losses(run)) == [1, 2, 3, 4]


def test_checkpoints_load_everywhere_with_labels_and_vocabulary(trained):
    checkpoint = load_checkpoint(trained / "run" / "latest", with_optimizer=True)
    assert checkpoint.metadata["labels"] == ["0", "1"]
    assert checkpoint.metadata["cls_scope"] == "cola"
    assert checkpoint.tensors[HEAD].shape == (16, 2)
    assert checkpoint.optimizer["global_step"] == 4 and f"{HEAD}/adam_m" in checkpoint.optimizer


def test_a_finished_run_is_refused_and_can_be_evaluated(program, trained, capsys):
    flags = classifier_flags(trained, weight_decay=0.01)
    refuse(program, capsys, flags, "finished", "--overwrite_run")
    other = classifier_flags(trained, weight_decay=0.02)
    refuse(program, capsys, other, "another run", "weight_decay was 0.01, now 0.02")
    evaluation = {"do_train": False, "do_eval": True, "model_config": None, "tokenizer_path": None}
    before = json.loads((trained / "run" / "best_result.json").read_text())
    only_best = {"eval_start_step": before["step"] - 1, "eval_end_step": before["step"]}
    assert invoke(program, classifier_flags(trained, **evaluation, **only_best)) == 0
    after = json.loads((trained / "run" / "best_result.json").read_text())
    assert after["score"] == pytest.approx(before["score"])


@pytest.mark.timeout(600)  # three runs of TensorFlow on a machine that may be busy
def test_killed_and_started_again(program, tmp_path):
    write_files(tmp_path, dropout=0.0, dropatt=0.0)
    settings = {"train_steps": 30, "save_steps": 3}
    uninterrupted, killed = (
        classifier_flags(tmp_path, name, **settings) for name in ("uninterrupted", "killed")
    )
    run, log = tmp_path / "killed", tmp_path / "log"
    is_time = lambda: latest_step(run) >= 6  # noqa: E731
    assert kill_tf_program("classifier", killed, is_time, log) == -signal.SIGKILL, log.read_text()
    begun = latest_step(run)
    assert 6 <= begun < 30
    assert invoke(program, killed) == invoke(program, uninterrupted) == 0
    one, two = _losses(tmp_path / "uninterrupted"), _losses(run)
    # A kill may come between a checkpoint and the log line of its step.
    assert set(range(1, 31)) - set(two) <= {begun} and len(one) == 30
    np.testing.assert_allclose(list(two.values()), [one[step] for step in two], rtol=1e-4)


def test_initial_checkpoint_of_any_kind_and_mismatches(program, trained, capsys, tmp_path):
    core = load_checkpoint(trained / "run" / "latest")
    core.tensors = {n: t for n, t in core.tensors.items() if "/logit/" not in n}
    save_checkpoint(core, tmp_path / "hf", "hf")
    once = {"train_steps": 1, "learning_rate": 0.0}
    flags = classifier_flags(trained, tmp_path / "new", init_checkpoint=tmp_path / "hf", **once)
    assert invoke(program, flags) == 0
    lacking = (HEAD, HEAD.replace("kernel", "bias"))
    report = next(line for line in capsys.readouterr().err.splitlines() if "lacks" in line)
    assert all(name in report for name in lacking) and report.count("model/") == 2
    end = TFCheckpoint(tmp_path / "new" / "latest")
    assert all(np.array_equal(end[name], core.tensors[name]) for name in core.tensors)

    name = "model/encoder/layer_0/ff/layer_1/kernel"
    core.tensors["model/input/layer_norm/beta"] = np.zeros(3, np.float32)
    del core.tensors[name]
    write_tf_checkpoint(tmp_path / "bad" / "model.ckpt", core.tensors)
    flags = classifier_flags(trained, tmp_path / "bad-run", init_checkpoint=tmp_path / "bad")
    refuse(
        *(program, capsys, flags),
        f"1 missing: {name}",
        "1 of another shape: model/input/layer_norm/beta [3] should be [16]",
    )


def test_a_corrupt_record_is_named(program, trained, capsys, tmp_path):
    shutil.copytree(trained / "records", tmp_path / "records")
    records = tmp_path / "records" / "vocab.txt.len-16.train.tfrecord"
    content = bytearray(records.read_bytes())
    content[len(content) // 2] ^= 255
    records.write_bytes(content)
    flags = classifier_flags(
        trained, tmp_path / "run", output_dir=tmp_path / "records", train_steps=20
    )
    refuse(program, capsys, flags, str(records), "record")


def test_regression_on_own_data(program, tmp_path):
    write_files(tmp_path)
    for split, count in (("train", 16), ("dev", 7), ("test", 5)):
        rows = [f"the film,{number / 4}" for number in range(count)]
        write(tmp_path / "own" / f"{split}.csv", "\n".join(["review,stars", *rows]) + "\n")
    own = {"task_name": "csv", "text_column": "review", "label_column": "stars"}
    own |= {"regression": True, "data_dir": tmp_path / "own", "do_eval": True, "do_predict": True}
    own["indexed_predictions"] = True
    assert invoke(program, classifier_flags(tmp_path, train_steps=2, **own)) == 0
    best = json.loads((tmp_path / "run" / "best_result.json").read_text())
    assert best["metric"] == "pearson_spearman"
    lines = (tmp_path / "run" / "test_results.txt").read_text().splitlines()
    assert len(lines) == 6 and float(lines[1].split("\t")[1]) < 10.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task_name": None}, ["--task_name is needed"]),
        ({"output_dir": None}, ["--output_dir is needed"]),
        ({"do_train": False}, ["nothing to do"]),
        ({"do_train": False, "do_submit": True}, ["no checkpoint"]),
        ({"train_batch_size": 0}, ["--train_batch_size=0"]),
        ({"do_eval": True, "eval_split": "test"}, ["--eval_split=test: has no labels"]),
    ],
)
def test_user_errors(program, capsys, tmp_path, changes, words):
    write_files(tmp_path)
    refuse(program, capsys, classifier_flags(tmp_path, **changes), *words)
