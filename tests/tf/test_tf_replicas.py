"""classifier.py on two logical CPU devices: the same losses and weights as on one."""

import os

import numpy as np
import pytest

from support_tf import import_tensorflow

import_tensorflow()

import program_server
import repo_layout
from classifier_runs import write_files
from funnel.formats.tensor_bundle import TFCheckpoint
from funnel.utils.logging import read_metrics
from tf_program_runs import classifier_flags

pytestmark = pytest.mark.slow

# Logical devices have to be configured before TensorFlow initializes the hardware.
_ON_DEVICES = """
import sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
parts = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, parts)
from classifier_runs import invoke
from tf_program_runs import load_tf_program
program = load_tf_program("classifier")
middle = sys.argv.index("--")
for flags in (sys.argv[1:middle], sys.argv[middle + 1 :]):
    if invoke(program, flags):
        sys.exit(1)
"""
_SETTINGS = {
    "train_steps": 6,
    "warmup_steps": 2,
    "save_steps": 3,
    "weight_decay": 0.1,
    "lr_layer_decay_rate": 0.75,
    "clip": 0.5,
    "per_core_clip": False,
    "skip_nan_grad": True,
}


@pytest.mark.timeout(600)  # two runs of TensorFlow on a machine that may be busy
def test_two_devices_train_to_the_losses_of_one(tmp_path):
    """With layer decay, clipping and weight decay, which the original refused there."""
    write_files(tmp_path, dropout=0.0, dropatt=0.0)
    one, two = (
        classifier_flags(tmp_path, name, num_core_per_host=int(name), **_SETTINGS) for name in "12"
    )
    roots = ("common", "tensorflow", "tests/support")
    path = ":".join(str(repo_layout.ROOT / root) for root in roots)
    command = ["-c", _ON_DEVICES, *one, "--", *two]
    environment = {**os.environ, "PYTHONPATH": path}
    done = program_server.run(command, env=environment, backend="tensorflow")
    assert done.returncode == 0, done.stderr
    rows = [read_metrics(tmp_path / name / "metrics.jsonl") for name in "12"]
    for metric in ("loss", "grad_norm", "lr", "skipped"):
        expected, found = ([row[metric] for row in some] for some in rows)
        assert len(expected) == 6
        np.testing.assert_allclose(found, expected, rtol=1e-5, err_msg=metric)
    assert max(row["grad_norm"] for row in rows[0]) > _SETTINGS["clip"]
    one, two = (dict(TFCheckpoint(tmp_path / name)) for name in "12")
    assert sorted(one) == sorted(two)
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-5, atol=1e-6, err_msg=name)
