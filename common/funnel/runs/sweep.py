"""Runs of one command with several seeds and flag values, one after the other or by device."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from funnel.runs.endings import leave_out
from funnel.runs.series import RunResult, SeriesRun, read_result, to_json, to_markdown
from funnel.runs.timing import format_duration
from funnel.utils.errors import ConfigError, RunError
from funnel.utils.files import atomic_write_json, atomic_write_text
from funnel.utils.interruption import Interrupted, stop_requests
from funnel.utils.json_files import read_json_object
from funnel.utils.run_directory import BEST_RESULT
from funnel.utils.text import join_names

logger = logging.getLogger(__name__)

SWEEP_JSON, SWEEP_TABLE = "sweep.json", "sweep.md"
INSIDE_SWEEP = "FUNNEL_INSIDE_SWEEP"  # set in the environment of the runs
# Flags that would make an interrupted run start again, or are those of each run.
_OVERWRITING = ("overwrite", "overwrite_run")
_OWN = ("seed", "seeds", "model_dir", "resume")
_POLL_SECONDS = 0.2
_SHOWN = 10  # names in a message
_ODD = re.compile(r"[^\w.=+,-]+")


@dataclass(frozen=True)
class PlannedRun:
    """A run of a sweep: its place in the series, command line, directory and log file."""

    run: SeriesRun
    command: tuple[str, ...]
    folder: Path

    @property
    def log(self) -> Path:
        """File with the output of the run; further starts are appended."""
        return self.folder.with_name(f"{self.folder.name}.log")


@dataclass(frozen=True)
class Sweep:
    """All runs of a sweep, and where their results go.

    Attributes:
        command: the command line that they have in common.
        folder: directory that holds the directories of the runs.
        runs: in the order in which they start.
    """

    command: tuple[str, ...]
    folder: Path
    runs: tuple[PlannedRun, ...]

    @property
    def task(self) -> str:
        """Name of the task for the tables."""
        named = (find_value(self.command, name) for name in ("dataset", "task_name"))
        return next(filter(None, named), self.folder.resolve().name)


def find_value(command: Sequence[str], name: str) -> str:
    """Return the value of a flag in a command line, empty without one; the last one counts."""
    found = ""
    for word, following in itertools.zip_longest(command, command[1:], fillvalue=""):
        if word.startswith(f"--{name}="):
            found = word.partition("=")[2]
        elif word == f"--{name}":
            found = following
    return found


def plan_sweep(
    command: Sequence[str], seeds: Sequence[str], grid: Mapping[str, Sequence[str]]
) -> Sweep:
    """Return the runs of a command for all seeds and all combinations of flag values.

    Args:
        command: a program with its flags; ``--model_dir`` is the directory of the sweep.
        seeds: values of ``--seed``; without any, each run draws one.
        grid: values by the name of their flag.

    Raises:
        ConfigError: a value is repeated or no number, or the command has no ``--model_dir``.
    """
    folder = find_value(command, "model_dir")
    if not folder:
        raise ConfigError("the command has no --model_dir, the directory of the runs")
    if any(find_flag(command, name) for name in _OVERWRITING):
        raise ConfigError(
            "the command has --overwrite: a run that was interrupted would start again; "
            f"delete {folder} to repeat the runs"
        )
    for name, values in {"seeds": seeds, **grid}.items():
        # 1e-3 and 0.001 are one value: its runs would count twice.
        numbers = [_to_number(value) for value in values]
        repeated = [value for value, n in zip(values, numbers, strict=True) if numbers.count(n) > 1]
        if repeated:
            also = "" if repeated[0] == repeated[1] else f", also as {repeated[1]}"
            raise ConfigError(f"--{name}: {repeated[0]} is given twice{also}")
    if odd := [seed for seed in seeds if not seed.isdigit()]:
        raise ConfigError(f"--seeds: {odd[0]!r} is no seed: whole numbers, as in --seeds=1,2,3")
    common = leave_out(command, (*_OWN, *grid))
    planned = []
    every: tuple[str | None, ...] = tuple(seeds) or (None,)
    for values, seed in itertools.product(itertools.product(*grid.values()), every):
        chosen = dict(zip(grid, values, strict=True))
        named = {**chosen, **({} if seed is None else {"seed": seed})}
        name = _ODD.sub("_", ",".join(f"{flag}={value}" for flag, value in named.items()))
        place = Path(folder, name or "run")
        flags = (f"--{flag}={value}" for flag, value in named.items())
        line = (*common, *flags, f"--model_dir={place}")
        planned.append(PlannedRun(SeriesRun(place.name, chosen, seed), line, place))
    if len({run.folder for run in planned}) < len(planned):
        raise ConfigError("two sets of values have the same directory name")
    return Sweep(tuple(common), Path(folder), tuple(planned))


def _to_number(value: str) -> float | str:
    """Return a flag value as a number, or unchanged if it is none."""
    try:
        number = float(value)
    except ValueError:
        return value
    return number if math.isfinite(number) else value


def find_flag(command: Sequence[str], name: str) -> bool:
    """Return whether a command line has a flag, with or without a value."""
    return any(word == f"--{name}" or word.startswith(f"--{name}=") for word in command)


def run_sweep(sweep: Sweep, devices: Sequence[Mapping[str, str]]) -> list[SeriesRun]:
    """Start the runs that are not finished, and write the tables after each of them.

    Args:
        sweep: the runs.
        devices: environment of the runs, by device: as many run at the same time.

    Raises:
        RunError: a run failed; the others have run all the same. Or the directory holds another
            sweep.
        Interrupted: a signal arrived; the runs have saved, and resume with the same command.
    """
    failures = _earlier_failures(sweep)
    found = {planned.run.name: _find_finished(planned, failures) for planned in sweep.runs}
    count = sum(run.result is not None for run in found.values())
    if count:
        logger.info("%d of %d runs are finished already", count, len(found))
    _report_others(sweep)
    sweep.folder.mkdir(parents=True, exist_ok=True)
    write_tables(sweep, list(found.values()))
    waiting = [p for p in sweep.runs if not _is_done(found[p.run.name])]
    with contextlib.closing(_run_all(waiting, devices)) as ended:
        for run in ended:
            found[run.name] = run
            write_tables(sweep, list(found.values()))
    failed = [run for run in found.values() if run.failure]
    for run in failed:
        logger.error("%s failed: %s", run.name, run.failure)
    if failed:
        table = sweep.folder / SWEEP_TABLE
        raise RunError(f"{len(failed)} of {len(found)} runs failed; {table} is of the others")
    return list(found.values())


def _report_others(sweep: Sweep) -> None:
    """Name the finished runs in the directory that the command does not list any more."""
    planned = {run.folder for run in sweep.runs}
    folders = sorted(path.parent for path in sweep.folder.glob(f"*/{BEST_RESULT}"))
    others = [folder.name for folder in folders if folder not in planned]
    if others:
        logger.warning(
            "%s also holds %s: not in the tables, which are of the seeds and values in the command",
            *(sweep.folder, join_names(others, _SHOWN)),
        )


def _is_done(run: SeriesRun) -> bool:
    return run.result is not None or bool(run.failure)


def _earlier_failures(sweep: Sweep) -> dict[str, str]:
    """Return the failures that an earlier start recorded, by run.

    Raises:
        RunError: it was another sweep.
    """
    path = sweep.folder / SWEEP_JSON
    if not path.is_file():
        return {}
    record = read_json_object(path, RunError)
    if record.get("command") != list(sweep.command):
        raise RunError(
            f"{sweep.folder}: holds runs of another command ({SWEEP_JSON} names it); choose "
            "another --model_dir"
        )
    return {run["name"]: run["failure"] for run in record.get("runs", ()) if run.get("failure")}


def _find_finished(planned: PlannedRun, failures: Mapping[str, str]) -> SeriesRun:
    """Return a run with its result, if it is finished.

    A finished run that failed (it diverged) would fail again; any other failure is tried again.
    """
    result = read_result(planned.folder)
    if result is None:
        return planned.run
    if failure := failures.get(planned.run.name, ""):
        return replace(planned.run, failure=failure)
    return replace(planned.run, result=result)


def write_tables(sweep: Sweep, runs: Sequence[SeriesRun]) -> None:
    """Write ``sweep.json`` and ``sweep.md``."""
    record = to_json(sweep.task, sweep.command, runs)
    atomic_write_json(sweep.folder / SWEEP_JSON, record)
    text = to_markdown(sweep.task, shlex.join(sweep.command), runs)
    atomic_write_text(sweep.folder / SWEEP_TABLE, text)


def _run_all(
    waiting: Sequence[PlannedRun], devices: Sequence[Mapping[str, str]]
) -> Generator[SeriesRun, None, None]:
    """Run on all devices, and yield the runs as they end."""
    queue, free = list(waiting), list(range(len(devices)))
    active: dict[int, _ActiveRun] = {}
    try:
        with stop_requests.deferred():
            while queue or active:
                while queue and free and stop_requests.received is None:
                    slot, planned = free.pop(0), queue.pop(0)
                    active[slot] = _ActiveRun(planned, devices[slot])
                if stop_requests.received is not None:
                    raise Interrupted(_stop(active, stop_requests.received))
                for slot in [slot for slot, run in active.items() if run.has_ended()]:
                    yield active.pop(slot).outcome()
                    free.append(slot)
                if active:
                    time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_stop(active, "Ctrl-C")) from None
    finally:
        for run in active.values():
            run.stop()


def _stop(active: dict[int, _ActiveRun], cause: str) -> str:
    """Let the active runs save and end; return the message about it."""
    names = [run.planned.run.name for run in active.values()]
    for run in active.values():
        run.signal()
    for run in active.values():
        run.stop()
    active.clear()
    saved = f"; ended: {', '.join(names)}" if names else ""
    return f"stopped by {cause}{saved}; the same command resumes"


class _ActiveRun:
    """The process of a run."""

    def __init__(self, planned: PlannedRun, environment: Mapping[str, str]) -> None:
        self.planned, self._since = planned, time.monotonic()
        logger.info("%s: starts, output in %s", planned.run.name, planned.log)
        # A session of its own: Ctrl-C reaches this process alone, which lets the runs save.
        with open(planned.log, "ab") as log:
            try:
                self._process = subprocess.Popen(
                    planned.command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**environment, INSIDE_SWEEP: "1"},
                    start_new_session=True,
                )
            except OSError as error:
                reason = error.strerror
                raise ConfigError(f"{planned.command[0]}: cannot be run: {reason}") from None

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def signal(self) -> None:
        """Ask the run to save and end."""
        if not self.has_ended():
            self._process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """Let the run save, and wait for its end."""
        self.signal()
        self._process.wait()

    def outcome(self) -> SeriesRun:
        """Return the run with its result or its failure, and log it."""
        run, status = self.planned.run, self._process.returncode
        result, failure = _read_outcome(self.planned, status)
        if result is not None:
            duration = format_duration(time.monotonic() - self._since)
            figures = (run.name, result.split, result.metric, result.score, result.step, duration)
            logger.info("%s: %s %s %.4f at step %d, in %s", *figures)
        return replace(run, result=result, failure=failure)


def _read_outcome(planned: PlannedRun, status: int) -> tuple[RunResult | None, str]:
    """Return the result of a run that has ended, or one line about its failure."""
    if status == 0:
        try:
            result = read_result(planned.folder)
        except RunError as error:
            return None, str(error)
        if result is not None:
            return result, ""
        return None, f"ended without a result in {planned.folder}: does the command train?"
    lines = planned.log.read_text("utf-8", "replace").strip().splitlines()
    last = next((line for line in reversed(lines) if line.startswith("error: ")), "")
    last = last.removeprefix("error: ") or (lines[-1].strip() if lines else "no output")
    cause = f"status {status}" if status > 0 else signal.Signals(-status).name
    return None, f"{last} ({cause}; {planned.log})"
