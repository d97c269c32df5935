"""Calls in processes of their own: results, failures, and nothing left running."""

import multiprocessing
import os
import time

import pytest

from funnel.utils.errors import DataError, FunnelError
from funnel.utils.processes import run_in_processes
from process_cases import add, fail_once_the_other_runs, process_id


@pytest.fixture
def no_process_is_left():
    """Check that the test leaves no process; one that an earlier test left is not its fault."""
    before = set(multiprocessing.active_children())
    yield
    assert set(multiprocessing.active_children()) <= before


def test_every_result_once():
    calls = [(number, 100) for number in range(5)]
    assert sorted(run_in_processes(add, calls, num_proc=2)) == [100, 101, 102, 103, 104]
    assert list(run_in_processes(add, [], num_proc=2)) == []


def test_every_call_has_its_own_process():
    processes = set(run_in_processes(process_id, [(1,), (2,), (3,)], num_proc=2))
    assert len(processes) == 3 and os.getpid() not in processes


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("user", DataError, "^a.txt, line 3: no good$"),
        ("killed", FunnelError, r"a process was killed \(signal 9\)"),
        ("defect", RuntimeError, "its traceback is above"),
    ],
)
def test_a_failure_stops_the_others_and_lets_them_clean_up(
    tmp_path, capfd, no_process_is_left, how, error, message
):
    calls = [(tmp_path, "wait"), (tmp_path, how), (tmp_path / "never", "wait")]
    begin = time.monotonic()
    with pytest.raises(error, match=message):
        list(run_in_processes(fail_once_the_other_runs, calls, num_proc=2))
    assert time.monotonic() - begin < 30
    assert (tmp_path / "ended").exists() and not (tmp_path / "never").exists()
    assert ("ValueError: a defect" in capfd.readouterr().err) == (how == "defect")


def test_no_process_outlives_a_reader_that_stops_early(no_process_is_left):
    results = run_in_processes(add, [(number, 0) for number in range(6)], num_proc=3)
    next(results)
    results.close()
