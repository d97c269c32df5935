"""The training loop on stop signals, with a clock for checkpoints, and when it diverges."""

import json
import os
import signal

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from funnel.utils.errors import ConfigError, RunError
from funnel.utils.interruption import Interrupted, stop_requests
from funnel_torch.data.batching import BatchConfig
from funnel_torch.training.config import TrainerConfig
from funnel_torch.training.distributed import DistributedContext
from funnel_torch.training.run_directory import RunDirectory
from funnel_torch.training.stopping import EvaluationStopped, until_stopped
from funnel_torch.training.trainer import Progress, RunOutput
from trainer_cases import ListLog, Points, StateSaver, directory_output, make

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _handled():
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1)}
    with stop_requests.handled():
        yield
    stop_requests.received = None
    for number, handler in before.items():
        signal.signal(number, handler)


def _stop():
    os.kill(os.getpid(), signal.SIGTERM)


def _dev_steps(log):
    return [row[0] for row in log.rows if row[1] == "dev"]


def _resume(path, **settings):
    """A new trainer that continues the run in ``path``."""
    stop_requests.received = None
    directory, log = RunDirectory(path, {"a": 1}), ListLog()
    trainer = make(**settings)
    trainer.model.load_state_dict(torch.load(directory.last / "model.pt", weights_only=True))
    trainer.restore(directory.load_state())
    trainer.output = RunOutput(directory, log, StateSaver(trainer.model))
    return trainer, log


@pytest.mark.parametrize("step", [3, 4, 12])
def test_a_stop_before_or_in_an_evaluation_leaves_it_to_the_next_start(tmp_path, step):
    """Step 4 and the last step are evaluated; step 3 is not."""
    log = ListLog()
    trainer = make(eval_steps=4, save_steps=0)
    trainer.output = directory_output(tmp_path / "run", trainer.model, log)

    def evaluate():
        if trainer.progress.step == step:
            raise EvaluationStopped
        if trainer.progress.step == 4:
            _stop()  # in the evaluation of step 4, at the latest
        return {"dev": {"accuracy": 0.5}}

    if step == 3:
        trainer.output.meter.update = lambda output: trainer.progress.step == 2 and _stop()
    with pytest.raises(
        Interrupted, match=rf"after step {min(step, 5)}/12, which is saved in .*last"
    ):
        trainer.train(evaluate)
    progress = json.loads((tmp_path / "run" / "last" / "progress.json").read_text())
    assert progress == {"step": min(step, 5), "total_steps": 12, "finished": False}
    resumed, rest = _resume(tmp_path / "run", eval_steps=4)
    assert resumed.progress.evaluation_pending == (step == 4)
    saves = []
    resumed.save = lambda save=resumed.save: (saves.append(resumed.progress.step), save())
    resumed.train(lambda: {"dev": {"accuracy": 0.5}})
    assert _dev_steps(log) + _dev_steps(rest) == [4, 8, 12]
    assert saves == ([4, 12] if step == 4 else [12])  # the late evaluation is not repeated again


def test_a_stop_in_the_last_evaluation_is_no_finished_run(tmp_path):
    trainer = make(eval_steps=12)
    trainer.output = directory_output(tmp_path / "run", trainer.model)

    def evaluate():
        raise EvaluationStopped

    with pytest.raises(Interrupted, match="step 12/12"):
        trainer.train(evaluate)
    resumed, log = _resume(tmp_path / "run", eval_steps=12)  # not refused as finished
    resumed.train(lambda: {"dev": {"accuracy": 0.5}})
    assert _dev_steps(log) == [12] and resumed.progress.best_step == 12
    with pytest.raises(RunError, match="finished"):
        RunDirectory(tmp_path / "run", {"a": 1})


def test_a_run_without_its_results_is_not_finished(tmp_path):
    trainer = make()
    trainer.output = directory_output(tmp_path / "run", trainer.model)
    trainer.output.directory.expect_results()
    trainer.train()
    directory = RunDirectory(tmp_path / "run", {"a": 1})  # not refused
    assert directory.resume_step == 12
    directory.complete()
    with pytest.raises(RunError, match="finished"):
        RunDirectory(tmp_path / "run", {"a": 1})


