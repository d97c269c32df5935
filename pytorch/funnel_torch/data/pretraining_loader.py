"""Batches of pretraining records as tensors, for any number of processes.

The dataset of :mod:`funnel.pretraining.dataset` is cut into steps, all of them full (a step may
begin in one epoch and end in the next), and every step into parts for processes and micro-steps.
The records of a step depend on ``examples_per_step`` and the seed alone.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from funnel.pretraining.dataset import DatasetConfig, MaskedDataset
from funnel.pretraining.masking import Masker
from funnel.pretraining.record_index import RecordCollection
from funnel.utils.errors import ConfigError, FunnelError
from funnel.utils.interruption import ignore_stop_signals
from funnel_torch.models.pretraining_batch import PretrainingBatch

logger = logging.getLogger(__name__)

_PREFETCH_STEPS = 4  # per worker
_EVALUATION_SEED = 0  # the same masks in every run, so that evaluations can be compared

# The micro-batches of a step, and the error that ended it early.
LoadedStep = tuple[list[PretrainingBatch], FunnelError | None]


@dataclass(frozen=True)
class PretrainBatchConfig:
    """Sizes of the batches, and how they are loaded.

    Attributes:
        batch_size: records per process and micro-step.
        grad_accum: micro-steps per step.
        num_workers: worker processes that prepare batches; 0 uses the training process.
        pin_memory: copy batches to page-locked memory, for asynchronous transfer to a GPU.
        dataset: order of the records.
    """

    batch_size: int
    grad_accum: int = 1
    num_workers: int = 0
    pin_memory: bool = False
    dataset: DatasetConfig = field(default_factory=DatasetConfig)

    def __post_init__(self) -> None:
        for key, least in {"batch_size": 1, "grad_accum": 1, "num_workers": 0}.items():
            if getattr(self, key) < least:
                raise ConfigError(f"{key}={getattr(self, key)}: must be at least {least}")


class InputWait:
    """Time for which training waited for its input, in seconds, and the number of steps.

    Without workers it is the time to prepare the batches.
    """

    def __init__(self) -> None:
        self.seconds, self.steps, self._reported = 0.0, 0, 0.0

    def take(self) -> float:
        """Return the seconds since the last call."""
        seconds, self._reported = self.seconds - self._reported, self.seconds
        return seconds


class PretrainBatches:
    """The endless micro-batches of one process, step by step.

    Attributes:
        examples_per_step: records per step over all processes and micro-steps.
        steps_per_epoch: steps per pass over the records, in general not an integer.
        wait: time spent waiting for input.
    """

    def __init__(
        self,
        collection: RecordCollection,
        masker: Masker,
        config: PretrainBatchConfig,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._dataset = MaskedDataset(collection, masker, config.dataset)
        self._config, self._rank, self._world_size = config, rank, world_size
        self.examples_per_step = config.batch_size * config.grad_accum * world_size
        self.steps_per_epoch = len(self._dataset) / self.examples_per_step
        self.wait = InputWait()
        self._corrupt: set[str] = set()

    @property
    def num_corrupt(self) -> int:
        """Number of corrupt records that this process has replaced so far."""
        return len(self._corrupt)

    def stream(self, first_step: int = 0) -> Iterator[list[PretrainingBatch]]:
        """Yield the micro-batches of each step from ``first_step`` on, without end.

        Raises:
            DataError: a record is corrupt, and ``skip_corrupt`` is not set.
        """
        first = first_step * self.examples_per_step
        starts = range(first, sys.maxsize - self.examples_per_step, self.examples_per_step)
        parts = _StepDataset(self._dataset, self._config, self._rank, self._world_size)
        steps = iter(_load(parts, starts, self._config))
        while True:
            begin = time.perf_counter()
            step = next(steps)
            self.wait.seconds += time.perf_counter() - begin
            self.wait.steps += 1
            yield _unpack(step, self._corrupt)


def evaluation_batches(
    collection: RecordCollection,
    masker: Masker,
    config: PretrainBatchConfig,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[PretrainingBatch]:
    """Yield every record once, divided among the processes, with the same masks in every run.

    All processes get the same number of batches: the last ones are smaller, and dummies where
    there are no records left. Seed and shuffling of ``config.dataset`` and ``grad_accum`` are
    ignored.

    Raises:
        DataError: a record is corrupt, and ``skip_corrupt`` is not set.
    """
    order = replace(config.dataset, seed=_EVALUATION_SEED, shuffle=False)
    config = replace(config, grad_accum=1, dataset=order)
    dataset = MaskedDataset(collection, masker, order)
    parts = _StepDataset(dataset, config, rank, world_size, stop=len(dataset))
    starts = range(0, len(dataset), config.batch_size * world_size)
    warned: set[str] = set()
    for step in _load(parts, starts, config):
        yield from _unpack(step, warned)


class _StepDataset(Dataset):
    """Map-style dataset of one process's part of each step, indexed by the step's first position.

    ``stop`` is the number of positions; a step that would exceed it is smaller.
    """

    def __init__(
        self,
        dataset: MaskedDataset,
        config: PretrainBatchConfig,
        rank: int,
        world_size: int,
        stop: int = sys.maxsize,
    ) -> None:
        self._dataset, self._rank, self._world_size = dataset, rank, world_size
        self._step = config.batch_size * config.grad_accum * world_size
        self._grad_accum, self._stop = config.grad_accum, stop

    def __getitem__(self, start: int) -> LoadedStep:
        """Return every ``world_size``-th record of each micro-step."""
        positions = np.arange(start, min(start + self._step, self._stop))
        batches: list[PretrainingBatch] = []
        try:
            for micro_step in np.array_split(positions, self._grad_accum):
                mine = micro_step[self._rank :: self._world_size]
                masked = self._dataset.read(mine if len(mine) else micro_step[:1])
                batches.append(PretrainingBatch.from_arrays(masked, is_dummy=not len(mine)))
        except FunnelError as error:
            # Returned instead of raised: an exception in a worker arrives with the worker's
            # traceback in its message, and user errors are one line.
            return batches, error
        return batches, None


def _load(parts: _StepDataset, starts: range, config: PretrainBatchConfig) -> Iterable[LoadedStep]:
    if config.num_workers == 0 and not config.pin_memory:
        return map(parts.__getitem__, starts)
    return DataLoader(
        parts,
        batch_size=None,
        sampler=starts,
        num_workers=config.num_workers,
        prefetch_factor=_PREFETCH_STEPS if config.num_workers else None,
        pin_memory=config.pin_memory,
        worker_init_fn=ignore_stop_signals,
        # The loader draws a seed from its generator; the global one would change the dropout.
        generator=torch.Generator(),
    )


def _unpack(step: LoadedStep, warned: set[str]) -> list[PretrainingBatch]:
    """Return the micro-batches of a step; warn once about each corrupt record.

    Raises:
        FunnelError: the error that ended the step.
    """
    batches, error = step
    for message in (message for batch in batches for message in batch.corrupt):
        if message not in warned:
            warned.add(message)
            logger.warning("%s; replaced by the next good record", message)
    if error is not None:
        raise error
    return batches
