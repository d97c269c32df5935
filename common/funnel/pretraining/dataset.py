"""The endless stream of masked examples that pretraining reads: in what order, and from where.

The order is arithmetic on record counts: position p of the stream is a record of a file in an
epoch, whoever asks. So nothing of it belongs into a checkpoint but the number of steps made, any
number of processes and workers see one stream, and only the records that are asked for are read.

Within an epoch the files, in random order and from a random record on, are cut into ``interleave``
lanes of equal length. A window is a stretch of ``shuffle_buffer`` records, an equal part from every
lane, and is permuted. So a batch mixes distant texts while the disk is read lane by lane.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from funnel.config.pretraining import StreamConfig
from funnel.formats.indexed_tfrecord import OpenFiles
from funnel.formats.protobuf_wire import WireError
from funnel.formats.tfrecord import decode_example
from funnel.pretraining.masking import MaskedBatch, Masker, record_generator
from funnel.pretraining.record_index import RecordCollection
from funnel.utils.errors import ConfigError, DataError

_OPEN_FILES = 64  # at most, of one process
_DAMAGED_IN_A_ROW = 1000  # as many replacements are looked for before giving up


class RecordLocations(NamedTuple):
    """Where the records of n positions lie, int64 [n] each.

    Attributes:
        epoch: how often the whole collection was read before.
        file: number of the file in the collection.
        index: number of the record in the file.
        number: number of the record in the whole collection.
    """

    epoch: np.ndarray
    file: np.ndarray
    index: np.ndarray
    number: np.ndarray


class RecordOrder:
    """The endless order of records in files with ``counts`` records; it keeps no state.

    Positions 0 .. N-1 are the N records in the order of epoch 0, N .. 2N-1 those of epoch 1, ...
    """

    def __init__(self, counts: np.ndarray, config: StreamConfig) -> None:
        self._counts = np.asarray(counts, np.int64)
        self._ends = np.cumsum(self._counts)
        self._size = int(self._ends[-1]) if len(self._ends) else 0
        if not self._size:
            raise DataError("the record files hold no records")
        self._config = config
        self._part = config.shuffle_buffer // config.interleave  # of a lane in each window
        # Batches are asked for in order, so what was computed for the last one is of use again.
        self._window = lru_cache(maxsize=2)(self._window_numbers)
        self._epoch = lru_cache(maxsize=2)(self._epoch_order)

    def __len__(self) -> int:
        return self._size

    def __reduce__(self) -> tuple[type[RecordOrder], tuple[np.ndarray, StreamConfig]]:
        return RecordOrder, (self._counts, self._config)  # without what is cached

    def places(self, positions: np.ndarray) -> RecordLocations:
        """The records at some positions of the stream, int64 [n], in any order."""
        epoch, rest = np.divmod(np.asarray(positions, np.int64), self._size)
        number = rest.copy()
        if self._config.shuffle:
            window, within = np.divmod(rest, self._part * self._config.interleave)
            for key in sorted(set(zip(epoch.tolist(), window.tolist(), strict=True))):
                here = (epoch == key[0]) & (window == key[1])
                number[here] = self._window(*key)[within[here]]
        file = np.searchsorted(self._ends, number, side="right")
        index = number - (self._ends - self._counts)[file]
        return RecordLocations(epoch, file, index, number)

    def _window_numbers(self, epoch: int, window: int) -> np.ndarray:
        """The numbers of the records of a window in the order of the stream, int64 [w].

        Lanes differ in length by one at most, so all windows but the last are full.
        """
        lanes = np.arange(self._config.interleave)
        base, longer = divmod(self._size, self._config.interleave)
        starts, sizes = lanes * base + np.minimum(lanes, longer), base + (lanes < longer)
        first, last = (np.minimum(self._part * (window + i), sizes) for i in (0, 1))
        line = np.concatenate([
            np.arange(start + a, start + b) for start, a, b in zip(starts, first, last, strict=True)
        ])  # fmt: skip
        files, shift = self._epoch(epoch)
        ends, firsts = np.cumsum(self._counts[files]), (self._ends - self._counts)[files]
        line = (line + shift) % self._size
        place = np.searchsorted(ends, line, side="right")
        number = line - (ends - self._counts[files])[place] + firsts[place]
        random = np.random.default_rng((self._config.seed, epoch, window + 1))
        return random.permutation(number)

    def _epoch_order(self, epoch: int) -> tuple[np.ndarray, int]:
        """The order of the files in an epoch, and the place the lanes are counted from."""
        random = np.random.default_rng((self._config.seed, epoch, 0))
        return random.permutation(len(self._counts)), int(random.integers(self._size))


class StreamBatch(NamedTuple):
    """Masked records of n positions.

    Attributes:
        masked: n records.
        noise_seeds: uint64 [n], seeds below 2^63 for what else is random about each record.
        damaged: what is wrong with each damaged record that was replaced.
    """

    masked: MaskedBatch
    noise_seeds: np.ndarray
    damaged: tuple[str, ...]


class _Example(NamedTuple):
    """The features of a record, and what to call it in messages."""

    name: str
    features: dict[str, np.ndarray]


_NO_EXAMPLE = _Example("", {})


class MaskedStream:
    """An endless stream of masked examples; it can be read from anywhere, and be pickled.

    Masks and noise depend on seed, epoch and record alone.
    """

    def __init__(self, collection: RecordCollection, masker: Masker, config: StreamConfig) -> None:
        if masker.config.seq_len != collection.seq_len:
            raise ConfigError(
                f"seq_len={masker.config.seq_len}: the records have {collection.seq_len} tokens"
            )
        self._collection, self._masker, self._config = collection, masker, config
        self._order = RecordOrder(collection.counts, config)
        self._files = OpenFiles(_OPEN_FILES, config.skip_corrupt)
        self._names = ("input", "seg_id", "boundary")[: 3 if masker.config.by_words else 2]

    def __len__(self) -> int:
        """Examples of an epoch."""
        return len(self._order)

    def read(self, positions: np.ndarray) -> StreamBatch:
        """Read and mask the records at some positions, which are int64 [n].

        Raises:
            DataError: a record is damaged, no example of ``seq_len`` tokens, or does not fit the
                vocabulary; names its file and number.
        """
        places = self._order.places(positions)
        damaged: list[str] = []
        examples: list[_Example] = [_NO_EXAMPLE] * len(positions)
        # By file and place in it: the disk then goes one way.
        for row in np.lexsort((places.index, places.file)):
            examples[row] = self._good_example(places, row, int(positions[row]), damaged)
        generators = [
            record_generator(self._config.seed, int(epoch), int(number))
            for epoch, number in zip(places.epoch, places.number, strict=True)
        ]
        try:
            masked = self._mask(examples, generators)
        except DataError:
            self._blame(examples, generators)
            raise
        seeds = [generator.integers(1 << 63, dtype=np.uint64) for generator in generators]
        return StreamBatch(masked, np.array(seeds, np.uint64), tuple(damaged))

    def _mask(
        self, examples: Sequence[_Example], generators: Sequence[np.random.Generator]
    ) -> MaskedBatch:
        inputs, seg_ids, *boundaries = (
            [example.features[name] for example in examples] for name in self._names
        )
        edges = boundaries[0] if boundaries else None
        return self._masker.mask(np.stack(inputs), np.stack(seg_ids), edges, generators)

    def _blame(
        self, examples: Sequence[_Example], generators: Sequence[np.random.Generator]
    ) -> None:
        """Raise the error of the one record that cannot be masked, with its name."""
        for example, generator in zip(examples, generators, strict=True):
            try:
                self._mask([example], [generator])
            except DataError as error:
                raise DataError(f"{example.name}: {error}") from None

    def _good_example(
        self, places: RecordLocations, row: int, position: int, damaged: list[str]
    ) -> _Example:
        """The example at a place or, if damaged ones may be skipped, the next good one."""
        for following in range(position + 1, position + 1 + _DAMAGED_IN_A_ROW):
            file, index = int(places.file[row]), int(places.index[row])
            path, num_example = self._collection.files[file]
            records = self._files.get(path, num_example)
            try:
                return self._decode(f"{path}, record {index}", records.read(index))
            except DataError as error:
                if not self._config.skip_corrupt:
                    raise
                damaged.append(str(error))
            places, row = self._order.places(np.array([following])), 0
        raise DataError(f"{_DAMAGED_IN_A_ROW} records in a row are damaged: {damaged[-1]}")

    def _decode(self, name: str, data: bytes) -> _Example:
        try:
            features = decode_example(data, self._names)
        except WireError as error:
            raise DataError(f"{name}: no Example: it {error}") from None
        for key in self._names:
            values = features.get(key)
            if values is None or values.dtype != np.int64:
                raise DataError(f"{name}: it has no integers {key!r}")
            if key != "boundary" and len(values) != self._collection.seq_len:
                length = self._collection.seq_len
                raise DataError(f"{name}: {key!r} holds {len(values)} numbers, not {length}")
        return _Example(name, features)
