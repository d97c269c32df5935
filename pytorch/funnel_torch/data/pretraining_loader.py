"""Pretraining records as batches of tensors, for any number of processes.

The stream of :mod:`funnel.pretraining.dataset` is cut into steps, all of them full (a step may
begin in
one epoch and end in the next), and every step into parts for processes and micro-steps. What a step
holds depends on ``examples_per_step`` and the seed alone.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from funnel.pretraining.dataset import MaskedStream, StreamConfig
from funnel.pretraining.masking import Masker
from funnel.pretraining.record_index import RecordCollection
from funnel.utils.errors import ConfigError, FunnelError
from funnel_torch.models.electra import PretrainingBatch

logger = logging.getLogger(__name__)

_STEPS_AHEAD = 4  # that every worker prepares while the device computes
_EVALUATION_SEED = 0  # the same masks in every run, so that evaluations can be compared


@dataclass(frozen=True)
class PretrainBatchConfig:
    """How pretraining examples are grouped and loaded.

    Attributes:
        batch_size: examples of one process and one micro-step.
        grad_accum: micro-steps of a step.
        num_workers: processes that prepare batches; 0: the training process itself.
        pin_memory: put batches where a GPU can fetch them while it computes.
        stream: the order of records.
    """

    batch_size: int
    grad_accum: int = 1
    num_workers: int = 0
    pin_memory: bool = False
    stream: StreamConfig = field(default_factory=StreamConfig)

    def __post_init__(self) -> None:
        for key, least in {"batch_size": 1, "grad_accum": 1, "num_workers": 0}.items():
            if getattr(self, key) < least:
                raise ConfigError(f"{key}={getattr(self, key)}: must be at least {least}")


class PretrainMicroBatch(NamedTuple):
    """What one process computes at once.

    Attributes:
        batch: the records.
        noise_seeds: one of each record, for the noise that decides a generator's samples; it is
            drawn anew every epoch.
        records: how many of them count: all, or none of a stand-in, which is there only because
            every process has to take part in what the others do.
        targets: tokens to predict (0 of a stand-in).
        tokens: tokens that are no padding (0 of a stand-in).
    """

    batch: PretrainingBatch
    noise_seeds: list[int]
    records: int
    targets: int
    tokens: int


class _Loaded(NamedTuple):
    """A step as a worker hands it over: errors as they are, damaged records by their messages."""

    micro_batches: list[PretrainMicroBatch]
    damaged: tuple[str, ...] = ()
    error: FunnelError | None = None


class InputWait:
    """How long training waited for its input, in seconds, and for how many steps.

    Without workers that is the time to prepare the batches.
    """

    def __init__(self) -> None:
        self.seconds, self.steps, self._taken = 0.0, 0, 0.0

    def take(self) -> float:
        """Seconds since the last call."""
        taken, self._taken = self.seconds - self._taken, self.seconds
        return taken


class PretrainBatches:
    """The micro-batches of one process, step by step, for ever.

    Attributes:
        examples_per_step: of all processes and micro-steps together.
        steps_per_epoch: how many of them the collection holds, no whole number.
        wait: time spent on waiting for input.
    """

    def __init__(
        self,
        collection: RecordCollection,
        masker: Masker,
        config: PretrainBatchConfig,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._stream = MaskedStream(collection, masker, config.stream)
        self._config, self._rank, self._world_size = config, rank, world_size
        self.examples_per_step = config.batch_size * config.grad_accum * world_size
        self.steps_per_epoch = len(self._stream) / self.examples_per_step
        self.wait = InputWait()
        self._damaged: set[str] = set()

    @property
    def damaged(self) -> int:
        """Damaged records that this process met and replaced; each is warned about once."""
        return len(self._damaged)

    def stream(self, first_step: int = 0) -> Iterator[list[PretrainMicroBatch]]:
        """The steps from ``first_step`` on, without end.

        Raises:
            DataError: a record is damaged, and may not be skipped.
        """
        first = first_step * self.examples_per_step
        starts = range(first, sys.maxsize - self.examples_per_step, self.examples_per_step)
        parts = _Parts(self._stream, self._config, self._rank, self._world_size)
        steps = iter(_loader(parts, starts, self._config))
        while True:
            begin = time.perf_counter()
            step = next(steps)
            self.wait.seconds += time.perf_counter() - begin
            self.wait.steps += 1
            self._warn(step.damaged)
            yield _or_raise(step)

    def _warn(self, damaged: Iterable[str]) -> None:
        for message in dict.fromkeys(damaged):
            if message not in self._damaged:
                self._damaged.add(message)
                logger.warning("%s; replaced by the next good record", message)


def evaluation_batches(
    collection: RecordCollection,
    masker: Masker,
    config: PretrainBatchConfig,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[PretrainMicroBatch]:
    """Every record once, shared among the processes, with masks that depend on the record alone.

    Every process gets as many batches as the others. The last ones are smaller, and may be
    stand-ins. Seed, shuffling and ``grad_accum`` of ``config`` are not looked at.

    Raises:
        DataError: a record is damaged, and may not be skipped.
    """
    order = replace(config.stream, seed=_EVALUATION_SEED, shuffle=False)
    config = replace(config, grad_accum=1, stream=order)
    stream = MaskedStream(collection, masker, order)
    parts = _Parts(stream, config, rank, world_size, stop=len(stream))
    starts = range(0, len(stream), config.batch_size * world_size)
    for step in _loader(parts, starts, config):
        for message in step.damaged:
            logger.warning("%s; replaced by the next good record", message)
        yield from _or_raise(step)


class _Parts(Dataset):
    """What workers index by the position in the stream at which a step starts."""

    def __init__(
        self,
        stream: MaskedStream,
        config: PretrainBatchConfig,
        rank: int,
        world_size: int,
        stop: int = sys.maxsize,
    ) -> None:
        self._stream, self._rank, self._world_size = stream, rank, world_size
        self._step = config.batch_size * config.grad_accum * world_size
        self._grad_accum, self._stop = config.grad_accum, stop

    def __getitem__(self, start: int) -> _Loaded:
        """This process's part of a step: every ``world_size``-th record of each micro-step."""
        positions = np.arange(start, min(start + self._step, self._stop))
        loaded = _Loaded([])
        try:
            for part in np.array_split(positions, self._grad_accum):
                mine = part[self._rank :: self._world_size]
                batch, damaged = self._read(mine if len(mine) else part[:1], len(mine))
                loaded.micro_batches.append(batch)
                loaded = loaded._replace(damaged=loaded.damaged + damaged)
        except FunnelError as error:
            # Raised in a worker, it would arrive with a traceback in its message.
            return loaded._replace(error=error)
        return loaded

    def _read(
        self, positions: np.ndarray, count: int
    ) -> tuple[PretrainMicroBatch, tuple[str, ...]]:
        """The records at ``positions``, of which all or none (``count``) are to be counted."""
        read = self._stream.read(positions)
        targets = int(read.masked.target_mask.sum()) if count else 0
        tokens = int((~read.masked.pad_mask).sum()) if count else 0
        batch = PretrainingBatch.from_arrays(read.masked)
        seeds = [int(seed) for seed in read.noise_seeds]
        return PretrainMicroBatch(batch, seeds, count, targets, tokens), read.damaged


def _loader(parts: _Parts, starts: range, config: PretrainBatchConfig) -> Iterable[_Loaded]:
    if config.num_workers == 0 and not config.pin_memory:
        return map(parts.__getitem__, starts)
    return DataLoader(
        parts,
        batch_size=None,
        sampler=starts,
        num_workers=config.num_workers,
        prefetch_factor=_STEPS_AHEAD if config.num_workers else None,
        pin_memory=config.pin_memory,
        # An own generator: the loader draws from it, and must not disturb that of the dropout.
        generator=torch.Generator(),
    )


def _or_raise(step: _Loaded) -> list[PretrainMicroBatch]:
    if step.error is not None:
        raise step.error
    return step.micro_batches
