"""Collective operations with one interface for a single process and for several.

A :class:`DistributedContext` of size 1 never calls ``torch.distributed``, so single-process
training needs no process group, and calling code needs no case distinction.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from funnel.utils.errors import RunError
from funnel.utils.interruption import Interrupted, stop_requests
from funnel.utils.main import TERMINATED, USER_ERROR
from funnel_torch.training.devices import choose_device

P = ParamSpec("P")
T = TypeVar("T")
logger = logging.getLogger(__name__)

# What torch's errors say if another process ended or does not answer; they have no type of their
# own. gloo names its source file.
_LOST_PROCESS = ("gloo", "Connection closed", "Connection reset", "Timed out", "timed out", "NCCL")
_TIMED_OUT = ("timed out", "timeout")


class FirstProcessFailed(Exception):
    """Another process reports the error; this process only has to stop."""


@dataclass(frozen=True)
class DistributedConfig:
    """Place of this process in the process group, and its device.

    Attributes:
        rank: rank of this process.
        world_size: number of processes.
        device_id: CUDA device, -1 for the CPU.
        device: kind of device, see :func:`~funnel_torch.training.devices.choose_device`.
        backend: backend of ``torch.distributed`` on GPUs; CPUs use gloo.
        init_method: rendezvous URL of ``torch.distributed``: ``env://`` under a launcher, or
            ``tcp://host:port``.
        timeout_minutes: how long to wait for another process. Rank 0 prepares the data while the
            others wait, so this is also a limit for that.
    """

    rank: int = 0
    world_size: int = 1
    device_id: int = 0
    backend: str = "nccl"
    init_method: str = "env://"
    timeout_minutes: float = 60.0
    device: str = "auto"


@dataclass(frozen=True)
class DistributedContext:
    """Rank of this process among ``size`` processes, its device, and collective operations."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_rank_zero(self) -> bool:
        """Whether this is the process that writes files and logs to the console."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return ``model`` with gradients averaged over all processes in the backward pass.

        A model that is fully sharded (FSDP) averages its gradients itself.
        """
        if self.size == 1 or hasattr(model, "set_requires_gradient_sync"):
            return model
        devices = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(
            model, device_ids=devices, gradient_as_bucket_view=True
        )

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum of ``value`` over all processes; the argument is not modified."""
        if self.size == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total

    def any(self, value: bool) -> bool:
        """Return whether ``value`` is true in any process, in every process."""
        if self.size == 1:
            return value
        return self.sum(torch.tensor(float(value), device=self.device)).item() > 0

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, by rank, in every process. They are pickled."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: T) -> T:
        """Return the value of rank 0 in every process. It is pickled."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def rank_zero_first(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``function`` on rank 0 and, once that has returned, in all other processes.

        So one process fills the caches that the others read, and a user error is reported once.

        Raises:
            FirstProcessFailed: in the other processes, if rank 0 raised an exception.
            Interrupted: in all processes, if rank 0 was asked to stop.
        """
        if not self.is_rank_zero:
            self._wait_for_rank_zero()
            return function(*args, **kwargs)
        try:
            result = function(*args, **kwargs)
        except Interrupted:
            self.broadcast(TERMINATED)
            raise
        except BaseException:
            # A defect, too: the others would otherwise wait for a process that has ended.
            self.broadcast(USER_ERROR)
            raise
        self.broadcast(0)
        return result

    def on_rank_zero(self, function: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> None:
        """Call ``function`` on rank 0 only; all processes wait for it, and stop if it fails.

        Raises:
            FirstProcessFailed: in the other processes, if rank 0 raised an exception.
            Interrupted: in all processes, if rank 0 was asked to stop.
        """
        if self.is_rank_zero:
            self.rank_zero_first(function, *args, **kwargs)
        else:
            self._wait_for_rank_zero()

    def _wait_for_rank_zero(self) -> None:
        # The counterpart of rank_zero_first: rank 0 broadcasts how its call ended.
        code = self.broadcast(0)
        if code == TERMINATED:
            raise Interrupted("stopped with rank 0")
        if code:
            raise FirstProcessFailed

    def barrier(self) -> None:
        """Wait until all processes have reached this call."""
        if self.size > 1:
            dist.barrier()


@contextlib.contextmanager
def no_sync(model: nn.Module) -> Iterator[None]:
    """Accumulate gradients locally in backward passes inside the context, without exchange.

    Works for DistributedDataParallel, fully sharded and plain models.
    """
    set_sync = getattr(model, "set_requires_gradient_sync", None)
    if set_sync is None:
        with getattr(model, "no_sync", contextlib.nullcontext)():
            yield
        return
    set_sync(False)
    yield
    set_sync(True)


@contextlib.contextmanager
def start(config: DistributedConfig) -> Iterator[DistributedContext]:
    """Join the process group, if there are several processes, and leave it at the end.

    Raises:
        RunError: rank or world size is invalid, the processes cannot find each other, or another
            process ended or does not answer.
        FirstProcessFailed: the same, if another process reports it.
    """
    if not 0 <= config.rank < config.world_size:
        raise RunError(f"rank {config.rank} of {config.world_size} processes does not exist")
    if config.timeout_minutes <= 0:
        raise RunError(f"--distributed_timeout={config.timeout_minutes:g}: must be above 0")
    device = choose_device(config.device_id, config.device)
    if config.world_size > 1 and (device.type == "mps" or ":" in config.device):
        raise RunError(f"device={config.device}: is one device, and cannot serve several processes")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    world = DistributedContext(config.rank, config.world_size, device)
    if config.world_size == 1:
        yield world
        return
    _join(config, device)
    try:
        yield world
        # Collect wrapped models before the group is destroyed: they keep its threads alive, and a
        # thread that still runs when the interpreter exits aborts the process.
        world.barrier()
        gc.collect()
    except Interrupted as stop:
        traceback.clear_frames(stop.__traceback__)
        gc.collect()
        raise
    except RuntimeError as error:
        if not _is_lost_process(error):
            raise
        stop_requests.check()  # all processes of a group are signalled, and end one by one
        if config.rank > 1:  # ranks 0 and 1 report it: one of them is left, whichever has ended
            raise FirstProcessFailed from error
        raise RunError(_describe_lost_process(error, config)) from error
    finally:
        dist.destroy_process_group()


def _join(config: DistributedConfig, device: torch.device) -> None:
    try:
        dist.init_process_group(
            backend=config.backend if device.type == "cuda" else "gloo",
            init_method=config.init_method,
            rank=config.rank,
            world_size=config.world_size,
            timeout=timedelta(minutes=config.timeout_minutes),
        )
    except (ValueError, RuntimeError, dist.DistError) as error:
        stop_requests.check()
        reason = str(error).splitlines()[0]
        raise RunError(
            f"rank {config.rank}: no process group at {config.init_method}: {reason}"
        ) from error


def _is_lost_process(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or any(text in str(error) for text in _LOST_PROCESS)


def _describe_lost_process(error: RuntimeError, config: DistributedConfig) -> str:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    if any(text in reason.lower() for text in _TIMED_OUT):
        return (
            f"rank {config.rank}: another process has not answered for "
            f"{config.timeout_minutes:g} minutes (--distributed_timeout sets this limit); "
            "the same command resumes from the last checkpoint"
        )
    return (
        f"rank {config.rank}: another process of this run has ended ({reason}); its own output "
        "says why. The same command resumes from the last checkpoint"
    )
