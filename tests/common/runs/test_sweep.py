"""Sweeps: which runs they make, how these are resumed, and the tables of their scores."""

import json
import math
import sys
from pathlib import Path

import pytest

from funnel.cli import sweep as sweep_cli
from funnel.runs.series import Point, RunResult, SeriesRun, best_point, best_run, to_markdown
from funnel.runs.sweep import find_value, plan_sweep, run_sweep
from funnel.utils.errors import ConfigError, FunnelError, RunError
from funnel.utils.run_lock import LOCK_FILE
from repo_layout import ROOT

# Stands for a training program: writes what one leaves, and counts its starts.
PROGRAM = """
import json, os, pathlib, sys, time
flags = dict(word[2:].split("=", 1) for word in sys.argv[1:] if "=" in word)
run = pathlib.Path(flags["model_dir"])
run.mkdir(parents=True, exist_ok=True)
starts = run / "starts"
starts.write_text((starts.read_text() if starts.exists() else "") + "x")
locked = (run.parent / ".run.lock").exists()
device = os.environ.get("CUDA_VISIBLE_DEVICES", "unset")
(run / "device").write_text(device if locked else "unlocked")
if flags["seed"] == flags.get("broken"):
    sys.exit("error: seed " + flags["seed"] + " is broken")
if flags.get("wait") and not (run / "stopped").exists():
    import signal
    def stop(*_):
        (run / "stopped").write_text("")
        sys.exit(143)
    signal.signal(signal.SIGTERM, stop)
    (run / "ready").write_text("")
    time.sleep(60)
score = float(flags["lr"]) * 1e4 + int(flags["seed"]) / 100
result = {"split": "dev", "metric": "accuracy", "score": score, "step": 5}
result["scores"] = {"dev": {"accuracy": score, "loss": 1.0}}
(run / "best_result.json").write_text(json.dumps(result))
(run / "progress.json").write_text(json.dumps({"step": 9, "finished": True}))
"""


@pytest.fixture
def command(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    return [sys.executable, str(program), f"--model_dir={tmp_path / 'runs'}", "--dataset=RTE"]


def run(arguments, command, more=()):
    sweep_cli.main([*arguments, "--", *command, *more])


def starts(folder):
    return {path.parent.name: len(path.read_text()) for path in folder.glob("*/starts")}


@pytest.mark.slow
def test_runs_of_a_grid_with_tables_and_no_repetition(command, tmp_path, capsys):
    arguments = ["--seeds=1,2,3", "--lr=1e-5,2e-5", "--devices=0,cpu"]
    run(arguments, command)
    folder = tmp_path / "runs"
    names = [f"lr={lr},seed={seed}" for lr in ("1e-5", "2e-5") for seed in (1, 2, 3)]
    assert starts(folder) == dict.fromkeys(names, 1)
    record = json.loads((folder / "sweep.json").read_text())
    assert [run["name"] for run in record["runs"]] == names
    point = record["points"][1]
    assert point["values"] == {"lr": "2e-5"} and point["runs"] == 3
    assert (point["mean"], point["median"]) == (pytest.approx(22.0), pytest.approx(22.0))
    assert point["sd"] == pytest.approx(1.0)
    assert (
        record["best_run"] == "lr=2e-5,seed=3" and record["best_median"]["values"]["lr"] == "2e-5"
    )
    table = (folder / "sweep.md").read_text()
    assert "| 2e-5 | 3 | 22.00 ± 1.00 | 22.00 | 21.00 | 23.00 |" in table
    assert "| task | metric | median of 3 | at |" in table
    assert "| RTE | accuracy | 22.0 | lr 2e-5 |" in table
    assert table in capsys.readouterr().out
    devices = {(folder / name / "device").read_text() for name in names}
    assert devices == {"0", ""}  # and the directory was locked
    assert not (folder / LOCK_FILE).exists()
    run(["--seeds=1,2,3,4", "--lr=1e-5,2e-5"], command)
    assert starts(folder) == dict.fromkeys([*names, "lr=1e-5,seed=4", "lr=2e-5,seed=4"], 1)
    with pytest.raises(RunError, match="another command"):
        run(arguments, command, ["--epochs=3"])


def test_a_failed_run_is_one_line_and_the_others_go_through(command, tmp_path, capsys):
    with pytest.raises(RunError, match="1 of 3 runs failed"):
        run(["--seeds=1,2,3"], command, ["--lr=1e-5", "--broken=2"])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if " failed: " in line]
    assert "seed=2 failed: seed 2 is broken (status 1; " in line
    table = (tmp_path / "runs" / "sweep.md").read_text()
    assert "**seed=2 failed**" in table and "| 2 | 12.00 ±" in table
    # It is tried again, the others are not.
    with pytest.raises(RunError, match="1 of 3 runs failed"):
        run(["--seeds=1,2,3"], command, ["--lr=1e-5", "--broken=2"])
    assert starts(tmp_path / "runs") == {"seed=1": 1, "seed=2": 2, "seed=3": 1}


