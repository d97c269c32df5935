"""Requests to stop: SIGTERM, and SIGUSR1, which Slurm can send before the time limit.

Outside of training such a signal raises :class:`Interrupted` at once, so that clean-up runs as
after Ctrl-C. A training loop runs inside :meth:`StopRequests.deferred`: there a signal is only
recorded. The loop looks at it after every step, saves, and raises :class:`Interrupted` itself.

Signal handlers belong to the process, hence the one object :data:`stop_requests`.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Interrupted(BaseException):
    """A request to stop has been carried out; the message says what was saved.

    Like KeyboardInterrupt no Exception: code that survives errors must not survive this.
    """


class StopRequests:
    """The handler of the stop signals of this process; counts the first one only.

    Attributes:
        received: name of the first signal since :meth:`handled` was entered, None without one.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._users, self._deferrals = 0, 0
        self._has_raised = False

    @property
    def is_deferring(self) -> bool:
        """Whether signals are only recorded at the moment."""
        return self._deferrals > 0

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the stop signals inside the context; contexts may be nested.

        After a signal the process is about to end, and later ones stay ignored: none may interrupt
        the clean-up or change the exit code. Does nothing outside of the main thread.
        """
        is_outermost = self._users == 0
        self._users += 1
        previous: dict[signal.Signals, Any] = {}
        if is_outermost and threading.current_thread() is threading.main_thread():
            self.received, self._has_raised = None, False
            previous = {number: signal.signal(number, self) for number in STOP_SIGNALS}
        try:
            yield
        except Exception as error:
            if not self._has_raised:
                raise
            # Raised wherever the signal arrives, Interrupted may come out of native code (imports,
            # TensorFlow's graph) as another exception.
            raise Interrupted(self._describe()) from error
        finally:
            self._users -= 1
            for number, handler in previous.items():
                signal.signal(number, handler if self.received is None else signal.SIG_IGN)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Only record signals inside the context."""
        self._deferrals += 1
        try:
            yield
        finally:
            self._deferrals -= 1

    def check(self) -> None:
        """Raise Interrupted if a signal has been recorded.

        Raises:
            Interrupted: a signal has arrived, perhaps while signals were deferred.
        """
        if self.received is not None:
            raise Interrupted(self._describe())

    def _describe(self) -> str:
        return f"stopped by {self.received}; the same command resumes"

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal; called by the interpreter."""
        is_first = self.received is None
        if is_first:
            self.received = signal.Signals(number).name
        if is_first and not self.is_deferring:
            self._has_raised = True
            self.check()


stop_requests = StopRequests()


def ignore_stop_signals(*_: Any) -> None:
    """Ignore the stop signals in this process, a worker of one that handles them.

    Launchers and batch systems signal all processes of a group. A worker has to live until the
    training process has finished its step; it ends with that process.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
