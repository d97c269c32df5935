"""A program of pytorch/ in several processes, started as a batch system does, without torchrun."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import program_server
from funnel_torch.cli.multigpu import find_free_port
from program_server import ProgramProcess


def start_ranks(
    program: Path, argv: Sequence[str], logs: Sequence[Path], local: bool = False
) -> list[ProgramProcess]:
    """Start one process per file in ``logs``; ``local`` also sets LOCAL_RANK, as torchrun does."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(find_free_port())}
    meeting |= {"WORLD_SIZE": str(len(logs)), "OMP_NUM_THREADS": "1"}
    processes = []
    for rank, log in enumerate(logs):
        place = {"RANK": str(rank)} | ({"LOCAL_RANK": str(rank)} if local else {})
        environment = {**os.environ, **meeting, **place}
        processes.append(program_server.start([program, *argv], log, env=environment))
    return processes
