"""Start of the process of a PyTorch program, one of several perhaps."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sys
from collections.abc import Iterator, Mapping

from funnel.runs.host_memory import keep_freed_memory
from funnel.utils.errors import ConfigError
from funnel.utils.interruption import Interrupted, stop_requests
from funnel.utils.logging import configure_logging
from funnel.utils.main import TERMINATED, USER_ERROR, skip_finalization
from funnel.utils.run_lock import release_all
from funnel_torch.cli.settings.base import ProgramSettings
from funnel_torch.kernels.choices import choices
from funnel_torch.training.devices import check_precision
from funnel_torch.training.distributed import (
    DistributedConfig,
    DistributedContext,
    FirstProcessFailed,
    start,
)

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def start_processes(settings: ProgramSettings) -> Iterator[DistributedContext]:
    """Set up logging, stop signals, and the communication of this process with the others.

    A process exits with the code of a user error if the first one met a user error and reports it.
    The locks that the run holds are released at the end.
    """
    process = distributed_config(settings, os.environ)
    log_rank = 0 if settings.distributed.log_all_processes else process.rank
    configure_logging(settings.run.verbose, log_rank)
    choices.configure(settings.device.kernels)
    if process.world_size > 1:
        skip_finalization()
    try:
        with stop_requests.handled(), start(process) as world:
            if world.device.type == "cpu":
                keep_freed_memory(os.environ)
            log_notices(settings, world.size)
            check_precision(world.device, settings.device.precision)
            yield world
    except FirstProcessFailed:
        sys.exit(USER_ERROR)
    except Interrupted:
        if process.rank == 0:
            raise
        sys.exit(TERMINATED)
    finally:
        release_all()


def distributed_config(
    settings: ProgramSettings, environment: Mapping[str, str]
) -> DistributedConfig:
    """Return the place of this process: from the launcher's ``environment``, else from the flags.

    Raises:
        ConfigError: the launcher's variables are not numbers.
    """
    flags, device_id = settings.distributed, settings.device.device_id
    backend = flags.distributed_backend
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        address = flags.distributed_init_method or f"tcp://127.0.0.1:{flags.distributed_port}"
        size = flags.distributed_world_size or 1
        return DistributedConfig(
            rank=flags.distributed_rank,
            world_size=size,
            device_id=device_id,
            backend=backend,
            init_method=address,
            timeout_minutes=flags.distributed_timeout,
            device=settings.device.device,
        )
    try:
        rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        local_rank = int(environment.get("LOCAL_RANK", rank))
    except ValueError as error:
        raise ConfigError(f"RANK, WORLD_SIZE, LOCAL_RANK: {error}") from None
    own_device = device_id if device_id < 0 or size == 1 else local_rank
    return DistributedConfig(
        rank,
        size,
        own_device,
        backend,
        timeout_minutes=flags.distributed_timeout,
        device=settings.device.device,
    )


def log_notices(settings: ProgramSettings, processes: int) -> None:
    """Log which flags of the original have another meaning here."""
    device = settings.device
    if device.fp16 and device.amp_opt == "O0":
        logger.info("--amp_opt=O0: no mixed precision, --fp16 has no effect")
    elif device.fp16:
        logger.info("--fp16: native mixed precision; --amp_opt=%s is ignored", device.amp_opt)
    if processes > 1 and settings.distributed.ddp_backend == "apex":
        logger.info("--ddp_backend=apex: torch's DistributedDataParallel is used")
    if settings.run.log_path:
        logger.info("--log_path is unused: logs are in --model_dir")


def common_seed(settings: ProgramSettings, world: DistributedContext) -> int:
    """Return --seed, else one that all processes draw together."""
    seed = settings.run.seed
    return world.broadcast(secrets.randbelow(2**31) if seed is None else seed)
