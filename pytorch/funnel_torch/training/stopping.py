"""Stopping and saving between steps, agreed on by all processes, and reading what steps return.

A signal reaches the processes of a run at different moments, or only some of them, and their clocks
differ. So every step sums what the processes ask for, and all of them act after the same step.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from funnel.utils.interruption import stop_requests
from funnel_torch.training.distributed import DistributedContext

T = TypeVar("T")


class EvaluationStopped(Exception):
    """A process was asked to stop during an evaluation; raised in all of them."""


class StepRequests:
    """What this process asks for after a step: to stop, or to save because it is time to.

    Args:
        world: the processes; the clock is that of rank 0.
        save_minutes: minutes between checkpoints; 0: none by the clock.
    """

    def __init__(self, world: DistributedContext, save_minutes: float) -> None:
        self._seconds = save_minutes * 60.0
        self._has_clock = world.is_rank_zero and save_minutes > 0
        # Made once: a tensor made from a number would wait for the GPU in every step.
        self._no, self._yes = torch.tensor([0.0, 1.0], device=world.device)
        self._is_alone, self._has_asked = world.size == 1, False
        self._saved = time.monotonic()

    def reset_clock(self) -> None:
        """Count from now on: a checkpoint has been written."""
        self._saved = time.monotonic()

    def with_loss(self, loss: Tensor) -> Tensor:
        """Return a vector of the loss and the requests to stop and to save, to be summed."""
        stop = stop_requests.received is not None
        save = self._has_clock and time.monotonic() - self._saved >= self._seconds
        self._has_asked = stop or save
        return torch.stack([loss, *(self._yes if asked else self._no for asked in (stop, save))])

    @property
    def are_known(self) -> bool:
        """Whether there is a request after the newest step, and no other process to hear about it.

        Several processes learn of requests when they read the sums, and so all at the same step.
        """
        return self._is_alone and self._has_asked


@dataclass(frozen=True)
class StepResult:
    """What is known of a step afterwards: gradient norm, loss, and the requests of the processes.

    The step changed nothing if ``norm`` is not finite.
    """

    step: int
    norm: float
    loss: float
    stop: bool
    save: bool


class StepResults:
    """Results of steps, on their way from the device.

    A GPU works on a queue. Reading a number of the newest step would wait until the queue is empty,
    and the GPU would then wait for this process to enqueue the next step.

    Args:
        delay: number of steps that are not read unless all are.
    """

    def __init__(self, delay: int = 1) -> None:
        self._delay = delay
        self._waiting: deque[tuple[int, Tensor, torch.cuda.Event | None]] = deque()

    def add(self, step: int, numbers: Tensor) -> None:
        """Begin to copy the numbers of a step: norm, loss and the requests, float [4]."""
        copied = None
        if numbers.device.type == "cuda":
            # Into page-locked memory. The event is that of this copy, so that reading it does not
            # wait for steps that were enqueued later.
            stream = torch.cuda.current_stream(numbers.device)
            numbers, copied = numbers.to("cpu", non_blocking=True), torch.cuda.Event()
            copied.record(stream)
        self._waiting.append((step, numbers, copied))

    def read(self, everything: bool) -> list[StepResult]:
        """Return the results not yet returned, by step: all, or all but the newest ``delay``.

        If a process asks to stop or to save, all are returned.
        """
        results: list[StepResult] = []
        while len(self._waiting) > (0 if everything else self._delay):
            step, numbers, copied = self._waiting.popleft()
            if copied is not None:
                copied.synchronize()
            norm, loss, stop, save = numbers.tolist()
            results.append(StepResult(step, norm, loss, stop > 0, save > 0))
            everything |= results[-1].stop or results[-1].save
        return results


def until_stopped(
    batches: Sequence[T], world: DistributedContext, rounds: int | None = None
) -> Iterator[T]:
    """Yield the batches of an evaluation, until a process is asked to stop.

    Outside of training, signals raise Interrupted themselves.

    Args:
        batches: those of this process.
        world: the processes.
        rounds: largest number of batches of a process; default: that of this one.

    Raises:
        EvaluationStopped: training is to stop, and repeats this evaluation when it resumes.
        Interrupted: outside of training, a signal arrived earlier.
    """
    for number in range(len(batches) if rounds is None else rounds):
        raise_if_stopped(world)
        if number < len(batches):
            yield batches[number]


def raise_if_stopped(world: DistributedContext) -> None:
    """Raise if a process was asked to stop; to be called in every process equally often.

    Raises:
        EvaluationStopped: during training.
        Interrupted: outside of training.
    """
    if not stop_requests.is_deferring:
        stop_requests.check()
    elif world.any(stop_requests.received is not None):
        raise EvaluationStopped
