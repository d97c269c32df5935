"""One process or many: the same calls either way.

A :class:`DistributedContext` of size 1 never touches ``torch.distributed``, so single-process
training needs no process group and the calling code needs no ifs.
"""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from funnel.utils.errors import FunnelError, RunError

T = TypeVar("T")
logger = logging.getLogger(__name__)

# The other processes wait this long for the first one to read and cache a large data set.
_PATIENCE = timedelta(hours=6)


class FirstProcessFailed(Exception):
    """The first process met a user error and reports it; this one only has to stop."""


@dataclass(frozen=True)
class DistributedConfig:
    """Which process this is.

    ``init_method`` is what ``torch.distributed`` takes: ``env://`` under a launcher, or
    ``tcp://host:port``. ``device_id`` is the CUDA device, -1 for the CPU.
    """

    rank: int = 0
    world_size: int = 1
    device_id: int = 0
    backend: str = "nccl"
    init_method: str = "env://"


@dataclass(frozen=True)
class DistributedContext:
    """This process's place among ``size`` equal ones, and its device."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """``model`` with its gradients averaged over all processes in the backward pass."""
        if self.size == 1:
            return model
        devices = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(
            model, device_ids=devices, gradient_as_bucket_view=True
        )

    def sum(self, value: Tensor) -> Tensor:
        """The sum of ``value`` over all processes; the argument is left as it is."""
        if self.size == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total

    def gather(self, value: T) -> list[T]:
        """Every process's ``value``, by rank, in every process. Values are pickled."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: T) -> T:
        """The first process's ``value`` in every process. It is pickled."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def rank_zero_first(self, function: Callable[[], T]) -> T:
        """Call ``function`` in the first process and, once it is done, in all others.

        So that one process fills the caches the others read, and a user's error is said once.

        Raises:
            FirstProcessFailed: in the other processes, if the first one raised a FunnelError.
        """
        result, failure = None, None
        if self.is_rank_zero:
            try:
                result = function()
            except FunnelError as error:
                failure = error
        failed = self.broadcast(failure is not None)
        if failure is not None:
            raise failure
        if failed:
            raise FirstProcessFailed
        return function() if not self.is_rank_zero else result

    def on_rank_zero(self, function: Callable[[], Any]) -> None:
        """Call ``function`` in the first process only; all wait for it, and stop if it fails.

        Raises:
            FirstProcessFailed: in the other processes, if the first one raised a FunnelError.
        """
        self.rank_zero_first(function if self.is_rank_zero else lambda: None)

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()


@contextlib.contextmanager
def no_sync(model: nn.Module) -> Iterator[None]:
    """A backward pass inside leaves its gradients in this process, to be exchanged later."""
    sharded = getattr(model, "set_requires_gradient_sync", None)
    if sharded is None:
        with getattr(model, "no_sync", contextlib.nullcontext)():
            yield
        return
    sharded(False)
    yield
    sharded(True)


def choose_device(device_id: int) -> torch.device:
    """CUDA device ``device_id``; the CPU for -1 or, with a notice, without a GPU.

    Raises:
        RunError: there are GPUs, but not so many.
    """
    if device_id < 0:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        logger.info("no GPU found: running on the CPU (--device_id=-1 says so without this notice)")
        return torch.device("cpu")
    if device_id >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise RunError(f"device_id={device_id}: this machine has GPUs 0 to {count - 1}")
    return torch.device("cuda", device_id)


@contextlib.contextmanager
def start(config: DistributedConfig) -> Iterator[DistributedContext]:
    """Join the other processes, if any; leave them when the block ends.

    Raises:
        RunError: an impossible rank or world size, or the processes cannot find each other.
    """
    if not 0 <= config.rank < config.world_size:
        raise RunError(f"rank {config.rank} of {config.world_size} processes does not exist")
    device = choose_device(config.device_id)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    world = DistributedContext(config.rank, config.world_size, device)
    if config.world_size == 1:
        yield world
        return
    try:
        dist.init_process_group(
            backend=config.backend if device.type == "cuda" else "gloo",
            init_method=config.init_method,
            rank=config.rank,
            world_size=config.world_size,
            timeout=_PATIENCE,
        )
    except (ValueError, RuntimeError, dist.DistError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(
            f"rank {config.rank}: no process group at {config.init_method}: {reason}"
        ) from error
    try:
        yield world
        # Leave together, and with no wrapped model alive: it would keep the group's threads, and
        # one that still runs when the interpreter ends aborts the process.
        world.barrier()
        gc.collect()
    finally:
        dist.destroy_process_group()
