"""``classifier.py`` on every GPU of this machine: the same flags, one process per GPU.

    python pytorch/multigpu_classifier.py --dataset=MNLI --data_dir=GLUE/MNLI --model_dir=EXP \\
        --init_ckpt=CKPT --tokenizer_path=CKPT/vocab.uncased.txt --train_bsz=8
    python pytorch/multigpu_classifier.py --distributed_world_size=2 --device_id=-1 ...  # on CPU

--train_bsz counts examples per process, as under torchrun; the log states the sum.
"""

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

import _paths  # noqa: F401

import torch

from funnel.utils.errors import ConfigError
from funnel.utils.main import run_main
from funnel_torch.cli import flags

PROGRAM = Path(__file__).resolve().with_name("classifier.py")
_POLL_SECONDS = 0.1
_GRACE_SECONDS = 10.0


def number_of_processes(world_size: int | None, device_id: int) -> int:
    """What was asked for, by default one per GPU.

    Raises:
        ConfigError: there are not so many GPUs, or none and no number is given.
    """
    gpus = 0 if device_id < 0 else torch.cuda.device_count()
    if world_size is None:
        if not gpus:
            raise ConfigError(
                "no GPU to count: say --distributed_world_size=N for N processes on the CPU"
            )
        return gpus
    if world_size < 1 or 0 < gpus < world_size:
        raise ConfigError(f"distributed_world_size={world_size}: this machine has {gpus} GPUs")
    return world_size


def free_port() -> int:
    """A port on this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(arguments: Sequence[str], processes: int) -> list[subprocess.Popen]:
    """Start the processes; they find each other as under torchrun."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    started = []
    for rank in range(processes):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        environment = {"OMP_NUM_THREADS": threads, **os.environ, **meeting, **place}
        command = [sys.executable, str(PROGRAM), *arguments]
        started.append(subprocess.Popen(command, env=environment))
    return started


@contextlib.contextmanager
def ended_with_us(processes: Sequence[subprocess.Popen]) -> Iterator[None]:
    """Leave no process behind, however the block ends."""
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


def wait_for(processes: Sequence[subprocess.Popen]) -> int:
    """0 once all have succeeded, else the status of the first that failed."""
    while True:
        states = [process.poll() for process in processes]
        for state in states:
            if state:
                return state if state > 0 else 128 - state
        if all(state == 0 for state in states):
            return 0
        time.sleep(_POLL_SECONDS)


def main() -> None:
    arguments = sys.argv[1:]
    args = flags.classifier_parser(__doc__).parse_args(arguments)
    count = number_of_processes(args.distributed_world_size, args.device_id)
    # A polite end (e.g. of a batch system) must reach the processes, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    processes = launch(arguments, count)
    with ended_with_us(processes):
        status = wait_for(processes)
    if status:
        sys.exit(status)


if __name__ == "__main__":
    run_main(main)
