"""Length-bucketed batches for fine-tuning, in a seeded order, for any number of processes.

Batches are planned per *step*: all examples of an optimizer update, which are then divided among
processes and micro-steps. So the order of examples, and with it the loss curve, depends on the
effective batch size alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from funnel.config.geometry import bucket_length
from funnel.config.model import ModelConfig
from funnel.features.classification import Features, pad_batch
from funnel.utils.errors import ConfigError, DataError
from funnel.utils.interruption import ignore_stop_signals
from funnel_torch.data.config import BatchConfig

# Examples are sorted by length within pools of this many steps: enough that the lengths in a batch
# are similar, few enough that batches differ in every epoch.
_STEPS_PER_POOL = 50

# What a process computes at once: keyword arguments of the model (tensors, or structures of tensors
# with a method ``to``), and the weight of the resulting loss in the loss of the step. The mean loss
# of a micro-batch is weighted by its share of the targets of the step, so that the sum over all
# micro-steps and processes is the mean over the step.
MicroBatch = tuple[dict[str, Any], float]


class ExampleSource(Protocol):
    """Examples that can be collated to keyword arguments of a model."""

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of every example, int [n]."""
        ...

    @property
    def target_counts(self) -> np.ndarray | None:
        """Terms of every example in the mean loss of a batch, int [n]; None: one."""
        ...

    def collate(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Return the examples as padded arrays with first dimension ``len(indices)``."""
        ...


@dataclass(frozen=True)
class SequenceSource:
    """Encoded texts, padded to the shortest length that gives the results of ``max_length``.

    Attributes:
        features: the encoded examples.
        config: configuration of the model; pooling decides which lengths are equivalent.
        max_length: maximum number of tokens.
        pad_id: token id of padding.
        segment_pad: segment id of padding.
        length_step: lengths are rounded up to a multiple of it: fewer shapes to compile, more
            computation on padding.
    """

    features: Features
    config: ModelConfig
    max_length: int
    pad_id: int
    segment_pad: int = 0
    length_step: int = 1

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of every example, int [n]."""
        return self.features.lengths

    @property
    def target_counts(self) -> None:
        """None: one loss per example."""
        return None

    def collate(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Return input_ids, attention_mask and token_type_ids [B, T]; labels [B] if known."""
        longest = int(self.lengths[indices].max())
        length = padded_length(longest, self.max_length, self.config, self.length_step)
        return pad_batch(self.features, indices, length, self.pad_id, self.segment_pad)


@dataclass(frozen=True)
class ResampledSource:
    """Some examples of another source, each any number of times.

    Attributes:
        source: the examples.
        examples: numbers of those that this source consists of, in its order.
    """

    source: ExampleSource
    examples: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of every example, int [n]."""
        return self.source.lengths[self.examples]

    @property
    def target_counts(self) -> np.ndarray | None:
        """Terms of every example in the mean loss of a batch, int [n]; None: one."""
        counts = self.source.target_counts
        return None if counts is None else counts[self.examples]

    def collate(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Return the arrays of the source's examples."""
        return self.source.collate(self.examples[indices])


class Paddable(Protocol):
    """Examples that can be padded to a given length."""

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of every example, int [n]."""
        ...

    def pad(self, indices: np.ndarray, length: int, pad_id: int) -> dict[str, np.ndarray]:
        """Return the examples as arrays padded to ``length``."""
        ...


@dataclass(frozen=True)
class PaddedSource:
    """Examples of several sequences (RACE), with answer positions (SQuAD) or with tags.

    Lengths are chosen as in :class:`SequenceSource`, but are at least ``min_length``.
    ``target_counts`` is that of :class:`ExampleSource`.
    """

    features: Paddable
    config: ModelConfig
    max_length: int
    pad_id: int
    length_step: int = 1
    min_length: int = 1
    target_counts: np.ndarray | None = None

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of every example, int [n]."""
        return self.features.lengths

    def collate(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Return the arrays of the features, padded no longer than needed."""
        longest = max(int(self.lengths[indices].max()), min(self.min_length, self.max_length))
        length = padded_length(longest, self.max_length, self.config, self.length_step)
        return self.features.pad(indices, length, self.pad_id)


def padded_length(longest: int, max_length: int, config: ModelConfig, step: int) -> int:
    """Return the shortest padded length the model allows, rounded up to a multiple of ``step``."""
    length = bucket_length(longest, max_length, config)
    return min(-(-length // step) * step, max_length)


class Batches(Protocol):
    """The micro-batches of one process, step by step: the input of the training loop."""

    @property
    def examples_per_step(self) -> int:
        """Examples of one optimizer step, over all processes."""
        ...

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps per pass over the data."""
        ...

    @property
    def fingerprint(self) -> dict[str, int]:
        """What tells the data from others, saved in checkpoints; empty: it is not compared."""
        ...

    def stream(self, first_step: int = 0) -> Iterator[list[MicroBatch]]:
        """Yield the micro-batches of each step from ``first_step`` on, without end."""
        ...


class TrainBatches:
    """The endless micro-batches of one process, step by step."""

    def __init__(
        self, source: ExampleSource, config: BatchConfig, rank: int = 0, world_size: int = 1
    ) -> None:
        if len(source.lengths) == 0:
            raise DataError("the training data holds no examples")
        self._source, counts = source, source.target_counts
        self._counts = np.ones(len(source.lengths), np.int64) if counts is None else counts
        self._config = config
        self._rank, self._world_size = rank, world_size
        self.examples_per_step = config.batch_size * config.grad_accum * world_size
        self.steps_per_epoch = -(-len(source.lengths) // self.examples_per_step)

    @property
    def fingerprint(self) -> dict[str, int]:
        """Number of examples, and a checksum of their lengths, which decide their order."""
        lengths = np.ascontiguousarray(self._source.lengths, np.int64)
        return {"examples": len(lengths), "lengths": zlib.crc32(lengths.tobytes())}

    def plan(self, epoch: int) -> list[np.ndarray]:
        """Return the example indices of every step of an epoch; each example occurs once.

        A function of the seed, the epoch, the lengths and ``examples_per_step`` only.
        """
        size = self.examples_per_step
        rng = np.random.default_rng((self._config.seed, epoch))
        order = rng.permutation(len(self._source.lengths))
        if not self._config.by_length:
            return [order[i : i + size] for i in range(0, len(order), size)]
        steps: list[np.ndarray] = []
        for start in range(0, len(order), size * _STEPS_PER_POOL):
            pool = order[start : start + size * _STEPS_PER_POOL]
            pool = pool[np.argsort(self._source.lengths[pool], kind="stable")]
            steps += [pool[i : i + size] for i in range(0, len(pool), size)]
        return [steps[i] for i in rng.permutation(len(steps))]

    def micro_batches(self, step: np.ndarray) -> list[MicroBatch]:
        """Return this process's part: every ``world_size``-th example of each micro-step."""
        parts = np.array_split(step, min(self._config.grad_accum, len(step)))
        total = max(1, int(self._counts[step].sum()))
        batches: list[MicroBatch] = []
        for part in parts:
            mine = part[self._rank :: self._world_size]
            # A process without an example has to take part in the gradient exchange all the same:
            # it computes one with weight 0.
            indices = mine if len(mine) else part[:1]
            tensors = as_tensors(self._source.collate(indices))
            batches.append((tensors, int(self._counts[mine].sum()) / total))
        return batches

    def stream(self, first_step: int = 0) -> Iterator[list[MicroBatch]]:
        """Yield the micro-batches of each step from ``first_step`` on, epoch after epoch."""
        epoch, skip = divmod(first_step, self.steps_per_epoch)
        while True:
            yield from self._load(self.plan(epoch)[skip:])
            epoch, skip = epoch + 1, 0

    def _load(self, steps: list[np.ndarray]) -> Iterator[list[MicroBatch]]:
        if self._config.num_workers == 0:
            return map(self.micro_batches, steps)
        return iter(
            DataLoader(
                _StepDataset(self, steps),
                batch_size=None,
                num_workers=self._config.num_workers,
                worker_init_fn=ignore_stop_signals,
                # The loader draws a seed from its generator; the global one would change dropout.
                generator=torch.Generator(),
            )
        )


class _StepDataset(Dataset):
    """Map-style dataset of the steps of an epoch, for worker processes."""

    def __init__(self, batches: TrainBatches, steps: list[np.ndarray]) -> None:
        self._batches, self._steps = batches, steps

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, index: int) -> list[MicroBatch]:
        return self._batches.micro_batches(self._steps[index])


def evaluation_plan(
    lengths: np.ndarray, batch_size: int, rank: int = 0, world_size: int = 1
) -> list[np.ndarray]:
    """Return the example indices of the batches of one process.

    All processes together see each example exactly once. The longest examples come first, so that
    an out-of-memory error shows on the first batch.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size={batch_size}: must be at least 1")
    if not len(lengths):
        raise DataError("there are no examples to evaluate or predict")
    order = np.argsort(-lengths, kind="stable")
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    return batches[rank::world_size]


def as_tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Return the arrays as CPU tensors that share their memory."""
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def to_device(inputs: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Return the tensors (or structures with a method ``to``) on ``device``.

    A GPU copies from page-locked memory only without making this process wait.
    """

    def move(value: Any) -> Any:
        if device.type == "cuda" and isinstance(value, Tensor) and value.device.type == "cpu":
            value = value.pin_memory()
        return value.to(device, non_blocking=True)

    return {name: move(value) for name, value in inputs.items()}
