"""Output of a run: console log, ``metrics.jsonl``, TensorBoard events, progress bars and curves.

``tqdm``, ``tensorboard`` and ``matplotlib`` are imported where they are used, so that programs
without bars or curves start faster.
"""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from funnel.utils.errors import FunnelError
from funnel.utils.files import atomic_write_text

METRICS_FILE = "metrics.jsonl"
T = TypeVar("T")
logger = logging.getLogger(__name__)


class RunLog(Protocol):
    """Interface of a log of metrics: :class:`MetricsLog` or, to discard them, :class:`NullLog`."""

    def log(self, step: int, split: str, **scalars: float) -> None:
        """Record scalars of one split at one step."""
        ...

    def close(self) -> None:
        """Close the files."""
        ...


class NullLog:
    """A log that discards everything, for all processes but the first."""

    def log(self, step: int, split: str, **scalars: float) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class MetricsLog:
    """Appends scalars to ``metrics.jsonl`` and to TensorBoard events in one directory.

    A call writes one line: ``{"step": 10, "split": "train", "time": …, "loss": …}``. A value that
    is not finite is written as ``null``, since JSON has no NaN.

    Args:
        model_dir: directory of the run; created if absent.
        resume_step: step of the checkpoint that the run resumes from. Lines of later steps, which
            will be repeated, are dropped, as is an incomplete last line. None keeps every line.
        replaces: a line for a step and split that the file already has replaces the one there,
            e.g. of an evaluation that was interrupted and is repeated. No other process may have
            the file open.
    """

    def __init__(
        self,
        model_dir: str | os.PathLike[str],
        resume_step: int | None = None,
        *,
        replaces: bool = False,
    ) -> None:
        self._path = Path(model_dir) / METRICS_FILE
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._replaced: set[tuple[int, str]] = set()
        if self._path.exists():
            if resume_step is not None:
                self._keep(lambda row: row["step"] <= resume_step)
            if replaces:
                rows = read_metrics(self._path)
                self._replaced = {(row["step"], row["split"]) for row in rows}
        self._lines = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 - closed in close()
        self._events = _EventFile.open(self._path.parent, resume_step)

    def _keep(self, condition: Callable[[dict[str, Any]], bool]) -> None:
        kept = [row for row in read_metrics(self._path) if condition(row)]
        atomic_write_text(self._path, "".join(json.dumps(row) + "\n" for row in kept))

    def _drop_replaced(self, step: int, split: str) -> None:
        """Delete earlier lines of the step and split that is about to be logged."""
        if (step, split) not in self._replaced:
            return
        self._replaced.remove((step, split))
        self._lines.close()
        self._keep(lambda row: (row["step"], row["split"]) != (step, split))
        self._lines = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 - closed in close()

    def log(self, step: int, split: str, **scalars: float) -> None:
        """Write one line and one event, and flush both.

        Raises:
            FunnelError: the file cannot be written.
        """
        values = {name: float(value) for name, value in scalars.items()}
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        row = {"step": int(step), "split": split, "time": round(time.time(), 3), **finite}
        self._drop_replaced(int(step), split)
        try:
            self._lines.write(json.dumps(row) + "\n")
            self._lines.flush()
            if self._events is not None:
                self._events.add(int(step), {f"{split}/{k}": v for k, v in values.items()})
        except OSError as error:
            raise FunnelError(f"{self._path}: cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Close both files; a second call does nothing."""
        self._lines.close()
        if self._events is not None:
            self._events.close()


class _EventFile:
    """One TensorBoard event file, written with the ``tensorboard`` package alone.

    ``tensorboard.summary.Writer`` imports TensorFlow if it is installed (15 s); the record writer
    that it uses does not.
    """

    def __init__(self, directory: Path, resume_step: int | None) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        # TensorBoard reads the files of a run in the order of their names.
        name = f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}.{os.getpid()}"
        self._stream = open(directory / name, "ab")  # noqa: SIM115 - closed in close()
        self._writer = RecordWriter(self._stream)
        self._write(self._event(wall_time=time.time(), file_version="brain.Event:2"))
        if resume_step is not None:
            # Makes TensorBoard discard the events of earlier files from this step on.
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(self._event(wall_time=time.time(), step=resume_step + 1, session_log=start))

    @classmethod
    def open(cls, directory: Path, resume_step: int | None) -> _EventFile | None:
        """Return a new event file; None with a warning if tensorboard is not installed."""
        try:
            return cls(directory, resume_step)
        except ImportError:
            logger.warning("tensorboard is not installed: no event files, %s only", METRICS_FILE)
            return None

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        values = [self._summary.Value(tag=k, simple_value=v) for k, v in scalars.items()]
        summary = self._summary(value=values)
        self._write(self._event(wall_time=time.time(), step=step, summary=summary))

    def _write(self, event: Any) -> None:
        self._writer.write(event.SerializeToString())
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the rows of a ``metrics.jsonl``; an incomplete last line is ignored.

    Raises:
        FunnelError: another line is not a JSON object with a step; the message names the line.
    """
    # A torn line may end in the middle of a character.
    lines = Path(path).read_text(encoding="utf-8", errors="replace").split("\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row["step"], int):
                raise TypeError
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break
            raise FunnelError(f"{path}, line {number}: not a JSON object with a step") from error
        rows.append(row)
    return rows


def configure_logging(verbose: bool = False, rank: int = 0, *, quiet: bool = False) -> None:
    """Send log lines to stderr, above any progress bar; for programs only.

    Args:
        verbose: also show debug lines of this project.
        rank: process number; all but 0 log warnings only, prefixed with the rank.
        quiet: show warnings only.
    """
    handler = _ConsoleHandler()
    prefix = "" if rank == 0 else f"rank {rank}: "
    handler.setFormatter(logging.Formatter(f"%(asctime)s {prefix}%(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    for name in ("funnel", "funnel_data", "funnel_torch", "funnel_tf", "__main__"):
        logging.getLogger(name).setLevel(level if rank == 0 else logging.WARNING)


class _ConsoleHandler(logging.Handler):
    """Writes through tqdm, which keeps log lines above its progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except Exception:
            self.handleError(record)


def progress(
    iterable: Iterable[T], desc: str, total: int | None = None, disable: bool | None = None
) -> Iterable[T]:
    """Wrap an iterable in a progress bar, which is shown if stderr is a terminal.

    Args:
        iterable: what to iterate over.
        desc: text in front of the bar.
        total: number of items, if the iterable has no length.
        disable: True shows no bar, False always; None only on a terminal.
    """
    from tqdm import tqdm

    return tqdm(iterable, desc=desc, total=total, disable=disable, leave=False, dynamic_ncols=True)
