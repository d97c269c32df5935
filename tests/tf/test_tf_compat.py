"""``funnel_tf.compat``: TPUEstimator on every supported TensorFlow, and what it says without."""

import json
import os
import subprocess
import sys

import pytest

import repo_layout
from funnel.utils.errors import ConfigError
from half_installation import run_without
from support_tf import import_tensorflow

tensorflow = import_tensorflow()

from funnel_tf import compat

IS_OLD = tuple(map(int, tensorflow.__version__.split(".")[:2])) < (2, 16)
ROOTS = [repo_layout.ROOT / "common", repo_layout.ROOT / "tensorflow"]


def test_the_estimator_is_part_of_the_api():
    estimator = tensorflow.compat.v1.estimator
    assert compat.tf is tensorflow.compat.v1
    assert estimator.tpu.TPUEstimator.__module__.startswith("tensorflow_estimator.")
    assert estimator.ModeKeys.TRAIN == "train"


def test_nothing_replaces_a_module_that_tensorflow_has():
    replaced = [type(sys.modules[name]) is compat._RemovedModule for name in compat._REMOVED]
    assert replaced == [not IS_OLD] * 4


@pytest.mark.skipif(IS_OLD, reason="TensorFlow 2.15 has the module")
def test_what_is_gone_says_so_when_it_is_used():
    from tensorflow.python.tpu import tpu_embedding

    assert isinstance(tpu_embedding.AdamParameters, type)
    assert not isinstance(3, tpu_embedding.TableConfig)
    for use in (tpu_embedding.TPUEmbedding, tpu_embedding.TableConfig):
        with pytest.raises(ConfigError, match=r"has no .*tpu_embedding\.T.*tensorflow-2\.15\.txt"):
            use(1, name="x")


@pytest.mark.skipif(IS_OLD, reason="TensorFlow 2.15 has heartbeats")
def test_a_tpu_run_has_a_hook_in_place_of_heartbeats():
    from tensorflow.python.tpu import session_support

    hook = session_support.GracefulShutdownHook(
        checkpoint_prefix="model.ckpt",
        on_shutdown_hooks=[session_support.ResetComputation()],
        saver=None,
    )
    assert isinstance(hook, compat.tf.train.SessionRunHook)


def test_several_devices_of_one_machine(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    strategy = compat.tf.distribute.OneDeviceStrategy("/cpu:0")
    config = compat.tf.estimator.tpu.RunConfig(train_distribute=strategy)
    assert (config.train_distribute, config.is_chief) == (strategy, True)
    assert (config.num_worker_replicas, config.master) == (1, "")


@pytest.mark.skipif(IS_OLD, reason="TensorFlow 2.15 trains on a cluster")
def test_a_cluster_is_refused(monkeypatch):
    cluster = {"chief": ["localhost:1"], "worker": ["localhost:2"]}
    task = {"type": "worker", "index": 0}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
    strategy = compat.tf.distribute.OneDeviceStrategy("/cpu:0")
    with pytest.raises(ConfigError, match="TF_CONFIG names a cluster.*unset it"):
        compat.tf.estimator.tpu.RunConfig(train_distribute=strategy)


@pytest.mark.slow
def test_without_the_package_it_is_named():
    """As a library, and in a program: one line."""
    blocked = ["tensorflow_estimator"]
    if not IS_OLD:  # without it, 2.15 itself cannot be imported
        done = run_without(blocked, ["-c", "import funnel_tf.training.estimator"], ROOTS)
        assert done.returncode == 1
        assert "pip install tensorflow-estimator==2.15.0" in done.stderr.splitlines()[-1]
    program = str(repo_layout.ROOT / "tensorflow/race.py")
    done = run_without(blocked, [program, "--do_train"])
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: tensorflow-estimator is not installed")


@pytest.mark.slow
def test_the_start_is_silent_and_loads_no_keras():
    """TensorFlow 2.21 logs on import whatever the level of its log; Keras doubles its time."""
    code = (
        "from funnel_tf.cli.start import silence_tensorflow as silence\n"
        "silence()\n"
        "import os, sys, funnel_tf.training.estimator\n"
        "from funnel_tf.compat import tf\n"
        "loaded = 'keras' in sys.modules\n"
        "tf.keras.optimizers.Adam\n"
        "os.write(1, f'{loaded}, then {\"keras\" in sys.modules}'.encode())\n"
        "os.write(2, b'still there')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": ":".join(map(str, ROOTS))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "still there")
    assert IS_OLD or done.stdout == "False, then True"


def test_held_back_output_is_shown_if_the_import_fails(capfd):
    from funnel_tf.cli.start import _held_back_stderr

    with _held_back_stderr():
        os.write(2, b"dropped")
    with pytest.raises(ImportError), _held_back_stderr():
        os.write(2, b"shown")
        raise ImportError
    assert capfd.readouterr().err == "shown"
