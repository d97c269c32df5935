"""Outputs of many examples, computed in any order and returned in theirs."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping

import numpy as np

from funnel.utils.scratch import ScratchArray

_RELEASE_EVERY = 256  # batches after which the memory of what was written is given back


class AppendedArrays:
    """Arrays [n, ...] that are appended to batch by batch; large ones are in temporary files."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[ScratchArray, tuple[int, ...]]] = {}

    def append(self, fields: Mapping[str, np.ndarray]) -> None:
        """Add the outputs [B, ...] of the next examples.

        Raises:
            FunnelError: a temporary file cannot be written.
        """
        for name, values in fields.items():
            if name not in self._files:
                file = ScratchArray(tempfile.gettempdir(), values.dtype)
                self._files[name] = (file, values.shape[1:])
            self._files[name][0].append(values)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays by name; nothing can be appended any more."""
        return {
            name: file.read().reshape(-1, *shape) for name, (file, shape) in self._files.items()
        }


class OutputArrays:
    """Arrays [n, ...] that are filled batch by batch; large ones are in temporary files.

    Args:
        size: n, the number of examples.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._files: dict[str, ScratchArray] = {}
        self._arrays: dict[str, np.ndarray] = {}
        self._batches = 0

    def put(self, indices: np.ndarray, fields: Mapping[str, np.ndarray]) -> None:
        """Store the outputs [B, ...] of the examples ``indices`` [B].

        Raises:
            FunnelError: a temporary file cannot be written.
            ValueError: the outputs of an earlier batch had another shape.
        """
        for name, values in fields.items():
            if name not in self._arrays:
                self._create(name, values)
            self._arrays[name][indices] = values
        self._batches += 1
        if self._batches % _RELEASE_EVERY == 0:
            self.release()

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays by name."""
        self.release()
        return dict(self._arrays)

    def release(self) -> None:
        """Let the system take back the memory of what was written or read."""
        for file in self._files.values():
            file.release()

    def _create(self, name: str, values: np.ndarray) -> None:
        shape = values.shape[1:]
        total = self._size * math.prod(shape)
        file = ScratchArray.zeros(tempfile.gettempdir(), total, values.dtype)
        self._files[name] = file
        self._arrays[name] = file.read().reshape(self._size, *shape)
