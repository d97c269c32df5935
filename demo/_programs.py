"""Running this repository's programs, one or several at a time, with their command lines shown."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import _paths  # noqa: F401

from funnel.utils.errors import FunnelError
from funnel.utils.main import INTERRUPTED, TERMINATED

ROOT = Path(__file__).resolve().parents[1]
Command = Sequence[str]  # path of a program in this repository, and its arguments


def end_programs_on_sigterm() -> None:
    """Let SIGTERM end this process with 143, and with it the program that it runs."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))


def run_program(path: str, *arguments: str) -> None:
    """Print the command line of a program and run it.

    Raises:
        FunnelError: the program failed.
    """
    command = (path, *arguments)
    _show(command)
    _check(command, subprocess.run(_absolute(command), check=False).returncode)


def run_together(commands: Mapping[str, Command], threads: int) -> None:
    """Run programs at the same time; their lines of output begin with their names.

    Args:
        commands: {name: command}.
        threads: of each program.

    Raises:
        FunnelError: a program failed; the others were stopped.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    processes: dict[str, subprocess.Popen[str]] = {}
    with ThreadPoolExecutor(len(commands)) as pool:
        try:
            for name, command in commands.items():
                _show(command)
                processes[name] = subprocess.Popen(
                    _absolute(command),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    env=environment,
                )
            followers = [
                pool.submit(_follow, name, commands[name], process)
                for name, process in processes.items()
            ]
            for done in as_completed(followers):
                done.result()
        except BaseException:
            for process in processes.values():
                process.terminate()  # those that have ended are left alone
            raise


def _follow(name: str, command: Command, process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        print(f"[{name}] {line}", end="", flush=True)
    _check(command, process.wait())


def _absolute(command: Command) -> list[str]:
    path, *arguments = command
    return [sys.executable, str(ROOT / path), *arguments]


def _show(command: Command) -> None:
    print(f"\n$ python {shlex.join(command)}", flush=True)


def _check(command: Command, status: int) -> None:
    if status == INTERRUPTED:
        raise KeyboardInterrupt
    if status != 0:
        raise FunnelError(f"{command[0]} ended with exit code {status}; its message is above")
