"""Several processes: all stop after the same step; a lost one ends the others in one line."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("torch")

from classifier_runs import PYTORCH, arguments, curve, steps_done, write_files
from funnel_torch.cli.multigpu import find_free_port, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TORCHRUN = ("-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--standalone")
LONG = {"train_bsz": 4, "epochs": 8, "n_log_epoch": 6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    write_files(folder, train=48, dev=13)
    return folder


@pytest.fixture(scope="module")
def complete(folder):
    """The run that nobody stops."""
    log, argv = folder / "complete.log", arguments(folder, "complete", **LONG)
    assert [p.wait(300) for p in _start_ranks(argv, [log, log])] == [0, 0], log.read_text()
    return folder / "complete"


def _start(command, log, **environment):
    with open(log, "wb") as stream:
        return subprocess.Popen(
            [sys.executable, *command],
            stdout=stream,
            stderr=stream,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )


def _start_ranks(argv, logs):
    """Start two processes as a batch system does, without torchrun."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(find_free_port()), "WORLD_SIZE": "2"}
    command = [str(PYTORCH / "classifier.py"), *argv]
    return [_start(command, log, RANK=str(r), **meeting) for r, log in enumerate(logs)]


def _wait_for_lines(run, lines, log):
    deadline = time.monotonic() + 240
    while steps_done(run) < lines:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.005)


def _lines(log):
    text = log.read_text()
    assert "Traceback" not in text, text
    return [line for line in text.splitlines() if line.startswith(("error: ", "stopped by "))]


def _stopped_step(run):
    return json.loads((run / "last" / "progress.json").read_text())["step"]


@pytest.mark.parametrize("signalled", [1])
def test_a_signal_to_one_process_stops_all_after_the_same_step(folder, complete, signalled):
    run, logs = folder / f"one-{signalled}", [folder / f"{signalled}-{r}.log" for r in (0, 1)]
    argv = arguments(folder, run.name, num_workers=1, **LONG)
    processes = _start_ranks(argv, logs)
    _wait_for_lines(run, 10, logs[0])
    processes[signalled].send_signal(signal.SIGUSR1)
    statuses = [process.wait(120) for process in processes]
    assert statuses == [143, 143], [log.read_text() for log in logs]
    (line,), nothing = _lines(logs[0]), _lines(logs[1])
    name = "SIGUSR1" if signalled == 0 else "a signal"
    assert line.startswith(f"stopped by {name} after step {_stopped_step(run)}/48") and not nothing
    assert [p.wait(300) for p in _start_ranks(argv, logs)] == [0, 0], logs[0].read_text()
    assert curve(run) == curve(complete)


def test_torchrun_passes_the_signal_on(folder, complete):
    """It signals the workers that load data, too, which must not end before the step."""
    run, log = folder / "torchrun", folder / "torchrun.log"
    argv = arguments(folder, run.name, num_workers=1, **LONG)
    process = _start([*TORCHRUN, str(PYTORCH / "classifier.py"), *argv], log)
    _wait_for_lines(run, 15, log)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) != 0  # torchrun has a code of its own
    assert log.read_text().count("stopped by SIGTERM after step ") == 1
    assert 0 < _stopped_step(run) < 48
    logs = [folder / "torchrun-again.log"] * 2
    assert [p.wait(300) for p in _start_ranks(argv, logs)] == [0, 0], logs[0].read_text()
    assert curve(run) == curve(complete)


def test_the_launcher_passes_the_signal_on(folder, complete):
    run, log = folder / "launcher", folder / "launcher.log"
    argv = [str(PYTORCH / "multigpu_classifier.py"), "--distributed_world_size=2"]
    argv += arguments(folder, run.name, **LONG)
    process = _start(argv, log)
    _wait_for_lines(run, 15, log)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 143, log.read_text()
    assert len(_lines(log)) == 1 and 0 < _stopped_step(run) < 48
    assert _start(argv, log).wait(300) == 0, log.read_text()
    assert curve(run) == curve(complete)


@pytest.mark.parametrize("killed", [0, 1])
def test_the_death_of_a_process_is_one_line(folder, killed):
    run, logs = folder / f"dead-{killed}", [folder / f"dead-{killed}-{r}.log" for r in (0, 1)]
    processes = _start_ranks(arguments(folder, run.name, **LONG), logs)
    _wait_for_lines(run, 3, logs[0])
    processes[killed].kill()
    assert processes[1 - killed].wait(120) == 2, logs[1 - killed].read_text()
    (line,) = _lines(logs[1 - killed])
    assert f"rank {1 - killed}: another process of this run has ended" in line


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_launcher_ends_as_the_process_that_was_killed(order, capsys):
    """The other one, which loses it, may end before the launcher looks."""
    codes = {0: "import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 1: "raise SystemExit(2)"}
    processes = [subprocess.Popen([sys.executable, "-S", "-c", codes[i]]) for i in order]
    for process in processes:
        process.wait(60)
    assert wait_for(processes) == 137
    killed = f"error: process {order.index(0)} of 2 was killed (SIGKILL)"
    assert capsys.readouterr().err.splitlines() == [killed]


def test_the_launcher_names_a_process_that_was_killed(folder):
    run, log = folder / "killed", folder / "killed.log"
    argv = [str(PYTORCH / "multigpu_classifier.py"), "--distributed_world_size=2"]
    process = _start([*argv, *arguments(folder, run.name, **LONG)], log)
    _wait_for_lines(run, 3, log)
    children = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
    )
    os.kill(int(children.stdout.split()[-1]), signal.SIGKILL)
    assert process.wait(120) == 137
    lines = _lines(log)
    assert sum("was killed (SIGKILL)" in line for line in lines) == 1 and len(lines) == 2


def test_a_process_that_vanishes_is_not_waited_for_without_end(folder):
    """Suspended, it neither answers nor closes its connections, like a machine without power."""
    run, logs = folder / "gone", [folder / f"gone-{r}.log" for r in (0, 1)]
    argv = arguments(folder, run.name, distributed_timeout=0.4, **LONG)
    processes = _start_ranks(argv, logs)
    try:
        _wait_for_lines(run, 3, logs[0])
        processes[1].send_signal(signal.SIGSTOP)
        assert processes[0].wait(120) == 2
        (line,) = _lines(logs[0])
        assert "has not answered for 0.4 minutes (--distributed_timeout" in line
    finally:
        processes[1].kill()
