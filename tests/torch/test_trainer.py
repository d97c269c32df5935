"""The training loop and its directory: accumulation, skipped steps, best score, exact resume."""

import errno
import json
import math
from itertools import count

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from funnel.utils.errors import CheckpointError, ConfigError, FunnelError, RunError
from funnel_torch.data.batching import BatchConfig
from funnel_torch.training.rng import get_rng_state, seed_everything, set_rng_state
from funnel_torch.training.run_directory import RunDirectory, load_training_state
from funnel_torch.training.trainer import RunOutput, TrainerConfig
from trainer_cases import CONFIG, ListLog, Points, directory_output, make

torch.set_num_threads(1)


def losses(log):
    return [row[2]["loss"] for row in log.rows if row[1] == "train"]


def test_training_lowers_the_loss_and_follows_the_schedule():
    log = ListLog()
    trainer = make(output=RunOutput(log=log), total_steps=60)
    trainer.train()
    assert np.mean(losses(log)[-5:]) < np.mean(losses(log)[:5]) / 4
    rates = [row[2]["lr"] for row in log.rows]
    assert rates[0] == 0.0
    assert rates == [trainer.schedule.lr_at(k) for k in range(60)]


def test_accumulated_batches_are_one_large_batch():
    """Also for the short last step of an epoch, whose parts are unequal."""
    results = []
    for batches in (BatchConfig(6), BatchConfig(3, grad_accum=2), BatchConfig(2, grad_accum=3)):
        log = ListLog()
        trainer = make(Points(20), batches, RunOutput(log=log))
        trainer.train()
        results.append((losses(log), trainer.model.linear.weight.detach()))
    for other in results[1:]:
        np.testing.assert_allclose(other[0], results[0][0], rtol=1e-5)
        torch.testing.assert_close(other[1], results[0][1], rtol=1e-5, atol=1e-6)


def test_a_step_that_is_not_finite_is_skipped_and_counted():
    log = ListLog()
    trainer = make(Points(20, poison=[3]), BatchConfig(4), RunOutput(log=log), total_steps=10)
    progress = trainer.train()
    assert progress.step == 10
    assert progress.skipped == 2  # once an epoch
    assert torch.isfinite(trainer.model.linear.weight).all()
    assert sum(math.isnan(loss) for loss in losses(log)) == 2
    assert log.rows[-1][2]["skipped"] == 2


def test_divergence_is_an_error_not_an_endless_run():
    trainer = make(Points(4, poison=range(4)), total_steps=1000)
    with pytest.raises(RunError, match="not finite"):
        trainer.train()
    assert trainer.progress.step == 50


