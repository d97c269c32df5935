"""pytorch/race.py end to end on tiny examinations: output files, errors and resuming."""

import json
import shutil

import pytest

torch = pytest.importorskip("torch")

from answering_runs import RACE, RUN_FILES, run_files, write_race
from classifier_runs import PYTORCH, curve, invoke, load_program, refuse
from distributed_runs import start_ranks
from funnel.checkpoints import load_checkpoint

pytestmark = pytest.mark.slow

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def program():
    return load_program("race")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, program):
    """A finished run that others only read; with its files."""
    return RACE.finished(tmp_path_factory.mktemp("race"), program)


@pytest.fixture
def folder(tmp_path):
    write_race(tmp_path)
    return tmp_path


def test_a_run_writes_all_its_files(finished):
    run = finished / "run"
    assert run_files(run) == RUN_FILES
    rows = [row for row in curve(run) if row["split"] == "dev"]
    assert [row["step"] for row in rows] == [3, 6]
    assert {"accuracy", "accuracy_middle", "accuracy_high", "loss"} <= set(rows[0])
    assert rows[0]["accuracy"] == (rows[0]["accuracy_middle"] + rows[0]["accuracy_high"]) / 2
    best = json.loads((run / "best_result.json").read_text())
    assert best["metric"] == "accuracy"
    assert best["score"] == max(row["accuracy"] for row in rows)
    assert json.loads((run / "final_scores.json").read_text()) == best["scores"]
    checkpoint = load_checkpoint(run / "best")
    assert checkpoint.metadata["architecture"] == "FunnelForMultipleChoice"
    assert "model/race/logits/kernel" in checkpoint.tensors


@pytest.mark.parametrize("source", ["model_dir", "init_ckpt", "eval_model_dir"])
def test_evaluation_alone(finished, program, tmp_path, source):
    shutil.copytree(finished / "run" / "best", tmp_path / "run" / "best")
    changes = {"do_train": None, "init_ckpt_config": None, "tokenizer_path": None}
    changes |= {"model_dir": tmp_path / "other", "eval_batch_size": 5}
    changes |= {source: tmp_path / "run" / ("best" if source == "init_ckpt" else "")}
    assert invoke(program, RACE.arguments(finished, **changes)) == 0
    scores = json.loads((changes["model_dir"] / "final_scores.json").read_text())
    known = json.loads((finished / "run" / "final_scores.json").read_text())
    assert scores["dev"] == pytest.approx(known["dev"])
    assert not (changes["model_dir"] / "metrics.jsonl").exists()
    assert invoke(program, RACE.arguments(finished, **changes, eval_split="test")) == 0
    assert set(json.loads((changes["model_dir"] / "final_scores.json").read_text())) == {"test"}


def test_it_learns_to_find_the_word_of_the_article(tmp_path, program):
    write_race(tmp_path, questions=24)
    changes = {"epochs": None, "train_steps": 80, "lr": 1e-2, "eval_steps": 20}
    config = {"dropout": 0.0, "dropatt": 0.0, "overwrite_keys": "dropout,dropatt"}
    assert invoke(program, RACE.arguments(tmp_path, **changes, **config)) == 0
    losses = [row["loss"] for row in curve(tmp_path / "run") if row["split"] == "train"]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_two_processes_compute_what_one_does(folder, program):
    config = {"dropout": 0.0, "dropatt": 0.0, "overwrite_keys": "dropout,dropatt", "epochs": 1}
    assert invoke(program, RACE.arguments(folder, model_dir=folder / "alone", **config)) == 0
    argv = RACE.arguments(folder, model_dir=folder / "both", **config, train_bsz=4)
    logs = [folder / "0.log", folder / "1.log"]
    started = start_ranks(PYTORCH / "race.py", argv, logs, local=True)
    assert [process.wait(240) for process in started] == [0, 0], logs[0].read_text()
    ours, theirs = curve(folder / "both"), curve(folder / "alone")
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)


def test_bad_file_is_named_and_nothing_written(folder, program, capsys):
    (folder / "RACE" / "train" / "high" / "1.txt").write_text('{"article": "a"}')
    refuse(program, capsys, RACE.arguments(folder), "train/high/1.txt", "questions")
    assert not (folder / "run").exists()


def test_finished_run_is_not_overwritten(finished, program, capsys):
    refuse(program, capsys, RACE.arguments(finished), "finished", "--resume", "--overwrite")
    refuse(program, capsys, RACE.arguments(finished, max_qa_length=9), "max_qa_length was 8, now 9")
