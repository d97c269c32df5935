"""Seconds per training step, and an estimate of the time left that does not jump."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

# Share of earlier intervals in the estimate, per log interval: that of one interval fades over the
# next twenty, so that one of three times the length moves the estimate by a fifth.
_MEMORY = 0.9


class StepTimer:
    """Measures training steps without start-up, evaluation and saving.

    The first step of a process is start-up: it reads the first batches and allocates memory. It
    counts only where there is no other.

    Args:
        step: steps made before.
        clock: returns seconds; for tests.
    """

    def __init__(self, step: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._step, self._since, self._away = step, clock(), 0.0
        self._steps, self._seconds = 0.0, 0.0
        self._is_started = False

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Leave out the time that the block takes."""
        start = self._clock()
        yield
        self._away += self._clock() - start

    @property
    def is_started(self) -> bool:
        """Whether the first step of this process is over."""
        return self._is_started

    def started(self, step: int) -> None:
        """Begin to measure after ``step``, the first one of this process; later calls do nothing.

        A log line that is due after that very step measures it all the same.
        """
        if not self._is_started:
            self._is_started = True
            self._restart(step)

    def lap(self, step: int) -> float:
        """Return the mean seconds per step since the last call; to be called for log lines."""
        seconds = max(self._clock() - self._since - self._away, 1e-9)
        steps = max(1, step - self._step)
        is_startup = not self._is_started
        self._is_started = True
        self._restart(step)
        if is_startup:
            return seconds / steps
        self._steps = self._steps * _MEMORY + steps
        self._seconds = self._seconds * _MEMORY + seconds
        return seconds / steps

    def left(self, steps: int) -> str:
        """Return the time for so many further steps, as ``[days-]HH:MM:SS``; ``?`` if unknown."""
        if not self._steps:
            return "?" if steps else format_duration(0.0)
        return format_duration(self._seconds / self._steps * steps)

    def _restart(self, step: int) -> None:
        self._step, self._since, self._away = step, self._clock(), 0.0


def format_duration(seconds: float) -> str:
    """Return a duration as ``HH:MM:SS``, from a day on ``D-HH:MM:SS``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    clock = f"{hour:02d}:{minute:02d}:{second:02d}"
    return f"{days}-{clock}" if days else clock
