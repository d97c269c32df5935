"""A run that one TensorFlow began is continued by another, in both directions.

Runs only where a second Python has another TensorFlow: the one in the environment variable
FUNNEL_OTHER_PYTHON, else that of `make test-tensorflow-2.15` or of `make test`.
"""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import repo_layout
from funnel.utils.logging import read_metrics
from pretrain_runs import SEQ_LEN, write_files
from support_tf import import_tensorflow

tensorflow = import_tensorflow()

from funnel_tf.training.run_directory import retain

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # four starts of TensorFlow

PROGRAM = str(repo_layout.PROGRAM_DIRECTORIES["tensorflow"] / "pretrain.py")
CANDIDATES = [
    os.environ.get("FUNNEL_OTHER_PYTHON", ""),
    *(f"{repo_layout.ROOT}/{venv}/bin/python" for venv in (".venv-tensorflow-2.15", ".venv")),
]


def _version(python):
    code = "from importlib.metadata import distribution as d\nprint(d('{}').version)"
    for package in ("tensorflow-cpu", "tensorflow"):
        done = subprocess.run([python, "-c", code.format(package)], capture_output=True, text=True)
        if done.returncode == 0:
            return done.stdout.strip()
    return None


@pytest.fixture(scope="module")
def other():
    """Return a Python with another version of TensorFlow."""
    for python in filter(os.path.exists, CANDIDATES):
        if _version(python) not in (None, tensorflow.__version__):
            return python
    pytest.skip(f"no second Python with another TensorFlow than {tensorflow.__version__}")


def _train(python, folder, model_dir):
    """Train to step 60, with a checkpoint at step 50, and return the losses of the last ten."""
    flags = {
        "use_tpu": False,
        "num_core_per_host": 1,
        "model_config": folder / "net_config.json",
        "record_dir": folder / "records",
        "tokenizer_path": folder / "vocab.txt",
        "model_dir": folder / model_dir,
        "loss_type": "mlm",
        "seq_len": SEQ_LEN,
        "num_predict": 4,
        "train_batch_size": 4,
        "train_steps": 60,
        "save_steps": 50,
        "learning_rate": 1e-2,
        "log_freq": 1,
        "seed": 1,
    }
    command = [python, PROGRAM, *(f"--{name}={value}" for name, value in flags.items())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = read_metrics(folder / model_dir / "metrics.jsonl")
    losses = {row["step"]: row["loss"] for row in rows if row["split"] == "train"}
    return [losses[step] for step in range(51, 61)]


def _cut(folder, source, copy):
    """Copy a run as it was at step 50."""
    run = shutil.copytree(folder / source, folder / copy)
    (run / "progress.json").unlink()
    retain(run, {50})


def test_runs_are_interchangeable(other, tmp_path):
    write_files(tmp_path, dropout=0.0, dropatt=0.0)  # dropout draws other bits in another version
    ours = _train(sys.executable, tmp_path, "ours")
    theirs = _train(other, tmp_path, "theirs")
    _cut(tmp_path, "ours", "ours-then-theirs")
    _cut(tmp_path, "theirs", "theirs-then-ours")
    np.testing.assert_allclose(_train(other, tmp_path, "ours-then-theirs"), ours, atol=1e-5)
    np.testing.assert_allclose(
        _train(sys.executable, tmp_path, "theirs-then-ours"), theirs, atol=1e-5
    )
