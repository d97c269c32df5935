"""Examples into batches: by length, in an order that a seed fixes, for any number of processes.

The unit of planning is the *step*: all examples of one optimizer update, whatever number of
processes and micro-steps share them. So the order of examples, and with it the loss curve, depends
on the effective batch size alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from funnel.config.geometry import bucket_length
from funnel.config.model import ModelConfig
from funnel.features.classification import Features, pad_batch
from funnel.utils.errors import ConfigError, DataError
from funnel_torch.data.config import BatchConfig

# Examples are sorted by length within this many steps: enough that a batch is of nearly one
# length, few enough that neighbours in the file still meet different batches every epoch.
_STEPS_PER_POOL = 50


class ExampleSource(Protocol):
    """Examples that can be put into batches of keyword arguments for a model."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of every example, int [n]."""
        ...

    def collate(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The named examples as padded arrays, first dimension ``len(indices)``."""
        ...


@dataclass(frozen=True)
class SequenceSource:
    """Encoded texts, padded no longer than the model needs to see them as at ``max_length``.

    ``length_step`` rounds padded lengths up to its multiples: few different shapes for a compiler,
    at the price of computing on padding.
    """

    features: Features
    config: ModelConfig
    max_length: int
    pad_id: int
    segment_pad: int = 0
    length_step: int = 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of every example, [n]."""
        return self.features.lengths

    def collate(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """input_ids, attention_mask and token_type_ids [B, T]; labels [B] where known."""
        longest = int(self.lengths[indices].max())
        length = padded_length(longest, self.max_length, self.config, self.length_step)
        return pad_batch(self.features, indices, length, self.pad_id, self.segment_pad)


class Paddable(Protocol):
    """Examples that know how to become arrays of a given length."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of every example, int [n]."""
        ...

    def pad(self, indices: np.ndarray, length: int, pad_id: int) -> dict[str, np.ndarray]:
        """The named examples, padded to ``length``."""
        ...


@dataclass(frozen=True)
class PaddedSource:
    """Examples of several sequences (RACE) or with positions in them (SQuAD) as batches.

    Lengths are chosen as in :class:`SequenceSource`, but are ``min_length`` at least.
    """

    features: Paddable
    config: ModelConfig
    max_length: int
    pad_id: int
    length_step: int = 1
    min_length: int = 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of every example, [n]."""
        return self.features.lengths

    def collate(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """What the features make of the examples, padded no longer than needed."""
        longest = max(int(self.lengths[indices].max()), min(self.min_length, self.max_length))
        length = padded_length(longest, self.max_length, self.config, self.length_step)
        return self.features.pad(indices, length, self.pad_id)


def padded_length(longest: int, max_length: int, config: ModelConfig, step: int) -> int:
    """What to pad a batch to: as short as the model allows, then up to a multiple of ``step``."""
    length = bucket_length(longest, max_length, config)
    return min(-(-length // step) * step, max_length)


class MicroBatch(NamedTuple):
    """What one process computes at once.

    ``inputs`` are the model's keyword arguments: tensors, or structures with a method ``to``.
    ``share`` is the number of its examples divided by that of the whole step: the weight of its
    mean loss in the step's mean loss, over all micro-steps and processes.
    """

    inputs: dict[str, Any]
    share: float


class Batches(Protocol):
    """The micro-batches of one process, in steps; what the training loop needs to know of them."""

    @property
    def examples_per_step(self) -> int:
        """Examples of one optimizer step, over all processes."""
        ...

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass over the data."""
        ...

    def stream(self, first_step: int = 0) -> Iterator[list[MicroBatch]]:
        """The steps from ``first_step`` on, without end."""
        ...


class TrainBatches:
    """The micro-batches of one process, step by step, for ever."""

    def __init__(
        self, source: ExampleSource, config: BatchConfig, rank: int = 0, world_size: int = 1
    ) -> None:
        if len(source.lengths) == 0:
            raise DataError("the training data holds no examples")
        self._source = source
        self._config = config
        self._rank, self._world_size = rank, world_size
        self.examples_per_step = config.batch_size * config.grad_accum * world_size
        self.steps_per_epoch = -(-len(source.lengths) // self.examples_per_step)

    def plan(self, epoch: int) -> list[np.ndarray]:
        """The example indices of every step of an epoch; each example occurs once.

        A function of the seed, the epoch, the lengths and ``examples_per_step`` only.
        """
        size = self.examples_per_step
        random = np.random.default_rng((self._config.seed, epoch))
        order = random.permutation(len(self._source.lengths))
        if not self._config.by_length:
            return [order[i : i + size] for i in range(0, len(order), size)]
        steps: list[np.ndarray] = []
        for start in range(0, len(order), size * _STEPS_PER_POOL):
            pool = order[start : start + size * _STEPS_PER_POOL]
            pool = pool[np.argsort(self._source.lengths[pool], kind="stable")]
            steps += [pool[i : i + size] for i in range(0, len(pool), size)]
        return [steps[i] for i in random.permutation(len(steps))]

    def micro_batches(self, step: np.ndarray) -> list[MicroBatch]:
        """This process's part of a step: every ``world_size``-th example of each micro-step."""
        parts = np.array_split(step, min(self._config.grad_accum, len(step)))
        batches = []
        for part in parts:
            mine = part[self._rank :: self._world_size]
            # A process that is left without an example still has to take part in the gradient
            # exchange: it computes one that does not count.
            indices = mine if len(mine) else part[:1]
            batches.append(MicroBatch(self._tensors(indices), len(mine) / len(step)))
        return batches

    def stream(self, first_step: int = 0) -> Iterator[list[MicroBatch]]:
        """The steps from ``first_step`` on, epoch after epoch."""
        epoch, skip = divmod(first_step, self.steps_per_epoch)
        while True:
            yield from self._load(self.plan(epoch)[skip:])
            epoch, skip = epoch + 1, 0

    def _load(self, steps: list[np.ndarray]) -> Iterator[list[MicroBatch]]:
        if self._config.num_workers == 0:
            return map(self.micro_batches, steps)
        # An own generator: the loader draws from it, and must not disturb that of the dropout.
        return iter(
            DataLoader(
                _Steps(self, steps),
                batch_size=None,
                num_workers=self._config.num_workers,
                generator=torch.Generator(),
            )
        )

    def _tensors(self, indices: np.ndarray) -> dict[str, Tensor]:
        return as_tensors(self._source.collate(indices))


class _Steps(Dataset):
    """What worker processes index."""

    def __init__(self, batches: TrainBatches, steps: list[np.ndarray]) -> None:
        self._batches, self._steps = batches, steps

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, index: int) -> list[MicroBatch]:
        return self._batches.micro_batches(self._steps[index])


def evaluation_plan(
    lengths: np.ndarray, batch_size: int, rank: int = 0, world_size: int = 1
) -> list[np.ndarray]:
    """The batches of one process: all processes together see each example exactly once.

    Longest first, so that memory runs out at once or never.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size={batch_size}: must be at least 1")
    order = np.argsort(-lengths, kind="stable")
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    return batches[rank::world_size]


def as_tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """The same arrays as CPU tensors, without a copy."""
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def to_device(inputs: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The same tensors (or structures that know ``to``) on ``device``."""
    return {name: value.to(device, non_blocking=True) for name, value in inputs.items()}