def test_a_stop_after_the_last_step_does_not_matter(tmp_path):
    trainer = make()
    trainer.output = directory_output(tmp_path / "run", trainer.model)
    trainer.output.meter.update = lambda output: trainer.progress.step == 11 and _stop()
    assert trainer.train().step == 12


def test_without_a_directory_nothing_is_saved():
    trainer = make()
    trainer.output.meter.update = lambda output: _stop()
    with pytest.raises(Interrupted, match="nothing was saved"):
        trainer.train()


def test_checkpoints_by_the_clock(tmp_path, monkeypatch):
    trainer = make(save_minutes=15.0)
    trainer.output = directory_output(tmp_path / "run", trainer.model)
    saved, now = [], [0.0]
    monkeypatch.setattr("funnel_torch.training.stopping.time.monotonic", lambda: now[0])
    trainer._requests.reset_clock()
    save = trainer.save
    trainer.save = lambda: (saved.append(trainer.progress.step), save())
    # Three and a half minutes a step.
    trainer.output.meter.update = lambda output: now.__setitem__(0, now[0] + 210.0)
    trainer.train()
    assert saved == [5, 10, 12]


def test_no_clock_and_wrong_clocks():
    assert TrainerConfig(1).save_minutes == 15.0
    with pytest.raises(ConfigError, match="save_minutes=-1: must not be negative"):
        TrainerConfig(1, save_minutes=-1)
    trainer = make(save_minutes=0)
    loss = torch.zeros(())
    assert trainer._requests.with_loss(loss).tolist() == [0, 0, 0]


def test_every_process_asks_equally_often():
    """A process with fewer batches takes part in as many agreements as the others."""
    asked = []

    class Counting(DistributedContext):
        def any(self, value):
            asked.append(value)
            return False

    world = Counting(1, 2, torch.device("cpu"))
    with stop_requests.deferred():
        assert list(until_stopped([1, 2], world, rounds=3)) == [1, 2]
    assert asked == [False] * 3
    assert list(until_stopped([1, 2], world, rounds=3)) == [1, 2] and len(asked) == 3


@pytest.mark.parametrize(
    ("progress", "precision", "words"),
    [
        (Progress(10, skipped=1, skipped_in_a_row=0), "fp32", None),
        (Progress(10, skipped=1, skipped_in_a_row=1), "fp32", "the last step were"),
        (Progress(10, skipped=2, skipped_in_a_row=2), "bf16", "last 2 steps"),
        (Progress(90, skipped=3, skipped_in_a_row=3), "fp16", None),
        (Progress(90, skipped=10, skipped_in_a_row=10), "fp16", "last 10 steps"),
        (Progress(1, skipped=1, skipped_in_a_row=1), "fp32", "no step"),
        (Progress(10, evaluation_is_finite=False), "fp32", "loss in the evaluation"),
    ],
)
def test_divergence(progress, precision, words):
    found = progress.divergence(precision)
    assert (not found) if words is None else words in found[0]


def test_a_loss_that_is_not_finite_in_the_evaluation_is_remembered():
    trainer = make(eval_steps=4)
    losses = iter([np.inf, 1.0, np.nan])
    progress = trainer.train(lambda: {"dev": {"accuracy": 0.0, "loss": next(losses)}})
    assert not progress.evaluation_is_finite


@pytest.mark.parametrize("loss", [np.nan, np.inf])
def test_a_model_whose_loss_is_not_finite_never_replaces_a_better_one(loss):
    """NaN outputs become one class for all examples, which can be the more frequent one."""
    progress = Progress()
    assert progress.add_evaluation({"dev": {"accuracy": 0.9, "loss": loss}}, True, 0)
    assert progress.add_evaluation({"dev": {"accuracy": 0.6, "loss": 0.7}}, True, 0)
    assert not progress.add_evaluation({"dev": {"accuracy": 0.9, "loss": loss}}, True, 0)
    assert progress.best["dev"]["accuracy"] == progress.best_score == 0.6


def test_divergence_of_a_run():
    source = Points(20, poison=range(20))
    assert make(source, BatchConfig(4)).train().divergence("fp32")