def test_ctrl_c_lets_runs_save_and_the_next_start_resumes_them(command, tmp_path, monkeypatch):
    ready = tmp_path / "runs" / "seed=1" / "ready"

    def interrupt(_):
        if ready.exists():
            raise KeyboardInterrupt

    arguments, flags = ["--seeds=1,2"], ["--lr=1e-5", "--wait=yes"]
    with monkeypatch.context() as patched:
        patched.setattr("funnel.runs.sweep.time.sleep", interrupt)
        with pytest.raises(KeyboardInterrupt, match="Ctrl-C; ended: seed=1; the same command"):
            run(arguments, command, flags)
    assert (tmp_path / "runs" / "seed=1" / "stopped").exists()
    (tmp_path / "runs" / "seed=2").mkdir()
    (tmp_path / "runs" / "seed=2" / "stopped").write_text("")
    run(arguments, command, flags)
    assert starts(tmp_path / "runs") == {"seed=1": 2, "seed=2": 1}


@pytest.mark.parametrize(
    ("arguments", "flags", "message"),
    [
        ([], [], "nothing to vary"),
        (["--seeds=1,x"], [], "'x' is no seed"),
        (["--seeds=1,1"], [], "--seeds: 1 is given twice"),
        (["--lr="], [], "--lr=A,B"),
        (["--lr"], [], "--lr=A,B"),
        (["--seeds=1"], ["--overwrite"], "--overwrite"),
        (["--seeds=1", "--devices=tpu"], [], "'tpu' is no GPU"),
        (["--seeds=1", "more"], [], "unrecognized arguments: more"),
    ],
)
def test_wrong_arguments_start_nothing(command, tmp_path, arguments, flags, message):
    with pytest.raises(ConfigError, match=message):
        run(arguments, command, flags)
    assert not (tmp_path / "runs").exists()


def test_a_command_is_needed_with_a_directory(tmp_path):
    with pytest.raises(ConfigError, match="no command"):
        sweep_cli.main(["--seeds=1"])
    with pytest.raises(ConfigError, match="no --model_dir"):
        sweep_cli.main(["--seeds=1", "--", "python", "a.py"])
    with pytest.raises(FunnelError, match="nowhere: cannot be run"):
        sweep_cli.main(["--seeds=1", "--", "/nowhere", f"--model_dir={tmp_path / 'a'}"])


def test_dry_run_prints_the_commands(command, tmp_path, capsys):
    run(["--seeds=7", "--lr=1,2", "--dry_run"], command, ["--seed=1", "--lr", "3", "--resume"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.count("--") for line in lines] == [4, 4]
    assert lines[0].endswith(
        f"--dataset=RTE --lr=1 --seed=7 --model_dir={tmp_path / 'runs' / 'lr=1,seed=7'}"
    )
    assert not (tmp_path / "runs").exists()


def test_devices_count_the_visible_ones():
    seen = {"CUDA_VISIBLE_DEVICES": "4,5"}
    found = sweep_cli.device_environments("1,cpu", seen)
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in found] == ["5", ""]
    with pytest.raises(ConfigError, match="shows 2"):
        sweep_cli.device_environments("2", seen)
    assert sweep_cli.device_environments("", seen) == [seen]


def test_seeds_of_a_program_are_refused_under_torchrun(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match=r"sweep.py --seeds=1,2 -- torchrun"):
        sweep_cli.run_seeds(sweep_cli.SeriesSettings("1,2"))


def test_the_last_value_of_a_flag_counts():
    assert find_value(["a", "--x=1", "--x", "2"], "x") == "2"
    assert find_value(["a", "--xy=1"], "x") == ""


def series_run(seed, score, metric="accuracy", **values):
    result = RunResult("dev", metric, score, 3, {"dev": {metric: score}})
    return SeriesRun(f"seed={seed}", {k: str(v) for k, v in values.items()}, str(seed), result)


