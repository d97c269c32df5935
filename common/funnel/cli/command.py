"""Commands: a program file of a clone and the entry point of an installation share one function.

A command is a module with the help as its docstring, ``main``, which parses a command line and runs
the program, and ``command``, which also ends the process with the exit code of the outcome. Program
files and ``[project.scripts]`` of pyproject.toml call ``command``. In the help ``{program}`` stands
for what the user typed to start the program, ``{script}`` for the file that torchrun starts.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from funnel.utils.main import run_main


class Main(Protocol):
    """A function that takes a command line; without one it reads that of this process."""

    def __call__(self) -> None:
        """Run the program with the command line of this process."""


def entry_point(main: Main, *, preemptible: bool = False) -> Callable[[], None]:
    """Return the function that runs ``main`` in a process of its own.

    ``preemptible`` as in :func:`funnel.utils.main.run_main`.
    """

    def command() -> None:
        run_main(main, preemptible=preemptible)

    return command


def command_name(default: str) -> str:
    """Return the name of the installed command that runs, else ``default``."""
    name = Path(sys.argv[0]).name
    return name if name.startswith("funnel-") else default


def fill_in(description: str | None) -> str:
    """Return the text of a help with ``{program}`` and ``{script}`` replaced."""
    text = (description or "").strip()
    script = Path(sys.argv[0])
    if command_name("") and script.suffix != ".py":
        return text.replace("{program}", script.name).replace("{script}", f"$(which {script.name})")
    return text.replace("{program}", f"python {script}").replace("{script}", str(script))
