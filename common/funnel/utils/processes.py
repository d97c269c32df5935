"""Run a function on many inputs in worker processes, and stop them all when one fails."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from typing import Any, TypeVar

from funnel.utils.errors import FunnelError

T = TypeVar("T")


def run_in_processes(
    function: Callable[..., T], calls: Sequence[tuple[Any, ...]], num_proc: int
) -> Iterator[T]:
    """Yield ``function(*arguments)`` of each call in order of completion, ``num_proc`` at a time.

    When a call fails, on Ctrl-C, or when the caller stops early, no further call is started and
    SystemExit is raised in the running ones, so that their ``finally`` clauses run. Function,
    arguments and results must be picklable.

    Raises:
        FunnelError: a worker was killed. Exceptions of the function are raised as they are.
    """
    context = multiprocessing.get_context("spawn")  # a fork copies locks held by other threads
    executor = ProcessPoolExecutor(num_proc, context, _start_worker)
    resource_tracker.ensure_running()  # started later, it would unblock SIGINT
    try:
        # Workers inherit the mask: Ctrl-C is for this process alone, which then stops them.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            futures = [executor.submit(_call, function, arguments) for arguments in calls]
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise FunnelError(
            "a process was killed, perhaps because memory ran out; use fewer processes"
        ) from error
    finally:
        workers = list(executor._processes.values())
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()
        # A worker may have been stopped while it sent a result: without this, the pool's thread
        # would wait for the rest of it.
        executor._result_queue._writer.close()  # type: ignore[attr-defined]
        executor.shutdown(cancel_futures=True)


def _start_worker() -> None:
    threading.Thread(target=_stop_with_parent, daemon=True).start()


def _stop_with_parent() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # it has to wake the main thread
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _call(function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
    try:
        signal.signal(signal.SIGTERM, _stop)
        result = function(*arguments)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return result
    except SystemExit:
        os._exit(1)  # the pool would pass it to the parent, and this worker would take more calls


def _stop(*_: object) -> None:
    signal.signal(signal.SIGTERM, lambda *_: None)  # a second one must not disturb the clean-up
    sys.exit(1)
