"""Parallel calls of a function, one process per call.

Unlike in a pool, a process that dies does not affect the others, a failure stops the remaining
calls in a way that lets them clean up, and no process outlives the program, however it ends.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from funnel.utils.errors import FunnelError
from funnel.utils.main import INTERRUPTED

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
T = TypeVar("T")


def count_cores() -> int:
    """Return the number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_in_processes(
    function: Callable[..., T], calls: Sequence[tuple[Any, ...]], num_proc: int
) -> Iterator[T]:
    """Yield the result of ``function(*arguments)`` for each call, in the order of completion.

    At most ``num_proc`` processes run at a time. If one fails, the others are stopped by a
    KeyboardInterrupt, so that their ``finally`` clauses run. Function, arguments and results must
    be picklable, and importing the main module must have no side effects.

    Raises:
        FunnelError: the function raised it, or a process was killed.
        RuntimeError: the function raised another exception; its traceback is on stderr.
    """
    context = multiprocessing.get_context("spawn")  # a fork would copy locks held by other threads
    resource_tracker.ensure_running()  # started later, it would unblock the signals held below
    waiting = list(calls)[::-1]
    running: dict[Connection, BaseProcess] = {}
    try:
        while waiting or running:
            while waiting and len(running) < num_proc:
                receiver, sender = context.Pipe(duplex=False)
                arguments = (sender, function, waiting.pop())
                with _signals_held():
                    running[receiver] = context.Process(target=_work, args=arguments)
                    running[receiver].start()
                sender.close()  # the pipe then ends when the process does
            for receiver in _ready(running):
                result = _receive(receiver, running[receiver])
                del running[receiver]
                yield result
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.join()


def _ready(running: Mapping[Connection, BaseProcess]) -> list[Connection]:
    """Wait until at least one process has sent its result or ended."""
    ready = wait(list(running))
    return [receiver for receiver in running if receiver in ready]


def _receive(receiver: Connection, process: BaseProcess) -> Any:
    """Return the result of a process, or raise the reason why there is none."""
    try:
        outcome = receiver.recv()
    except (EOFError, OSError):  # it ended before or while sending
        process.join()
        status = process.exitcode or 0
        if status == INTERRUPTED:  # by a Ctrl-C that this process is about to receive as well
            raise KeyboardInterrupt from None
        if status >= 0:
            raise RuntimeError("a process failed; its traceback is above") from None
        raise FunnelError(
            f"a process was killed (signal {-status}), perhaps because memory ran out; "
            "fewer processes at a time need less"
        ) from None
    process.join()
    if isinstance(outcome, FunnelError):
        raise outcome
    return outcome


class _StopOnce:
    """Signal handler that raises KeyboardInterrupt once.

    A second signal must not interrupt the clean-up that the first one started.
    """

    def __init__(self) -> None:
        self.received: int | None = None

    def __call__(self, number: int, frame: object) -> None:
        if self.received is None:
            self.received = number
            raise KeyboardInterrupt


def _work(sender: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Run one call in a worker process and send its result or FunnelError."""
    stop = _StopOnce()
    try:
        for number in _STOP_SIGNALS:
            signal.signal(number, stop)
        signal.signal(
            signal.SIGUSR1, signal.SIG_IGN
        )  # for the parent, which then ends this process
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
        threading.Thread(target=_stop_with_parent, daemon=True).start()
        sender.send(function(*arguments))
    except FunnelError as error:
        sender.send(error)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED if stop.received == signal.SIGINT else 1)


def _stop_with_parent() -> None:
    """Stop this process when its parent ends, even if that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Block stop signals here, and in a process started meanwhile until it unblocks them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
