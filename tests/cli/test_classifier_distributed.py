"""Several processes compute what one does: torchrun, and multigpu_classifier.py, on the CPU."""

import json
import os
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

import program_server
from classifier_runs import PYTORCH, arguments, curve, write_files

pytestmark = pytest.mark.slow

TORCHRUN = ("-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--standalone")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data whose last step has three examples, so that shares differ; no dropout."""
    folder = tmp_path_factory.mktemp("distributed")
    write_files(folder, train=43, dev=13, dropout=0.0, dropatt=0.0)
    return folder


@pytest.fixture(scope="module")
def alone(folder):
    """The run of one process."""
    argv = [*arguments(folder, "alone", train_bsz=8), "--write_prediction"]
    done = program_server.run([PYTORCH / "classifier.py", *argv])
    assert done.returncode == 0, done.stderr
    return folder / "alone"


def finish(folder, name, *program, expected=0):
    *command, flags = program
    command[-1] = str(PYTORCH / command[-1])
    argv = [sys.executable, *command, *arguments(folder, name, train_bsz=None), *flags]
    argv = argv if expected == 0 else [*argv, "--dataset=kola"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == expected, result.stderr
    return result.stderr


def assert_same(run, alone):
    ours, theirs = curve(run), curve(alone)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for row, reference in zip(ours, theirs, strict=True):
        for key in ("loss", "lr", "grad_norm", "accuracy", "matthews_corr"):
            if key in reference:
                assert row[key] == pytest.approx(reference[key], rel=1e-5, abs=1e-5)
    assert (run / "valid_results.txt").read_text() == (alone / "valid_results.txt").read_text()


def test_torchrun_equals_one_process(folder, alone):
    flags = ["--train_bsz=4", "--write_prediction", "--num_workers=1"]
    log = finish(folder, "torchrun", *TORCHRUN, "classifier.py", flags)
    assert "batch size 4 per device x 2 processes x 1 accumulated = 8" in log
    assert log.count("batch size 4") == 1  # the second process is quiet
    assert_same(folder / "torchrun", alone)


def test_multigpu_program_with_accumulation_equals_one_process(folder, alone):
    flags = ["--train_bsz=2", "--grad_accum=2", "--distributed_world_size=2", "--write_prediction"]
    log = finish(folder, "multi", "multigpu_classifier.py", flags)
    assert "batch size 2 per device x 2 processes x 2 accumulated = 8" in log
    assert_same(folder / "multi", alone)
    record = json.loads((folder / "multi" / "run_config.json").read_text())
    assert record["settings"]["processes"] == 2


def test_a_users_error_is_reported_once(folder):
    flags = ["--distributed_world_size=2"]
    log = finish(folder, "wrong", "multigpu_classifier.py", flags, expected=2)
    assert log.count("error: ") == 1
    assert "kola" in log
    assert "Traceback" not in log
    assert not (folder / "wrong").exists()
