"""Calls in worker processes: results, failures, and nothing left running."""

import multiprocessing
import os
import time

import pytest

from funnel.utils.errors import DataError, FunnelError
from funnel.utils.processes import run_in_processes
from process_cases import add, fail_once_the_other_runs, process_id, repeat


def test_every_result_once():
    calls = [(number, 100) for number in range(5)]
    assert sorted(run_in_processes(add, calls, num_proc=2)) == [100, 101, 102, 103, 104]
    assert list(run_in_processes(add, [], num_proc=2)) == []


def test_calls_run_in_other_processes():
    processes = set(run_in_processes(process_id, [(1,), (2,), (3,)], num_proc=2))
    assert 1 <= len(processes) <= 2 and os.getpid() not in processes


def test_large_results_arrive_complete():
    results = list(run_in_processes(repeat, [(b"x", 20_000_000), (b"y", 20_000_000)], num_proc=2))
    assert sorted(results) == [b"x" * 20_000_000, b"y" * 20_000_000]


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("user", DataError, "^a.txt, line 3: no good$"),
        ("killed", FunnelError, "^a process was killed, perhaps because memory ran out"),
        ("defect", ValueError, "^a defect$"),
    ],
)
def test_a_failure_stops_the_others_and_lets_them_clean_up(tmp_path, capfd, how, error, message):
    calls = [(tmp_path, "wait"), (tmp_path, how), (tmp_path / "never", "wait")]
    begin = time.monotonic()
    with pytest.raises(error, match=message) as caught:
        list(run_in_processes(fail_once_the_other_runs, calls, num_proc=2))
    assert time.monotonic() - begin < 30
    assert (tmp_path / "ended").exists() and not (tmp_path / "never").exists()
    assert multiprocessing.active_children() == []
    assert ("in fail_once_the_other_runs" in str(caught.value.__cause__)) == (how != "killed")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("size", [1, 50_000_000])
def test_no_process_outlives_a_reader_that_stops_early(capfd, size):
    """Large results fill the pipe, so that workers are stopped while they send them."""
    results = run_in_processes(repeat, [(b"x", size)] * 6, num_proc=3)
    next(results)
    results.close()
    assert multiprocessing.active_children() == []
    assert capfd.readouterr().err == ""
