"""Endless dataset of masked pretraining records with a stateless, resumable order.

The order of records is computed from their numbers, the seed and the epoch: position p of the
dataset is the same record for every process and worker, at any time. A checkpoint therefore needs
only the number of steps made, and only the requested records are read.

Within an epoch the files are concatenated in random order, rotated to start at a random record and
cut into ``interleave`` lanes of equal length. A window consists of ``shuffle_buffer`` records, an
equal share of consecutive records from every lane, and is permuted. A batch thus mixes distant
texts although each lane is read sequentially, and planning needs the memory of one window only.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from funnel.config.pretraining import DatasetConfig
from funnel.features.record_schema import pretraining_schema
from funnel.formats.indexed_tfrecord import OpenFiles
from funnel.formats.protobuf_wire import WireError
from funnel.formats.tfrecord import decode_example
from funnel.pretraining.masking import MaskedBatch, Masker, record_generator
from funnel.pretraining.record_index import RecordCollection
from funnel.utils.errors import ConfigError, DataError

_MAX_OPEN_FILES = 64  # per process
_MAX_CORRUPT_IN_A_ROW = 1000


class RecordLocations(NamedTuple):
    """Locations of the records at n positions of the order, int64 [n] each.

    Attributes:
        epoch: number of complete passes over the data before this record.
        file: number of the file in the collection.
        offset: number of the record in the file.
        number: number of the record in the collection.
    """

    epoch: np.ndarray
    file: np.ndarray
    offset: np.ndarray
    number: np.ndarray


class RecordOrder:
    """Stateless endless order of the records in files with ``counts`` records.

    Positions 0 to N-1 are the N records in the order of epoch 0, positions N to 2N-1 those of
    epoch 1, and so on.
    """

    def __init__(self, counts: np.ndarray, config: DatasetConfig) -> None:
        self._counts = np.asarray(counts, np.int64)
        self._ends = np.cumsum(self._counts)
        self._size = int(self._ends[-1]) if len(self._ends) else 0
        if not self._size:
            raise DataError("the record files hold no records")
        self._config = config
        self._per_lane = config.shuffle_buffer // config.interleave  # records of each window
        # Batches are requested in order, so a window usually serves the next batch too.
        self._window = lru_cache(maxsize=2)(self._window_numbers)
        self._epoch = lru_cache(maxsize=2)(self._epoch_order)

    def __len__(self) -> int:
        return self._size

    def __reduce__(self) -> tuple[type[RecordOrder], tuple[np.ndarray, DatasetConfig]]:
        return RecordOrder, (self._counts, self._config)  # without the caches

    def locate(self, positions: np.ndarray) -> RecordLocations:
        """Return the locations of the records at ``positions``, int64 [n] in any order."""
        epoch, rest = np.divmod(np.asarray(positions, np.int64), self._size)
        number = rest.copy()
        if self._config.shuffle:
            window, within = np.divmod(rest, self._per_lane * self._config.interleave)
            for key in sorted(set(zip(epoch.tolist(), window.tolist(), strict=True))):
                here = (epoch == key[0]) & (window == key[1])
                number[here] = self._window(*key)[within[here]]
        file = np.searchsorted(self._ends, number, side="right")
        offset = number - (self._ends - self._counts)[file]
        return RecordLocations(epoch, file, offset, number)

    def _window_numbers(self, epoch: int, window: int) -> np.ndarray:
        """Return the numbers of the records of a window in their order, int64 [w].

        The lengths of the lanes differ by at most one, so all windows but the last are full.
        """
        lanes = np.arange(self._config.interleave)
        base, longer = divmod(self._size, self._config.interleave)
        starts, sizes = lanes * base + np.minimum(lanes, longer), base + (lanes < longer)
        first, last = (np.minimum(self._per_lane * (window + i), sizes) for i in (0, 1))
        # Positions on the line of all records of the epoch: files in their random order, rotated.
        line = np.concatenate([
            np.arange(start + a, start + b) for start, a, b in zip(starts, first, last, strict=True)
        ])  # fmt: skip
        files, shift = self._epoch(epoch)
        line = (line + shift) % self._size
        # From the place on the line to the file that covers it, then to the record number.
        ends, firsts = np.cumsum(self._counts[files]), (self._ends - self._counts)[files]
        place = np.searchsorted(ends, line, side="right")
        number = line - (ends - self._counts[files])[place] + firsts[place]
        # Seed sequence (seed, epoch, 0) belongs to the epoch, (seed, epoch, w + 1) to window w.
        rng = np.random.default_rng((self._config.seed, epoch, window + 1))
        return rng.permutation(number)

    def _epoch_order(self, epoch: int) -> tuple[np.ndarray, int]:
        """Return the order of the files in an epoch and the record at which the lanes start."""
        rng = np.random.default_rng((self._config.seed, epoch, 0))
        return rng.permutation(len(self._counts)), int(rng.integers(self._size))


class _Example(NamedTuple):
    """The features of a record, and its name in error messages."""

    name: str
    features: dict[str, np.ndarray]


class MaskedDataset:
    """Endless dataset of masked records that can be read at any position, and be pickled.

    Masks and noise seeds depend on seed, epoch and record alone.

    Raises:
        ConfigError: the records do not have the length that the masker expects.
    """

    def __init__(self, collection: RecordCollection, masker: Masker, config: DatasetConfig) -> None:
        if masker.config.seq_len != collection.seq_len:
            raise ConfigError(
                f"seq_len={masker.config.seq_len}: the records have {collection.seq_len} tokens"
            )
        self._collection, self._masker, self._config = collection, masker, config
        self._order = RecordOrder(collection.counts, config)
        self._files = OpenFiles(_MAX_OPEN_FILES, config.skip_corrupt)
        self._names = ("input", "seg_id", "boundary")[: 3 if masker.config.by_words else 2]
        self._schema = pretraining_schema(collection.seq_len)

    def __len__(self) -> int:
        """Return the number of records per epoch."""
        return len(self._order)

    def read(self, positions: np.ndarray) -> MaskedBatch:
        """Read and mask the records at ``positions``, int64 [n].

        Raises:
            DataError: a record is corrupt, is not an example of ``seq_len`` tokens, or does not
                fit the vocabulary; the message names its file and number.
        """
        locations = self._order.locate(positions)
        corrupt: list[str] = []
        examples: dict[int, _Example] = {}
        # Ordered by file and offset, so that the disk is read in one direction.
        for row in np.lexsort((locations.offset, locations.file)).tolist():
            examples[row] = self._valid_example(locations, row, int(positions[row]), corrupt)
        in_order = [examples[row] for row in range(len(positions))]
        # The generator belongs to the location: a replacement record gets the masks of the
        # corrupt one, whatever its own number is.
        generators = [
            record_generator(self._config.seed, int(epoch), int(number))
            for epoch, number in zip(locations.epoch, locations.number, strict=True)
        ]
        try:
            batch = self._mask(in_order, generators)
        except DataError:
            self._raise_named(in_order, generators)
            raise
        return batch._replace(corrupt=tuple(corrupt))

    def _mask(
        self, examples: Sequence[_Example], generators: Sequence[np.random.Generator]
    ) -> MaskedBatch:
        input_ids, token_type_ids, *boundaries = (
            [example.features[name] for example in examples] for name in self._names
        )
        edges = boundaries[0] if boundaries else None
        return self._masker.mask(np.stack(input_ids), np.stack(token_type_ids), edges, generators)

    def _raise_named(
        self, examples: Sequence[_Example], generators: Sequence[np.random.Generator]
    ) -> None:
        """Raise the error of the first record that cannot be masked, with the name of the record.

        The masker checks a batch at once and cannot tell which file a record comes from.
        """
        for example, generator in zip(examples, generators, strict=True):
            try:
                self._mask([example], [generator])
            except DataError as error:
                raise DataError(f"{example.name}: {error}") from None

    def _valid_example(
        self, locations: RecordLocations, row: int, position: int, corrupt: list[str]
    ) -> _Example:
        """Return the example at a location or, with ``skip_corrupt``, the next valid one.

        Error messages of skipped records are appended to ``corrupt``.
        """
        for following in range(position + 1, position + 1 + _MAX_CORRUPT_IN_A_ROW):
            file, offset = int(locations.file[row]), int(locations.offset[row])
            path, num_example = self._collection.files[file]
            records = self._files.get(path, num_example)
            try:
                return self._decode(f"{path}, record {offset}", records.read(offset))
            except DataError as error:
                if not self._config.skip_corrupt:
                    raise
                corrupt.append(str(error))
            locations, row = self._order.locate(np.array([following])), 0
        raise DataError(f"{_MAX_CORRUPT_IN_A_ROW} records in a row are corrupt: {corrupt[-1]}")

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
            if key != "input":  # the masker knows the vocabulary
                self._schema.fields[key].check_range(key, values, name)
        return _Example(name, features)