@pytest.mark.parametrize(
    ("scores", "best_step", "higher"),
    [
        ([0.2, 0.9, 0.5], 8, True),
        ([0.2, 0.9, 0.9], 8, True),
        ([math.nan, 0.1, 0.05], 8, True),
        ([0.3, math.nan, 0.1], 4, True),
        ([3.0, 2.0, 2.5], 8, False),
    ],
)
def test_best_is_the_best_and_is_what_is_saved(tmp_path, scores, best_step, higher):
    """The original saved the score of the evaluation before the best one."""
    log = ListLog()
    trainer = make(higher_is_better=higher, eval_steps=4)
    trainer.output = directory_output(tmp_path / "run", trainer.model, log)
    weights, calls = {}, count()

    def evaluate():
        weights[trainer.progress.step] = trainer.model.linear.weight.detach().clone()
        return {"dev": {"accuracy": scores[next(calls)], "loss": 1.0}, "dev2": {"accuracy": 0.0}}

    progress = trainer.train(evaluate)
    assert progress.best_step == best_step
    result = json.loads((tmp_path / "run" / "best_result.json").read_text())
    assert (result["split"], result["metric"], result["step"]) == ("dev", "accuracy", best_step)
    assert result["score"] == scores[best_step // 4 - 1]
    assert result["epoch"] == pytest.approx(best_step / 5)
    saved = torch.load(tmp_path / "run" / "best" / "model.pt", weights_only=True)
    assert torch.equal(saved["linear.weight"], weights[best_step])
    assert [row[0] for row in log.rows if row[1] == "dev2"] == [4, 8, 12]


@pytest.mark.parametrize("stop", [1, 5, 7, 12])
def test_resumed_training_is_the_uninterrupted_one_bit_for_bit(tmp_path, stop):
    def run(resume_at=None):
        log = ListLog()
        path = tmp_path / f"run-{resume_at}"
        trainer = make(dropout=0.3, log_steps=2, save_steps=resume_at or 0)
        trainer.output = directory_output(path, trainer.model, log)
        if resume_at is None:
            trainer.train()
            return losses(log), trainer.model.linear.weight.detach()

        def kill(*args):
            raise KeyboardInterrupt

        trainer.save = lambda save=trainer.save: (save(), kill())
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
        resumed = make(dropout=0.3, log_steps=2)
        seed_everything(99)  # whatever a new process has drawn before it resumes
        directory = RunDirectory(path, {"a": 1}, resume=True)
        assert directory.can_resume
        assert directory.resume_step == resume_at
        resumed.model.load_state_dict(torch.load(directory.last / "model.pt", weights_only=True))
        resumed.restore(directory.load_state())
        resumed.output = RunOutput(log=log)
        resumed.train()
        return losses(log), resumed.model.linear.weight.detach()

    uninterrupted, resumed = run(), run(stop)
    assert resumed[0] == uninterrupted[0]
    assert torch.equal(resumed[1], uninterrupted[1])


def test_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    trainer = make(save_steps=4)
    trainer.output = directory_output(tmp_path / "run", trainer.model)
    save, calls = torch.save, count()

    def failing(value, target):
        save(value, target)
        if next(calls) == 3:  # two files a checkpoint: the second one's training state
            try:
                raise OSError(errno.ENOSPC, "No space left on device")
            finally:
                raise RuntimeError("unexpected pos 20736 vs 20656")  # the error that torch reports

    monkeypatch.setattr(torch, "save", failing)
    with pytest.raises(FunnelError, match="No space left"):
        trainer.train()
    directory = RunDirectory(tmp_path / "run", {"a": 1}, resume=True)
    assert directory.resume_step == 4
    assert directory.load_state()["progress"]["step"] == 4
    assert sorted(p.name for p in directory.path.iterdir()) == [
        "last",
        "net_config.json",
        "run_config.json",
    ]


def test_precision_is_checked():
    with pytest.raises(ConfigError, match="precision"):
        TrainerConfig(1, precision="fp8")
    with pytest.raises(ConfigError, match="train_steps"):
        TrainerConfig(0)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains(precision):
    log = ListLog()
    trainer = make(output=RunOutput(log=log), total_steps=60, precision=precision)
    trainer.train()
    assert np.nanmean(losses(log)[-5:]) < np.nanmean(losses(log)[:5]) / 3
    assert trainer.model.linear.weight.dtype == torch.float32
    assert trainer.scaler.is_enabled() == (precision == "fp16")


def test_other_number_of_processes_cannot_resume(tmp_path):
    trainer = make(total_steps=1)
    trainer.output = directory_output(tmp_path / "run", trainer.model)
    trainer.train()
    state = trainer.output.directory.load_state()
    state["random"] *= 2
    with pytest.raises(RunError, match="2 processes"):
        make().restore(state)


def test_random_state_round_trip_covers_all_generators():
    import random

    def draw():
        return random.random(), np.random.rand(), np.random.randn(), torch.rand(2).tolist()

    seed_everything(5)
    draw()
    state = get_rng_state(torch.device("cpu"))
    first = draw()
    draw()
    set_rng_state(state, torch.device("cpu"))
    assert draw() == first


def finished(path, settings):
    directory = RunDirectory(path, settings)
    directory.create(CONFIG, {"seed": 7})
    directory.save_last(lambda folder: None, {"x": 1}, {"step": 3, "finished": True})
    return directory


def test_a_directory_belongs_to_one_run(tmp_path):
    path = tmp_path / "run"
    finished(path, {"lr": 1e-5, "labels": ("a", "b")})
    with pytest.raises(RunError, match="finished"):
        RunDirectory(path, {"lr": 1e-5, "labels": ("a", "b")})
    again = RunDirectory(path, {"lr": 1e-5, "labels": ("a", "b")}, resume=True)
    assert (again.can_resume, again.resume_step, again.recorded("seed")) == (True, 3, 7)
    for resume in (False, True):
        with pytest.raises(RunError, match=r"another run \(lr was 1e-05, now 2e-05\)"):
            RunDirectory(path, {"lr": 2e-5, "labels": ("a", "b")}, resume=resume)
    with pytest.raises(RunError, match="contradict"):
        RunDirectory(path, {}, resume=True, overwrite=True)


def test_overwriting_deletes_what_a_run_wrote_and_nothing_else(tmp_path):
    path = tmp_path / "run"
    finished(path, {"lr": 1})
    (path / "notes.md").write_text("keep")
    (path / "metrics.jsonl").write_text("")
    (path / "events.out.tfevents.1.host").write_text("")
    directory = RunDirectory(path, {"lr": 2}, overwrite=True)
    assert not directory.can_resume
    assert (path / "last").exists()  # nothing happens before create
    directory.create(CONFIG, {"seed": 8})
    names = sorted(item.name for item in path.iterdir())
    assert names == ["net_config.json", "notes.md", "run_config.json"]
    assert json.loads((path / "run_config.json").read_text())["settings"] == {"lr": 2}


def test_foreign_directories_are_refused(tmp_path):
    (tmp_path / "train.log").write_text("output of tee")
    RunDirectory(tmp_path, {})
    (tmp_path / "model.pt").write_text("")
    with pytest.raises(RunError, match=r"model\.pt"):
        RunDirectory(tmp_path, {})
    RunDirectory(tmp_path, {}, overwrite=True)
    with pytest.raises(RunError, match="is a file"):
        RunDirectory(tmp_path / "train.log", {})


def test_interrupted_swap_is_settled(tmp_path):
    """Killed between the two renames, `last` is missing and the old one has a hidden name."""
    directory = finished(tmp_path / "run", {"lr": 1})
    directory.last.rename(directory.path / ".previous-last")
    again = RunDirectory(tmp_path / "run", {"lr": 1}, resume=True)
    assert again.resume_step == 3


class Evil:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize("corruption", ["pickle", "truncated", "list", "missing"])
def test_unsafe_or_corrupt_training_state(tmp_path, corruption, capsys):
    path = tmp_path / "training_state.pt"
    if corruption != "missing":
        torch.save({"pickle": Evil(), "list": [1]}.get(corruption, {"a": torch.zeros(99)}), path)
    if corruption == "truncated":
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match=r"training_state\.pt"):
        load_training_state(path)
    assert "executed" not in capsys.readouterr().out


def test_corrupt_run_config_is_one_line(tmp_path):
    finished(tmp_path / "run", {})
    (tmp_path / "run" / "run_config.json").write_text("{")
    with pytest.raises(RunError, match=r"run_config\.json"):
        RunDirectory(tmp_path / "run", {})
