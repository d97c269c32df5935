"""Stop signals: at once outside of training, recorded inside, and never twice."""

import os
import signal
import subprocess
import sys
import threading

import pytest

import repo_layout
from funnel.utils.interruption import Interrupted, StopRequests, ignore_stop_signals
from funnel.utils.main import run_main

COMMON = repo_layout.ROOT / "common"


@pytest.fixture
def requests():
    """A handler of this process's signals, whose handlers are put back afterwards."""
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1)}
    yield StopRequests()
    for number, handler in before.items():
        signal.signal(number, handler)


def _send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_raises_once(requests, number):
    with requests.handled():
        with pytest.raises(Interrupted, match=f"stopped by {number.name}; the same command"):
            _send(number)
        _send(signal.SIGTERM)  # during the clean-up
        assert requests.received == number.name
    _send(signal.SIGTERM)  # until the process has ended


def test_a_signal_that_native_code_turns_into_an_error_is_still_a_stop(requests):
    with pytest.raises(Interrupted, match="SIGTERM"), requests.handled():
        try:
            _send(signal.SIGTERM)
        except Interrupted:
            raise TypeError from None


def test_errors_after_a_recorded_signal_stay_errors(requests):
    with pytest.raises(TypeError), requests.handled(), requests.deferred():
        _send(signal.SIGTERM)
        raise TypeError


def test_a_signal_is_recorded_while_deferred(requests):
    with requests.handled():
        with requests.deferred():
            assert requests.is_deferring
            _send(signal.SIGUSR1)
            _send(signal.SIGTERM)
        assert requests.received == "SIGUSR1"
        with pytest.raises(Interrupted, match="SIGUSR1"):
            requests.check()


def test_handlers_are_put_back(requests):
    before = signal.getsignal(signal.SIGTERM)
    with requests.handled(), requests.handled():
        assert signal.getsignal(signal.SIGTERM) is requests
    assert signal.getsignal(signal.SIGTERM) is before
    requests.check()


def test_other_threads_handle_nothing(requests):
    def handle():
        with requests.handled():
            requests.check()

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=handle)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before


def test_workers_ignore_the_signals(requests):
    ignore_stop_signals(3)
    _send(signal.SIGTERM)
    _send(signal.SIGUSR1)


def test_an_interrupted_program_exits_with_143(capsys):
    def main():
        raise Interrupted("stopped by SIGTERM after step 3/9")

    with pytest.raises(SystemExit) as caught:
        run_main(main)
    assert caught.value.code == 143
    assert capsys.readouterr().err == "stopped by SIGTERM after step 3/9\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_program_cleans_up_and_says_why_it_ends(number):
    code = """
import time
from funnel.utils.main import run_main

def main():
    try:
        print("begun", flush=True)
        time.sleep(60)
    finally:
        print("cleaning", flush=True)
        time.sleep(0.3)
        print("cleaned", flush=True)

run_main(main, preemptible=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", code],
        env={**os.environ, "PYTHONPATH": str(COMMON)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "begun\n"
    process.send_signal(number)
    assert process.stdout.readline() == "cleaning\n"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    assert (process.returncode, out) == (143, "cleaned\n")
    assert err == f"stopped by {number.name}; the same command resumes\n"