def test_the_median_of_five_and_the_best_run():
    runs = [series_run(seed, score, lr=1) for seed, score in enumerate((0.5, 0.9, 0.6, 0.7, 0.6))]
    runs += [series_run(seed, score, lr=2) for seed, score in enumerate((0.65, 0.65, math.nan))]
    assert best_run(runs).result.score == 0.9
    assert best_point(runs).values in ({"lr": "2"}, {"lr": "1"})
    assert "median of 5" in to_markdown("RTE", "go", runs[:5])
    losses = [series_run(seed, loss, "loss") for seed, loss in enumerate((2.5, 1.25))]
    assert best_run(losses).result.score == 1.25 and best_run(losses).result.shown == 1.25
    assert "1.8750 ± 0.8839" in to_markdown("pretraining", "go", losses)
    assert Point({}, (1.0,)).deviation is None
    squad = RunResult("dev", "best_f1", 80.0, 1, {"dev": {"best_f1": 80.0}})
    assert squad.shown == 80.0
    assert "No run is finished." in to_markdown("RTE", "go", [SeriesRun("a", {}, "1")])


def test_a_diverged_run_stays_failed(command, tmp_path):
    """It is finished, but its program failed: the score of its best model is no result."""
    planned = plan_sweep([*command, "--lr=1e-5"], ["1"], {})
    (run,) = planned.runs
    code = PROGRAM + "\nsys.exit('error: diverged')\n"
    Path(command[1]).write_text(code)
    for _ in range(2):
        with pytest.raises(RunError, match="1 of 1 runs failed"):
            run_sweep(planned, [{}])
    assert (run.folder / "device").read_text() == "unlocked"  # the caller locks
    assert len((run.folder / "starts").read_text()) == 1


@pytest.mark.parametrize(("seeds", "lr"), [(["1", "01"], ["1e-3"]), (["1"], ["1e-3", "0.001"])])
def test_two_spellings_of_a_number_are_one_value(command, seeds, lr):
    with pytest.raises(ConfigError, match=r"is given twice, also as (01|0\.001)$"):
        plan_sweep(command, seeds, {"lr": lr})


def test_finished_runs_that_are_not_listed_are_named(command, tmp_path, capsys):
    run(["--seeds=1,2", "--lr=1e-5"], command)
    run(["--seeds=2,3", "--lr=1e-5"], command)
    messages = capsys.readouterr().err
    assert "runs also holds lr=1e-5,seed=1: not in the tables" in messages
    assert messages.count("also holds") == 1


@pytest.mark.parametrize("form", ["--flagfile", "--settings-file"])
def test_seeds_and_model_dir_may_be_in_a_file_of_flags(tmp_path, monkeypatch, form):
    """The runs read that file too; without ``--seeds=`` each would start all of them again."""
    started = []
    monkeypatch.setattr(sweep_cli, "start", lambda sweep, _: started.append(sweep))
    monkeypatch.setattr(sys, "argv", ["classifier.py", f"{form}=a", "--lr=1"])
    sweep_cli.run_seeds(sweep_cli.SeriesSettings("1,2"), str(tmp_path))
    first = started[0].runs[0]
    assert first.command[1:] == (
        *("classifier.py", f"{form}=a", "--lr=1", "--seed=1"),
        *(f"--model_dir={tmp_path / 'seed=1'}", "--seeds="),
    )
    monkeypatch.setattr(sys, "argv", ["classifier.py", "--model_dir=a", "--seeds=1,2"])
    sweep_cli.run_seeds(sweep_cli.SeriesSettings("1,2"), "a")
    assert "--seeds=" not in started[1].runs[0].command


def test_seeds_in_a_flag_file_of_a_swept_command_are_refused(command, tmp_path):
    """The environment says so to the programs that a sweep starts."""
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\nsys.path.insert(0, sys.argv[1])\n"
        "from funnel.cli import sweep\nfrom funnel.utils.main import run_main\n"
        "run_main(lambda: sweep.run_seeds(sweep.SeriesSettings('1,2'), 'a'))\n"
    )
    with pytest.raises(RunError, match="1 of 1 runs failed"):
        run(["--lr=1"], [*command[:2], str(ROOT / "common"), *command[2:]])
    table = (tmp_path / "runs" / "sweep.md").read_text()
    assert "--seeds=1,2 is in a flag file of the command" in table
