"""Checkpoints of a TensorFlow run: fixed steps, the clock, stop signals, and what they leave."""

import os
import signal

import numpy as np
import pytest

from support_tf import import_tensorflow

tf = import_tensorflow().compat.v1

from funnel.utils.errors import ConfigError, RunError
from funnel.utils.interruption import Interrupted, stop_requests
from funnel.utils.logging import MetricsLog
from funnel_tf.cli.start import silence_tensorflow
from funnel_tf.training.estimator import build_estimator, make_model_fn, train
from funnel_tf.training.run_directory import RunDirectory, find_divergence, latest_step, saved_steps
from tf_training_cases import Recorder, toy_graph, toy_input, toy_settings, toy_training

pytestmark = pytest.mark.slow

silence_tensorflow()


@pytest.fixture(autouse=True)
def _handled():
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1)}
    with stop_requests.handled():
        yield
    stop_requests.received = None
    for number, handler in before.items():
        signal.signal(number, handler)


class _StopAt(Recorder):
    """A log that stops the run when a step is logged."""

    def __init__(self, step):
        super().__init__()
        self.stop_step = step

    def log(self, step, split, **scalars):
        super().log(step, split, **scalars)
        if step == self.stop_step:
            os.kill(os.getpid(), signal.SIGTERM)


def _run(settings, log=None, **options):
    model_fn = make_model_fn(toy_graph, settings, toy_training(**options), None, log or Recorder())
    return train(
        build_estimator(settings, model_fn), toy_input(latest_step(settings.model_dir)), settings
    )


def _steps(folder):
    return [saved.step for saved in saved_steps(folder)]


def _stop(settings, step):
    """Start a run that is stopped after a step; its log."""
    log = _StopAt(step)
    with pytest.raises(Interrupted, match="^stopped by SIGTERM after step .*same command resumes"):
        _run(settings, log)
    stop_requests.received = None
    return log


def test_a_stopped_run_leaves_the_checkpoints_of_the_uninterrupted_one(tmp_path):
    complete, rest, folder = Recorder(), Recorder(), tmp_path / "stopped"
    _run(toy_settings(tmp_path / "complete"), complete)
    first = _stop(toy_settings(folder), 3)
    assert _steps(folder) == [0, 3]
    second = _stop(toy_settings(folder), 6)
    assert _steps(folder) == [0, 4, 6]
    assert _run(toy_settings(folder), rest) == 8
    assert _steps(folder) == _steps(tmp_path / "complete") == [0, 4, 8]
    losses = [row["loss"] for log in (first, second, rest) for row in log.rows]
    assert losses == [row["loss"] for row in complete.rows]


def test_the_mean_loss_of_a_log_line_includes_the_steps_before_a_stop(tmp_path):
    complete, rest = Recorder(), Recorder()
    settings = {"log_freq": 5, "save_steps": None}
    _run(toy_settings(tmp_path / "complete", **settings), complete)
    folder, stop = tmp_path / "stopped", tf.train.Saver.save

    def save(saver, session, path, global_step=None, **options):
        if int(global_step) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return stop(saver, session, path, global_step=global_step, **options)

    # By the clock in every step; the signal arrives while step 5 is saved, so step 6 is the last.
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted, match="step 6/8"):
        patch.setattr(tf.train.Saver, "save", save)
        _run(toy_settings(folder, save_minutes=1e-9, **settings), Recorder())
    stop_requests.received = None
    assert latest_step(folder) == 6
    _run(toy_settings(folder, **settings), rest)
    assert [row["step"] for row in rest.rows] == [8]
    np.testing.assert_allclose(rest.rows[0]["loss"], complete.rows[-1]["loss"], rtol=1e-6)


@pytest.mark.parametrize(("max_save", "kept"), [(0, [0, 4, 8]), (2, [4, 8]), (9, [0, 4, 8])])
def test_checkpoints_by_the_clock_are_not_kept_and_displace_none(tmp_path, max_save, kept):
    seen = []

    class Watch(Recorder):
        def log(self, step, split, **scalars):
            seen.append(_steps(tmp_path))

    _run(toy_settings(tmp_path, save_minutes=1e-9, max_save=max_save), Watch())
    assert seen[2:5] == [[0, 2], [0, 3], [0, 4]] and seen[6][-2:] == [4, 6]
    assert _steps(tmp_path) == kept
    state = tf.train.get_checkpoint_state(str(tmp_path))
    assert os.path.basename(state.model_checkpoint_path) == "model.ckpt-8"


def test_a_resumed_run_counts_its_checkpoints_rightly(tmp_path):
    """A checkpoint to resume from does not displace one to keep when the run is resumed."""
    settings = toy_settings(tmp_path, save_steps=2, max_save=2)
    _stop(settings, 5)
    assert _steps(tmp_path) == [2, 4, 5]
    _run(settings)
    assert _steps(tmp_path) == [6, 8]


def test_a_stop_after_the_last_step_ends_training_normally(tmp_path):
    assert _run(toy_settings(tmp_path), _StopAt(8)) == 8


def test_save_minutes_is_checked(tmp_path):
    with pytest.raises(ConfigError, match="--save_minutes=-1: must not be negative"):
        toy_settings(tmp_path, save_minutes=-1.0)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"grad_norm": 1.0}], None),
        ([{"grad_norm": 1.0}, {"grad_norm": float("nan")}], "gradients of the last steps, up to 2"),
        ([{"grad_norm": float("inf"), "skipped": 1, "skipped_in_a_row": 1}], "gradients"),
        (
            [{"grad_norm": 1.0}, {"grad_norm": float("nan"), "skipped": 1, "skipped_in_a_row": 1}],
            "up to 2",
        ),
        (
            [{"grad_norm": float("nan"), "skipped": 1}, {"grad_norm": 1.0, "skipped": 1}],
            None,
        ),
        (
            [{"grad_norm": 1.0}, {"grad_norm": float("nan"), "skipped": 2, "skipped_in_a_row": 2}],
            "up",
        ),
    ],
)
def test_divergence_in_training(tmp_path, rows, words):
    log = MetricsLog(tmp_path)
    for step, row in enumerate(rows, start=1):
        log.log(step, "train", **row)
    log.close()
    found = find_divergence(tmp_path)
    assert (found is None) if words is None else words in found


def test_divergence_in_the_evaluation_of_the_last_checkpoint(tmp_path):
    log = MetricsLog(tmp_path)
    log.log(4, "dev", accuracy=0.5, loss=float("nan"))
    log.log(8, "dev", accuracy=0.5, loss=1.0)
    assert find_divergence(tmp_path) is None
    log.log(9, "dev", accuracy=0.5, loss=float("inf"))
    log.close()
    with pytest.raises(RunError, match=r"diverged: the loss in the evaluation of step 9.*rate"):
        RunDirectory(tmp_path, {}).finish(9, 9)
