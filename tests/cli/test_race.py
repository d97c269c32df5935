"""pytorch/race.py end to end on tiny examinations: what it writes, refuses and continues."""

import json
import shutil
import signal
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

from answering_runs import common_flags, write_race
from classifier_runs import (
    PYTORCH,
    Zygote,
    curve,
    flag_list,
    invoke,
    kill_after,
    load_program,
    refuse,
)
from funnel.checkpoints import load_checkpoint

torch.set_num_threads(1)
TORCHRUN = ("-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--standalone")


def arguments(folder, **changes):
    """Flags of a run on the tiny files."""
    flags = common_flags(folder) | {"model_dir": folder / "run"}
    flags |= {"do_train": True, "do_eval": True, "data_dir": folder / "RACE", "epochs": 2}
    return flag_list(flags | {"max_seq_length": 32, "max_qa_length": 8} | changes)


@pytest.fixture(scope="module")
def program():
    return load_program("race")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, program):
    """A finished run that others only read; with its files."""
    folder = tmp_path_factory.mktemp("race")
    write_race(folder)
    assert invoke(program, arguments(folder)) == 0
    return folder


@pytest.fixture
def folder(tmp_path):
    write_race(tmp_path)
    return tmp_path


def test_a_run_leaves_everything_behind(finished):
    run = finished / "run"
    names = {item.name for item in run.iterdir() if not item.name.startswith("events.")}
    assert names == {
        *("run_config.json", "net_config.json", "metrics.jsonl", "best_result.json"),
        *("best", "last", "final_scores.json"),
    }
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


@pytest.mark.parametrize("source", ["model_dir", "init_ckpt"])
def test_evaluation_alone(finished, program, tmp_path, source):
    shutil.copytree(finished / "run" / "best", tmp_path / "run" / "best")
    changes = {"do_train": None, "init_ckpt_config": None, "tokenizer_path": None}
    if source == "init_ckpt":
        changes |= {"init_ckpt": tmp_path / "run" / "best", "model_dir": tmp_path / "other"}
    else:
        changes |= {"model_dir": tmp_path / "run", "valid_bsz": 5}
    assert invoke(program, arguments(finished, **changes)) == 0
    scores = json.loads((changes["model_dir"] / "final_scores.json").read_text())
    known = json.loads((finished / "run" / "final_scores.json").read_text())
    assert scores["dev"] == pytest.approx(known["dev"])
    assert not (changes["model_dir"] / "metrics.jsonl").exists()
    assert invoke(program, arguments(finished, **changes, eval_split="test")) == 0
    assert set(json.loads((changes["model_dir"] / "final_scores.json").read_text())) == {"test"}


def test_it_learns_to_find_the_word_of_the_article(tmp_path, program):
    write_race(tmp_path, questions=24)
    changes = {"epochs": None, "train_steps": 80, "lr": 1e-2, "eval_steps": 20}
    config = {"dropout": 0.0, "dropatt": 0.0, "overwrite_keys": "dropout,dropatt"}
    assert invoke(program, arguments(tmp_path, **changes, **config)) == 0
    losses = [row["loss"] for row in curve(tmp_path / "run") if row["split"] == "train"]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_a_killed_run_continues_bit_for_bit(folder):
    zygote, settings = Zygote("race"), {"epochs": 4, "save_steps": 2, "n_log_epoch": 3}
    try:
        log = folder / "run.log"
        argv = arguments(folder, model_dir=folder / "whole", **settings)
        assert zygote.run(argv, log) == 0, log.read_text()
        argv = arguments(folder, model_dir=folder / "killed", **settings)
        assert kill_after(zygote, argv, folder / "killed", 5, log) == -signal.SIGKILL
        assert zygote.run(argv, log) == 0, log.read_text()
    finally:
        zygote.close()
    assert curve(folder / "killed") == curve(folder / "whole")
    for name in ("best/model.safetensors", "final_scores.json"):
        ours, theirs = folder / "killed" / name, folder / "whole" / name
        assert ours.read_bytes() == theirs.read_bytes()


def test_two_processes_compute_what_one_does(folder, program):
    config = {"dropout": 0.0, "dropatt": 0.0, "overwrite_keys": "dropout,dropatt", "epochs": 1}
    assert invoke(program, arguments(folder, model_dir=folder / "alone", **config)) == 0
    argv = arguments(folder, model_dir=folder / "both", **config, train_bsz=4)
    command = [sys.executable, *TORCHRUN, str(PYTORCH / "race.py"), *argv]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    ours, theirs = curve(folder / "both"), curve(folder / "alone")
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)


WRONG = {
    "nothing to do": ({"do_train": None, "do_eval": None}, ["--do_train", "--do_eval"]),
    "no data": ({"data_dir": None}, ["--data_dir is needed"]),
    "no such data": ({"data_dir": "/nowhere"}, ["/nowhere/dev/middle"]),
    "no model": ({"do_train": None}, ["--do_eval: no model in", "run/best"]),
    "length": ({"max_qa_length": 30}, ["max_seq_length=32"]),
    "split": ({"eval_split": "train"}, ["--eval_split"]),
    "batch": ({"train_bsz": 0}, ["batch_size=0"]),
    "no model_dir": ({"model_dir": None}, ["--model_dir is needed"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_flags_write_nothing(folder, program, capsys, case):
    changes, words = WRONG[case]
    refuse(program, capsys, arguments(folder, **changes), *words)
    assert not (folder / "run").exists()


def test_bad_file_is_named_and_nothing_written(folder, program, capsys):
    (folder / "RACE" / "train" / "high" / "1.txt").write_text('{"article": "a"}')
    refuse(program, capsys, arguments(folder), "train/high/1.txt", "questions")
    assert not (folder / "run").exists()


def test_finished_run_is_not_overwritten(finished, program, capsys):
    refuse(program, capsys, arguments(finished), "finished", "--resume", "--overwrite")
    refuse(program, capsys, arguments(finished, max_qa_length=9), "max_qa_length was 8, now 9")


def test_defaults_are_frozen(program):
    args = program.race_parser("what it does").parse_args([])
    assert (args.max_length, args.max_qa_length, args.eval_split) == (512, 128, "dev")
    assert not args.do_train and not args.do_eval
    shared = vars(load_program("torch_flags").classifier_parser("").parse_args([]))
    names = {name for name in shared if name in vars(args)} - {"max_length"}
    assert {name: getattr(args, name) for name in names} == {name: shared[name] for name in names}
    assert {"lr", "fp16", "compile", "resume", "block_size", "distributed_rank"} <= names
