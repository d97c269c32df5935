"""SIGTERM and SIGUSR1: the step is finished and saved, and the same command resumes bit for bit."""

import json
import random
import signal

import pytest

pytest.importorskip("torch")

import classifier_runs
import pretrain_runs
from answering_runs import RACE, SQUAD
from classifier_runs import Zygote, curve, kill_after, steps_done, stop_runs
from thoroughness import usual_or_thorough

pytestmark = pytest.mark.slow

MOMENTS = usual_or_thorough(2, 5)
STOPPED = 143


def _classifier(folder, model_dir):
    settings = {"epochs": 6, "n_log_epoch": 6, "num_workers": 1, "write_prediction": True}
    return classifier_runs.arguments(folder, model_dir, **settings)


def _pretrain(folder, model_dir):
    return pretrain_runs.arguments(folder, model_dir, train_steps=30, save_steps=20, eval_steps=5)


def _race(folder, model_dir):
    return RACE.arguments(folder, model_dir=folder / model_dir, epochs=6, n_log_epoch=100)


def _squad(folder, model_dir):
    return SQUAD.arguments(folder, model_dir=folder / model_dir, epochs=6, n_log_epoch=100)


# Program: how its files are written, and its command line.
PROGRAMS = {
    "classifier": (classifier_runs.write_files, _classifier),
    "pretrain": (pretrain_runs.write_files, _pretrain),
    "race": (RACE.write, _race),
    "squad": (SQUAD.write, _squad),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_stopped_runs_repeat_the_uninterrupted_one(tmp_path, name):
    check_stopped_runs(name, tmp_path, MOMENTS)


def check_stopped_runs(name, folder, moments, seed=0):
    """Stop runs of a program at random moments; they must equal the one that was not stopped."""
    write, arguments = PROGRAMS[name]
    write(folder)
    zygote, log, draw = Zygote(name), folder / "log", random.Random(seed)

    def stop_and_compare(number, drawn):
        run = f"stopped {number}"
        stops = _stop_at(zygote, arguments(folder, run), folder / run, drawn, draw)
        check_equal(folder / run, folder / "complete")
        return stops

    try:
        assert zygote.run(arguments(folder, "complete"), log) == 0, log.read_text()
        lines = range(1, len(curve(folder / "complete")) - 1)
        stop_runs(moments, lines, draw, stop_and_compare)
    finally:
        zygote.close()


def _stop_at(zygote, command, run, moments, draw):
    """Stop a run after each number of log lines, then let it end; return how often it stopped."""
    log = run.with_name("log")
    for stops, moment in enumerate(moments):
        moment = max(moment, steps_done(run) + 1)  # the first run may have gone on a little
        signals = (draw.choice([signal.SIGTERM, signal.SIGUSR1]), signal.SIGTERM)
        status = kill_after(zygote, command, run, moment, log, signals)
        if status == 0:
            return stops
        assert status == STOPPED, log.read_text()
        check_one_line(log.read_text(), signals)
        assert not (run / ".run.lock").exists()
    assert zygote.run(command, log) == 0, log.read_text()
    return len(moments)


def check_equal(run, complete):
    """Compare curve, weights and scores of two runs that have ended."""
    assert curve(run) == curve(complete)
    files = ["last/model.safetensors", "best/model.safetensors", "best_result.json"]
    files += ["final_scores.json", "test_results.txt"]
    for file in files:
        theirs = complete / file
        assert not theirs.exists() or (run / file).read_bytes() == theirs.read_bytes(), file
    assert json.loads((run / "last" / "progress.json").read_text())["finished"]


def check_one_line(text, signals):
    """The last line names a signal and the step; there is no traceback.

    The second signal may be handled first: any thread of the process can receive either.
    """
    last = text.strip().splitlines()[-1]
    assert last.startswith(tuple(f"stopped by {s.name} after step " for s in signals)), text
    assert "the same command resumes" in last and "Traceback" not in text
