"""Functions that tests run in worker processes, which have to be able to import them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from funnel.utils.errors import DataError


def process_id(_: int) -> int:
    return os.getpid()


def add(a: int, b: int) -> int:
    return a + b


def fail_once_the_other_runs(folder: Path, how: str) -> None:
    """Fail in the way ``how``; with ``wait``, run until interrupted and record the clean-up."""
    if how == "wait":
        try:
            (folder / "started").touch()
            time.sleep(60)
        finally:
            (folder / "ended").touch()
    while not (folder / "started").exists():
        time.sleep(0.01)
    if how == "user":
        raise DataError("a.txt, line 3: no good")
    if how == "defect":
        raise ValueError("a defect")
    os.kill(os.getpid(), signal.SIGKILL)
