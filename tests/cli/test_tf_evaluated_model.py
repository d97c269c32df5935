"""Which checkpoint the TensorFlow programs evaluate, and whose results they replace."""

import json
import shutil

import numpy as np
import pytest

from support_tf import import_tensorflow

import_tensorflow()

import program_server
from classifier_runs import invoke, refuse, write_files
from funnel.checkpoints import load_checkpoint
from funnel.formats.tensor_bundle import write_tf_checkpoint
from tf_program_runs import TENSORFLOW, classifier_flags, load_tf_program

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def program():
    return load_tf_program("classifier")


@pytest.fixture(scope="module")
def trained(program, tmp_path_factory):
    """Return the folder of a run with all its checkpoints: steps 0, 2 and 4."""
    folder = tmp_path_factory.mktemp("evaluated")
    write_files(folder)
    wanted = {"do_eval": True, "do_submit": True, "save_steps": 2, "retain_all": True}
    assert invoke(program, classifier_flags(folder, learning_rate=0.1, **wanted)) == 0
    core = load_checkpoint(folder / "run" / "latest")
    kept = {n: t for n, t in core.tensors.items() if n.startswith(("model/inp", "model/enc"))}
    write_tf_checkpoint(folder / "core" / "model.ckpt", kept)
    return folder


def test_submission_of_an_original_directory_is_of_its_best_checkpoint(program, trained, tmp_path):
    """The original's script keeps --init_checkpoint; its record names the checkpoint as path."""
    run = tmp_path / "run"
    shutil.copytree(trained / "run", run)
    for step in (0, 4):  # checkpoints that answer 0 and 1
        tensors = dict(load_checkpoint(run / f"model.ckpt-{step}").tensors)
        tensors["global_step"] = np.array(step)
        tensors["model/cola/logit/bias"] = np.array([50.0, 0.0][:: 1 - step // 2], np.float32)
        write_tf_checkpoint(run / f"model.ckpt-{step}", tensors)
    for step, answer in ((0, "0"), (4, "1")):
        record = {"path": f"gs://bucket/rte/model.ckpt-{step}", "accu": 0.6, "corr": 0.1}
        (run / "best_result.json").write_text(json.dumps(record))
        submission = {"do_train": False, "do_submit": True, "init_checkpoint": trained / "core"}
        assert invoke(program, classifier_flags(trained, run, **submission)) == 0
        lines = (run / "submit" / "CoLA.tsv").read_text().splitlines()[1:]
        assert {line.split("\t")[1] for line in lines} == {answer}


def test_our_record_has_the_keys_of_the_original(trained):
    record = json.loads((trained / "run" / "best_result.json").read_text())
    assert record["path"] == str(trained / "run" / record["checkpoint"])
    scores = record["scores"]["dev"]
    assert (record["accu"], record["corr"]) == (scores["accuracy"], scores["matthews_corr"])


def test_a_checkpoint_without_head_and_results_of_another_run(program, trained, tmp_path, capsys):
    before = (trained / "run" / "best_result.json").read_bytes()
    evaluation = {"do_train": False, "do_eval": True, "do_submit": True}
    lacking = tmp_path / "lacking"
    lacking.mkdir()
    for file in (trained / "core").glob("model.ckpt.*"):
        shutil.copy(file, lacking / file.name.replace("ckpt", "ckpt-7"))
    flags = classifier_flags(trained, tmp_path / "new", eval_model_dir=lacking, **evaluation)
    refuse(program, capsys, flags, str(lacking), "no classification head model/cola/logit")

    other = classifier_flags(trained, tmp_path / "new", eval_model_dir=tmp_path, **evaluation)
    tensors = load_checkpoint(trained / "run" / "latest").tensors
    write_tf_checkpoint(tmp_path / "model.ckpt-1", tensors)  # as modify_ckpt.py writes them
    refuse(program, capsys, other, "1 missing: global_step")

    shutil.copytree(trained / "run", tmp_path / "other")
    other = {"eval_model_dir": tmp_path / "other"}
    refuse(program, capsys, classifier_flags(trained, **other, **evaluation), "another run")
    flags = classifier_flags(trained, tmp_path / "new", **other)
    refuse(program, capsys, flags, "--eval_model_dir", "without --do_train")
    assert (trained / "run" / "best_result.json").read_bytes() == before

    # Into a directory of their own they are written, and submitted by the recorded checkpoint.
    flags = classifier_flags(trained, tmp_path / "own", **other, **(evaluation | {"do_submit": 0}))
    assert invoke(program, flags) == 0
    best = json.loads((tmp_path / "own" / "best_result.json").read_text())
    assert best["path"] == str(tmp_path / "other" / f"model.ckpt-{best['step']}")


def test_pretraining_and_squad_refuse_another_run_too(trained, capsys):
    run, elsewhere = trained / "run", trained / "core" / "model.ckpt"
    pretraining = {"record_dir": trained, "seq_len": 16, "num_predict": 2, "model_dir": run}
    pretraining |= {"do_train": False, "do_eval": True, "eval_ckpt_path": elsewhere}
    flags = [f"--{name}={value}" for name, value in pretraining.items()]
    refuse(load_tf_program("pretrain"), capsys, flags, "another run", "--model_dir")
    squad = {"do_predict": True, "predict_file": "x", "output_dir": trained, "model_dir": "y"}
    flags = [f"--{name}={value}" for name, value in (squad | {"predict_dir": run}).items()]
    refuse(load_tf_program("squad"), capsys, flags, "another run", "--predict_dir")


@pytest.mark.timeout(600)
def test_evaluation_that_waits_for_a_trainer(program, trained, tmp_path, capsys):
    """It begins before the trainer, and ends with the trainer's last checkpoint."""
    run = tmp_path / "run"
    evaluation = {"do_train": False, "do_eval": True, "max_seq_length": 16}
    refuse(program, capsys, classifier_flags(trained, run, **evaluation), "no checkpoint", "wait=")
    flags = classifier_flags(trained, run, **evaluation, eval_wait=300)
    log = tmp_path / "evaluator.log"
    evaluator = program_server.start([TENSORFLOW / "classifier.py", *flags], log)
    try:
        assert invoke(program, classifier_flags(trained, run, save_steps=2)) == 0
        assert evaluator.wait(timeout=400) == 0, log.read_text()
    finally:
        evaluator.kill()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["split"] == "dev"] == [0, 2, 4]
    assert (run / "best_result.json").is_file()
