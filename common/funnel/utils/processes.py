"""Calls of one function side by side, each in a process of its own.

Unlike a pool, a process that dies takes no other with it, and all end when the program does,
whether by an error, by Ctrl-C or because it was killed.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from funnel.utils.errors import FunnelError
from funnel.utils.main import INTERRUPTED

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
T = TypeVar("T")


def run_in_processes(
    function: Callable[..., T], calls: Sequence[tuple[Any, ...]], num_proc: int
) -> Iterator[T]:
    """Yield what ``function(*arguments)`` returns for each call, in the order in which they end.

    At most ``num_proc`` run at a time. When one fails, the others are stopped: a KeyboardInterrupt
    is raised in them, so that their ``finally`` clauses run. Function, arguments and results must
    be picklable, and the program must not start work when it is merely imported.

    Raises:
        FunnelError: as the function raised it; or a process was killed.
        RuntimeError: the function raised another exception; its traceback is on stderr.
    """
    context = multiprocessing.get_context("spawn")  # a fork copies locks that other threads hold
    resource_tracker.ensure_running()  # done later, it would let signals through again
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
                sender.close()  # the worker's end is then the only one, and closes with it
            for receiver in wait(list(running)):
                result = _outcome(receiver, running[receiver])
                del running[receiver]
                yield result
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.join()


def _outcome(receiver: Connection, process: BaseProcess) -> Any:
    """What a worker sent, or why it sent nothing."""
    try:
        outcome = receiver.recv()
    except (EOFError, OSError):  # ended before, or within, what it had to say
        process.join()
        if process.exitcode == INTERRUPTED:  # Ctrl-C, of which this process hears later
            raise KeyboardInterrupt from None
        if process.exitcode >= 0:
            raise RuntimeError("a process failed; its traceback stands above") from None
        raise FunnelError(
            f"a process was killed (signal {-process.exitcode}), perhaps because memory ran out; "
            "fewer processes at a time need less"
        ) from None
    process.join()
    if isinstance(outcome, FunnelError):
        raise outcome
    return outcome


def _work(sender: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """What a worker does."""
    stopping: list[int] = []

    def stop(number: int, _: object) -> None:
        if not stopping:  # a second signal must not disturb what the first one set in motion
            stopping.append(number)
            raise KeyboardInterrupt

    def stop_with_parent() -> None:
        multiprocessing.parent_process().join()
        os.kill(os.getpid(), signal.SIGTERM)

    try:
        for number in _STOP_SIGNALS:
            signal.signal(number, stop)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
        threading.Thread(target=stop_with_parent, daemon=True).start()
        sender.send(function(*arguments))
    except FunnelError as error:
        sender.send(error)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED if stopping == [signal.SIGINT] else 1)


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Put off Ctrl-C, here and in a process started meanwhile until it is ready for it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
