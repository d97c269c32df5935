"""Exit codes and the one line of a user's mistake."""

import os
import subprocess
import sys

import pytest

import repo_layout
from funnel.utils.errors import ConfigError
from funnel.utils.main import run_main

COMMON = repo_layout.ROOT / "common"


def _raise(error):
    raise error


def test_success_returns():
    assert run_main(lambda: None) is None


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ConfigError("net_config.json: n_head must be positive"), 2, "error: net_config.json"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_user_errors(capsys, error, code, text):
    with pytest.raises(SystemExit) as caught:
        run_main(lambda: _raise(error))
    assert caught.value.code == code
    printed = capsys.readouterr().err
    assert printed.startswith(text) and printed.count("\n") == 1


def test_defects_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run_main(lambda: _raise(ZeroDivisionError()))


def test_closed_pipe_is_quiet():
    code = (
        "from funnel.utils.main import run_main; "
        "run_main(lambda: [print(i) for i in range(100000)] and None)"
    )
    script = f'"{sys.executable}" -c "{code}" | head -n 1; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(
        ["bash", "-c", script],
        env={"PYTHONPATH": str(COMMON), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


@pytest.mark.parametrize(("end", "code"), [("raise ConfigError('no')", 2), ("sys.exit(5)", 5)])
def test_a_failing_process_can_end_without_finalization(end, code):
    """Exit functions run and output is flushed; objects whose destructors would abort are left."""
    program = f"""
import atexit, os, sys
from funnel.utils.errors import ConfigError
from funnel.utils.main import run_main, skip_finalization

class Aborts:
    def __del__(self):
        os._exit(99)

kept = Aborts()

def main():
    skip_finalization()
    atexit.register(print, "exit function")
    print("begun")
    {end}

run_main(main)
"""
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        env={**os.environ, "PYTHONPATH": str(COMMON)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (code, "begun\nexit function\n"), done.stderr
