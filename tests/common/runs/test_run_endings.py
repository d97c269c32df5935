"""The last lines of a run, its scores, the time left and the facts in run_config.json."""

import logging
import shlex
import subprocess

import pytest

from funnel.config.model import ModelConfig
from funnel.runs.endings import Ending, describe_interruption, log_ending, next_command
from funnel.runs.provenance import describe_run, git_commit
from funnel.runs.scores import format_scores, main_figures
from funnel.runs.timing import StepTimer, format_duration

SQUAD = {
    "best_f1": 80.0,
    "best_f1_thresh": -1.5,
    "best_exact": 77.0,
    "best_exact_thresh": -1.0,
    "has_ans_exact": 0.7,
    "has_ans_f1": 0.8,
    "threshold": -1.5,
    "exact": 76.0,
    "f1": 80.0,
    "total": 9,
    "HasAns_exact": 70.0,
    "HasAns_f1": 75.0,
    "HasAns_total": 5,
    "NoAns_exact": 85.0,
    "NoAns_f1": 85.0,
    "NoAns_total": 4,
}


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def run_steps(timer, clock, start, count, seconds):
    for step in range(start + 1, start + count + 1):
        clock.now += seconds
        timer.started(step)
    return start + count


def test_the_first_step_and_evaluations_are_left_out_of_the_time():
    clock = Clock()
    timer = StepTimer(100, clock)
    run_steps(timer, clock, 100, 1, 60.0)  # reads data, compiles
    step = run_steps(timer, clock, 101, 9, 1.0)
    with timer.stopped():
        clock.now += 500.0
    assert timer.lap(step) == pytest.approx(1.0)
    assert timer.left(30) == "00:00:30"


def test_a_log_line_after_the_first_step_knows_no_time_left():
    clock = Clock()
    timer = StepTimer(0, clock)
    clock.now += 60.0
    assert timer.lap(1) == pytest.approx(60.0)
    assert timer.left(9) == "?" and timer.left(0) == "00:00:00"
    clock.now += 2.0
    assert timer.lap(2) == pytest.approx(2.0)
    assert timer.left(8) == "00:00:16"


def test_one_slow_interval_hardly_changes_the_estimate():
    clock = Clock()
    timer = StepTimer(0, clock)
    step, estimates = run_steps(timer, clock, 0, 1, 9.0), []
    for number in range(30):
        step = run_steps(timer, clock, step, 10, 3.0 if number == 20 else 1.0)
        timer.lap(step)
        hours, minutes, seconds = timer.left(10_000).split(":")
        estimates.append(int(hours) * 3600 + int(minutes) * 60 + int(seconds))
    assert max(estimates) / min(estimates) < 1.3
    assert estimates[-1] < 1.1 * estimates[0]


def test_durations():
    assert format_duration(59.6) == "00:01:00"
    assert format_duration(86_400 + 3_661) == "1-01:01:01"


def test_main_figures():
    assert list(main_figures(SQUAD)) == [
        *("best_f1", "best_exact", "HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1")
    ]
    # The metric that chooses the model is shown, whichever it is.
    assert next(iter(main_figures({"has_ans_f1": 0.8, **SQUAD}))) == "has_ans_f1"
    assert format_scores({"accuracy": 0.75, "error_rate": 0.25, "loss": 1.0}) == (
        "accuracy 0.7500, loss 1.0000"
    )
    assert list(main_figures({"error_rate": 0.25, "accuracy": 0.75})) == ["error_rate"]
    assert main_figures({}) == {}


def test_the_last_lines_name_model_files_and_command(tmp_path, caplog):
    (tmp_path / "best").mkdir()
    (tmp_path / "best_result.json").write_text("{}")
    scores = {"dev": {"accuracy": 0.5}}
    ending = Ending(tmp_path / "best", scores, 6, 12, is_best=True, stopped_early=True)
    with caplog.at_level(logging.INFO):
        log_ending(ending, tmp_path, ["best", "last", "best_result.json"], {"predict": "go --on"})
    first, second, third = caplog.messages
    assert first.startswith("final model = best model, step 6 of 12 (stopped early")
    assert first.endswith("; dev accuracy 0.5000")
    assert f"{tmp_path}: best/, best_result.json; " in second and "last/" not in second
    assert third == "to predict:\ngo --on"
    last = Ending(None, {}, 12, 12, is_best=False)
    assert last.describe() == (
        "final model = last model (no evaluation has chosen one), step 12 of 12"
    )
    caplog.clear()
    with caplog.at_level(logging.INFO):
        log_ending(last, None, [], {"predict": "go"})
    assert caplog.messages[-1] == "nothing was kept (--debug)"


def test_the_next_command_is_this_one_changed():
    arguments = ["pytorch/a.py", "--data_dir=my data", "--overwrite", "--resume", "--lr", "1e-5"]
    without = ("overwrite", "resume", "do_train", "init_ckpt")
    found = next_command(arguments, without=without, more=["--test_only"])
    assert found == "python pytorch/a.py '--data_dir=my data' --lr 1e-5 --test_only"
    assert shlex.split(found)[2] == "--data_dir=my data"
    flags = ["--init_ckpt", "x", "--nodo_train", "--no-resume", "--do_train=True", "--keep", "y"]
    assert next_command(["funnel-a", *flags], without=without) == "funnel-a --keep y"
    assert next_command(["a.py", "--x", "--y=1"], more=["--x"]) == "python a.py --y=1 --x"


def test_an_interruption_says_how_to_resume(tmp_path):
    assert "has no directory" in describe_interruption(None)
    text = describe_interruption(tmp_path, 30, 90, "python a.py")
    assert text == f"interrupted; {tmp_path} holds step 30 of 90; to resume there:\npython a.py"
    assert "before the first checkpoint" in describe_interruption(tmp_path, 0, None, "python a.py")
    assert describe_interruption(tmp_path, 30, None).endswith("holds step 30; repeat the command")


def test_the_commit_is_that_of_the_clone_and_unknown_elsewhere(tmp_path):
    def git(*arguments):
        names = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *names, "-C", tmp_path, *arguments], check=True, capture_output=True)

    file, installed = tmp_path / "code.py", tmp_path / "site" / "code.py"
    file.write_text("1")
    assert git_commit(file) == "unknown"
    git("init")
    git("add", "code.py")
    git("commit", "-m", "first")
    commit = git_commit(file)
    assert len(commit) == 40 and int(commit, 16)
    file.write_text("2")
    assert git_commit(file) == f"{commit}-dirty"
    installed.parent.mkdir()
    installed.write_text("1")
    assert git_commit(installed) == "unknown"
    assert git_commit(tmp_path / "gone" / "code.py") == "unknown"


def test_run_config_shows_the_sizes_that_were_built():
    config = ModelConfig(vocab_size=10, block_size="1_1")
    found = describe_run(config, {"total": 7}, None, 128, {"torch": "2"})
    assert found["resolved"]["block_size"] == "1_1" and found["resolved"]["max_length"] == 128
    assert found["resolved"]["parameters"] == {"total": 7}
    assert found["model"]["vocab_size"] == 10 and found["torch"] == "2" and found["git_commit"]
