"""Pretraining in several processes, replicated or sharded, computes what one process does."""

import os
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from checkpoint_cases import flip
from classifier_runs import PYTORCH, curve
from distributed_runs import start_ranks
from funnel.formats.tfrecord import read_records
from funnel.pretraining.dataset import DatasetConfig, RecordOrder
from funnel.pretraining.record_index import find_records
from funnel_torch.models.electra import ElectraPretraining
from pretrain_runs import SEQ_LEN, arguments, assert_close, write_files

pytestmark = pytest.mark.slow

STEPS = {"train_steps": 6, "train_bsz": 8, "eval_steps": 3, "save_steps": 3}


def finish(folder, name, processes, expected=True, **changes):
    """Run in several processes, check the exit codes, and return stderr."""
    flags = arguments(folder, name, **STEPS | changes)
    logs = [folder / f"{name}-{rank}.log" for rank in range(processes)]
    started = start_ranks(PYTORCH / "pretrain.py", flags, logs, local=True)
    statuses = [process.wait(240) for process in started]
    text = "".join(log.read_text() for log in logs)
    assert (statuses == [0] * processes) == expected, text
    return text


def finish_with_torchrun(folder, name, processes, **changes):
    """Run as torchrun does, and return stderr."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    argv = [sys.executable, *launcher, str(PYTORCH / "pretrain.py")]
    argv += arguments(folder, name, **STEPS | changes)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(argv, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    write_files(folder, dropout=0.0, dropatt=0.0)
    finish(folder, "alone", 1)
    return folder


def assert_same_run(folder, name):
    ours, theirs = curve(folder / name), curve(folder / "alone")
    assert len(ours) == len(theirs)
    for row, reference in zip(ours, theirs, strict=True):
        assert_close(row, reference)
    found, reference = (
        ElectraPretraining.from_pretrained(folder / run / "last").state_dict()
        for run in (name, "alone")
    )
    for key, wanted in reference.items():
        torch.testing.assert_close(found[key], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("processes", "changes"),
    [
        (2, {"train_bsz": 2, "grad_accum": 2, "num_workers": 1}),
        (4, {"train_bsz": 2}),
        (2, {"train_bsz": 4, "fsdp": True, "recompute_layers": True}),
        (2, {"train_bsz": 2, "fsdp": True, "grad_accum": 2}),
    ],
    ids=["ddp-2x2", "ddp-4", "fsdp-2", "fsdp-2x2"],
)
def test_equals_one_process(folder, processes, changes, request):
    name = request.node.callspec.id
    run = finish_with_torchrun if name == "ddp-2x2" else finish
    log = run(folder, name, processes, **changes)
    assert f"in {processes} processes on cpu" in log
    assert_same_run(folder, name)


def test_a_sharded_run_continues_replicated(folder):
    """Checkpoints are unsharded. A corrupt record of the fourth step stops the run."""
    collection = find_records(str(folder / "records"), "train", SEQ_LEN, uncased=True)
    place = RecordOrder(collection.counts, DatasetConfig(seed=1)).locate(np.array([24]))
    path = collection.files[int(place.file[0])].path
    byte = next(read_records(path, int(place.offset[0]))).offset + 20
    flip(path, byte)
    log = finish(folder, "mixed", 2, expected=False, train_bsz=4, fsdp=True)
    assert str(path) in log
    flip(path, byte)
    assert "resumed at step 3" in finish(folder, "mixed", 2, train_bsz=4)
    assert_same_run(folder, "mixed")
