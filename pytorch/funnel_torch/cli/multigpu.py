"""One process of a program per GPU of this machine, as torchrun starts them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from funnel.cli.sweep import run_seeds
from funnel.utils.errors import ConfigError
from funnel.utils.interruption import stop_requests
from funnel_torch.cli.settings.base import FineTuneSettings, ProgramSettings

_POLL_SECONDS = 0.1
_GRACE_SECONDS = 10.0
_NOTICE_SECONDS = 5.0  # for the others to find out, and to say, that a process has ended


def run(settings: ProgramSettings, program: Path, arguments: Sequence[str]) -> None:
    """Run ``program`` in as many processes as ``settings`` ask for, and wait for them.

    SIGTERM and SIGUSR1 are passed on: the processes save and end.

    Exits with the status of the first process that failed.
    """
    if isinstance(settings, FineTuneSettings) and settings.series.seeds:
        run_seeds(settings.series, settings.run.model_dir)
        return
    settings.check_paths()
    requested = settings.distributed.distributed_world_size
    on_cpu = settings.device.device == "cpu"
    count = number_of_processes(requested, -1 if on_cpu else settings.device.device_id)
    with stop_requests.handled(), stop_requests.deferred():
        processes = launch(program, arguments, count)
        with ended_with_us(processes):
            status = wait_for(processes)
    if status:
        sys.exit(status)


def number_of_processes(world_size: int | None, device_id: int) -> int:
    """Return the number asked for, by default one per GPU.

    Raises:
        ConfigError: there are fewer GPUs, or none and no number is given.
    """
    gpus = 0 if device_id < 0 else torch.cuda.device_count()
    if world_size is None:
        if not gpus:
            raise ConfigError(
                "found no GPU: give --distributed_world_size=N for N processes on the CPU"
            )
        return gpus
    if world_size < 1 or 0 < gpus < world_size:
        raise ConfigError(f"distributed_world_size={world_size}: this machine has {gpus} GPUs")
    return world_size


def find_free_port() -> int:
    """Return a port of this machine that is not in use."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(
    program: Path, arguments: Sequence[str], processes: int
) -> list[subprocess.Popen[bytes]]:
    """Start the processes, with the environment variables of torchrun."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(find_free_port())}
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    started = []
    for rank in range(processes):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        environment = {"OMP_NUM_THREADS": threads, **os.environ, **meeting, **place}
        command = [sys.executable, str(program), *arguments]
        started.append(subprocess.Popen(command, env=environment))
    return started


@contextlib.contextmanager
def ended_with_us(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Leave no process running, however the block ends."""
    try:
        yield
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + _GRACE_SECONDS
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()


def wait_for(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """Return 0 once all have succeeded, else the status of the first that failed.

    After a stop signal, wait for all of them: they save, for as long as the batch system lets them.
    """
    is_passed_on, failed, deadline = False, 0, 0.0
    while True:
        if stop_requests.received is not None and not is_passed_on:
            is_passed_on = True
            for process in processes:
                process.send_signal(signal.SIGTERM)
        states = [process.poll() for process in processes]
        if not failed and (failed := _find_failure(states)):
            deadline = time.monotonic() + _NOTICE_SECONDS
            _report_killed(states)
        is_late = failed and not is_passed_on and time.monotonic() > deadline
        if is_late or None not in states:
            return failed if failed >= 0 else 128 - failed
        time.sleep(_POLL_SECONDS)


def _find_failure(states: Sequence[int | None]) -> int:
    """Return the status of a process that failed, 0 if none has.

    Of several, one that was killed: the others failed because they lost it.
    """
    failed = [state for state in states if state]
    return min(failed, key=lambda state: state >= 0, default=0)


def _report_killed(states: Sequence[int | None]) -> None:
    """Name the processes that were killed: they could not say anything themselves."""
    for rank, state in enumerate(states):
        if state is not None and state < 0:
            name = signal.Signals(-state).name
            print(f"error: process {rank} of {len(states)} was killed ({name})", file=sys.stderr)
