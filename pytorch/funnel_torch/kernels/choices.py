"""The choice between implementations of one computation: set, pinned by a checkpoint, or measured.

Which of two matrix libraries is faster is a property of the processor, its number of threads and
the shape, so it is measured: at the first use of a class of shapes, in milliseconds, on tensors
that are thrown away. The implementations round differently. A run therefore stores its choices in
its checkpoints, and settings can force any of them.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from funnel.utils.errors import ConfigError
from funnel_torch.kernels.config import AUTO, KernelSettings

logger = logging.getLogger(__name__)

Run = Callable[[], object]

# Noise must not decide between equals, or two runs of a command would differ.
_MARGIN = 0.93
# The default is not measured further if all others take longer than this many times its time.
_CLOSE = 1.1
_LEAST_ROUNDS, _MOST_ROUNDS = 2, 6


class KernelChoices:
    """The choices of this process.

    Attributes:
        settings: what is forced.
    """

    def __init__(self) -> None:
        self.settings = KernelSettings()
        self._made: dict[str, str] = {}
        self._may_measure = True

    def configure(self, settings: KernelSettings) -> None:
        """Start with other settings; what has been measured in this process is kept."""
        self.settings, self._may_measure = settings, True

    def choose(
        self,
        name: str,
        options: Sequence[str],
        prepare: Callable[[], Sequence[Run]],
        margin: float = _MARGIN,
    ) -> str:
        """Return which of the ``options`` runs, measured unless it has been before.

        Args:
            name: of the class of shapes.
            options: names of the implementations, the default first.
            prepare: returns one callable per option, on tensors of its own.
            margin: the default stays unless another one takes less than this share of its time.
        """
        found = self._made.get(name)
        if found is not None and found in options:
            return found
        if not self._may_measure:
            return options[0]
        # Neither gradients nor a counter of operations must see these calls.
        with torch.no_grad(), _disable_current_modes():
            seconds = dict(zip(options, _time(prepare()), strict=True))
        found = min(options, key=seconds.__getitem__)
        if seconds[found] > margin * seconds[options[0]]:
            found = options[0]
        self._made[name] = found
        times = ", ".join(f"{option} {1e3 * value:.2f} ms" for option, value in seconds.items())
        logger.debug("%s: %s (%s)", name, found, times)
        return found

    def made(self) -> dict[str, str]:
        """Return the choices measured so far, by class of shapes."""
        return dict(self._made)

    def clear(self) -> None:
        """Forget what has been measured."""
        self._made = {}

    def state(self) -> dict[str, Any]:
        """Return settings and choices in a form that a checkpoint can hold."""
        return {**asdict(self.settings), "made": self.made()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the settings and choices of :meth:`state`; a setting that is not auto precedes them.

        Values that this version does not know are left out; a setting that changes is logged.
        """
        own = self.settings
        names = [field.name for field in fields(KernelSettings)]
        merged = {
            name: str(state.get(name, AUTO)) if (value := getattr(own, name)) == AUTO else value
            for name in names
        }
        for name, value in merged.items():
            if (before := str(state.get(name, value))) != value:
                logger.warning(
                    "--%s=%s: the run had %s before; its losses now differ in rounding from those "
                    "of a run that keeps it",
                    *(name, value, before),
                )
        try:
            self.settings = KernelSettings(**merged)
        except ConfigError as error:
            logger.warning("choices of kernels in the checkpoint: %s; not used", error)
        made = state.get("made", {})
        if isinstance(made, dict):
            self._made |= {key: value for key, value in made.items() if isinstance(value, str)}

    def fix(self, made: Mapping[str, str]) -> None:
        """Take these choices and measure no more: the default serves all other shapes."""
        self._made, self._may_measure = dict(made), False


choices = KernelChoices()


def ones(*shape: int) -> Tensor:
    """Return a tensor to measure with, whatever the default dtype and device of PyTorch are."""
    return torch.ones(shape, dtype=torch.float32, device="cpu")


def _clock() -> Callable[[], float]:
    """Return the CPU time of this thread, which other processes disturb least.

    Where it is coarse (Windows), that is the time on the wall.
    """
    is_fine = time.get_clock_info("thread_time").resolution < 1e-5
    return time.thread_time if is_fine else time.perf_counter


def _time(runs: Sequence[Run]) -> list[float]:
    """Return the shortest time of each callable, in seconds; they take turns.

    Page faults make single calls several times as slow, most of all in the first step of a run. So
    another one than the first, the default, has to win against the best of several calls.
    """
    now = _clock()
    for run in runs:
        run()
    best = [math.inf] * len(runs)
    for number in range(_MOST_ROUNDS):
        if number >= _LEAST_ROUNDS and min(best[1:]) > _CLOSE * best[0]:
            break
        for index, run in enumerate(runs):
            start = now()
            run()
            best[index] = min(best[index], now() - start)
    return best
