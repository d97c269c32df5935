"""Input pipelines with ``tf.data`` for fine-tuning and pretraining records.

Training reads an endless stream of full batches. Every epoch has its own order of files; several
files are read in parallel, and a shuffle buffer holds serialized records, so memory does not grow
with the data. The content of a batch depends on seed and step only: a run that resumes at step k
skips the records of k steps and needs no other saved state. Evaluation reads every record once, in
order, and fills up the last batch with padding examples.

With several hosts, each reads its part of the records. :func:`report_corrupt_records` turns
TensorFlow's errors about records into messages that name the file, the record and the feature.

The records keep the names of the original, among them ``input_mask`` with 1 for padding. Parsing
converts them to the ones used everywhere else: ``attention_mask`` with 1 for a real token, and
``token_type_ids`` for segment ids.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf

from funnel.features.record_schema import RecordSchema, padding_example, pretraining_schema
from funnel.features.tfrecords import find_corrupt_record
from funnel.formats.indexed_tfrecord import check_count
from funnel.formats.tfrecord import encode_example
from funnel.pretraining.masking import Masker
from funnel.pretraining.record_index import RecordCollection
from funnel.utils.errors import ConfigError, DataError
from funnel_tf.data.masking import GraphRecords, mask_records, sample_randoms
from funnel_tf.data.parsing import ASSERTION, Features, parse_records

PRETRAIN_SHUFFLE = 8192  # records; about 20 MB at 512 tokens
_FILES_AT_A_TIME = 16
_BLOCK = 8  # records read from a file before the next file
_LAST_EPOCH = 1 << 62
_READ_BUFFER = 1 << 20  # bytes
_CARDINALITY = "Input dataset was expected to contain"  # TensorFlow's words for a wrong number
# Bytes of the record in the text may end it before the iterator is named.
_READ_WORDS = ("Iterator", "Could not parse example")
_READ_ERRORS = (
    tf.errors.DataLossError,
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.FailedPreconditionError,  # another number of records than expected
)

# The mapped functions have no Python control flow over tensors, and AutoGraph takes seconds.
_without_autograph = tf.autograph.experimental.do_not_convert

Params = Mapping[str, Any]
# TPUEstimator finds the argument by its name, "params".
InputFn = Callable[[Params], tf.data.Dataset]


@dataclass(frozen=True)
class InputConfig:
    """Order of the records.

    Attributes:
        is_training: endless and shuffled; otherwise every record once, in order.
        shuffle_buffer: records in the shuffle buffer.
        seed: seed of the order and of the masks.
        deterministic: the same order on every machine; False lets a file that is read fast
            overtake others.
        start_step: number of steps done before; their records are skipped.
        examples_per_step: examples of a step that this host's pipeline yields.
        shard_files: every host reads its own files if there are enough; False lets every host
            read all files, each in its own order.
    """

    is_training: bool
    shuffle_buffer: int = 2048
    seed: int = 0
    deterministic: bool = True
    start_step: int = 0
    examples_per_step: int = 1
    shard_files: bool = True

    def __post_init__(self) -> None:
        for key, least in (("shuffle_buffer", 1), ("start_step", 0), ("examples_per_step", 1)):
            if getattr(self, key) < least:
                raise ConfigError(f"{key}: {getattr(self, key)} should be at least {least}")


class _Host(NamedTuple):
    """Index of this input pipeline among ``count``."""

    index: int
    count: int


def num_batches(examples: int, batch_size: int) -> int:
    """Return the number of batches for all examples, including a partly filled last one."""
    return -(-examples // batch_size)


def finetune_input_fn(
    files: Sequence[tuple[str, int]], schema: RecordSchema, config: InputConfig
) -> InputFn:
    """Make an ``input_fn`` for fine-tuning records.

    Args:
        files: TFRecord files, and how many records each holds.
        schema: features of the records.
        config: their order.

    Returns:
        A function of ``params`` (``batch_size`` = B, optionally ``context``) whose dataset yields
        all features by name, int32 or float32 [B, ...], renamed as in the module docstring.
    """
    return partial(_finetune_dataset, tuple(files), schema, config)


def pretrain_input_fn(collection: RecordCollection, masker: Masker, config: InputConfig) -> InputFn:
    """Make an ``input_fn`` for pretraining records, with new masks in every epoch.

    Evaluation uses the same masks every time. The examples that fill up its last batch consist of
    padding and have no targets.

    Returns:
        As :func:`finetune_input_fn`; the features are those of
        :func:`funnel_tf.data.masking.mask_records`.
    """
    return partial(_pretrain_dataset, collection, masker, config)


@contextlib.contextmanager
def report_corrupt_records(
    files: Sequence[str], schema: RecordSchema, counts: Sequence[int] = ()
) -> Iterator[None]:
    """Turn TensorFlow's error about a record into a DataError with its file and number.

    TensorFlow's message names neither, so the files are read again after such an error.

    Args:
        files: the files of the pipeline in the body.
        schema: features of their records.
        counts: how many records each file should hold.
    """
    try:
        yield
    except UnicodeDecodeError as e:
        # TensorFlow puts bytes of a record into its message, which then is no text.
        raise _find_error(files, schema, counts, "") or e from None
    except _READ_ERRORS as e:
        # Most of them also come from the model's own operations, with other words in their text.
        if not (isinstance(e, tf.errors.DataLossError) or any(w in str(e) for w in _READ_WORDS)):
            raise
        error = _find_error(files, schema, counts, str(e))
        if error is None:
            raise
        raise error from None


def _find_error(
    files: Sequence[str], schema: RecordSchema, counts: Sequence[int], text: str
) -> DataError | None:
    """Return the error of the first corrupt record or file; ``text`` is TensorFlow's."""
    there = [file for file in files if os.path.exists(file)]
    if (error := find_corrupt_record(there, schema)) is not None:
        return error
    try:
        for file, count in zip(files, counts, strict=False):
            check_count(file, count)
    except DataError as wrong:
        return wrong
    if ASSERTION in text:
        return DataError(_extract_assertion(text))
    if _CARDINALITY in text:
        return DataError(f"{files[0]} …: {text[text.find(_CARDINALITY) :].splitlines()[0]}")
    return None


def _extract_assertion(text: str) -> str:
    """Return the message of an assertion of this package within TensorFlow's error text."""
    line = next(line for line in text.splitlines() if ASSERTION in line)
    return line[line.find(ASSERTION) :].replace("] [", " ").strip(" ]'\"")


def _finetune_dataset(
    files: Sequence[tuple[str, int]], schema: RecordSchema, config: InputConfig, params: Params
) -> tf.data.Dataset:
    batches = _serialized_batches(files, padding_example(schema), config, params)
    return _map_batches(batches, partial(_parse_batch, schema, params["batch_size"]), config)


def _pretrain_dataset(
    collection: RecordCollection, masker: Masker, config: InputConfig, params: Params
) -> tf.data.Dataset:
    length = masker.config.seq_len
    padding = padding_example(pretraining_schema(length))
    padding |= {"input": np.full(length, masker.special.pad_id), "boundary": np.array([length])}
    files = [(str(file.path), file.num_example) for file in collection.files]
    batches = _serialized_batches(files, padding, config, params)
    size, host = params["batch_size"], _get_host(params)
    return _map_batches(batches, partial(_mask_batch, masker, config, host, size), config)


def _parse_batch(
    schema: RecordSchema, size: int, index: tf.Tensor, serialized: tf.Tensor
) -> Features:
    """Parse ``size`` = B serialized fine-tuning records; ``index`` of the batch is not used."""
    return parse_records(schema, size, serialized)


def _mask_batch(
    masker: Masker,
    config: InputConfig,
    host: _Host,
    size: int,
    index: tf.Tensor,
    serialized: tf.Tensor,
) -> Features:
    """Parse and mask ``size`` = B serialized pretraining records; ``index`` counts batches."""
    schema = pretraining_schema(masker.config.seq_len, len(masker.is_text))
    records = parse_records(schema, size, serialized)
    # One number per batch over all hosts. Evaluation counts down from -1, so that its masks are
    # independent of those in training with the same seed.
    number = index * host.count + host.index
    number = number if config.is_training else -1 - number
    seed = tf.stack([tf.constant(config.seed, tf.int64), number])
    randoms = sample_randoms(masker.config, size, seed)
    with tf.control_dependencies(_check_records(records, masker)):
        input_ids = tf.identity(records["input"])
    masked = GraphRecords(input_ids, records["token_type_ids"], records["boundary"])
    return mask_records(masker, masked, randoms)


def _get_host(params: Params) -> _Host:
    context = params.get("context")
    if context is None:
        return _Host(0, 1)
    _, index, count, _ = context.current_input_fn_deployment()
    return _Host(index, count)


def _serialized_batches(
    files: Sequence[tuple[str, int]],
    padding: Mapping[str, np.ndarray],
    config: InputConfig,
    params: Params,
) -> tf.data.Dataset:
    """Yield the index of a batch and its serialized records [B].

    The example ``padding`` fills up the last batch of an evaluation.
    """
    size, host = params["batch_size"], _get_host(params)
    if config.is_training:
        done = config.start_step * config.examples_per_step
        records = _endless_records(files, config, host, done)
        return records.batch(size, drop_remainder=True).enumerate(done // size)
    records = tf.data.TFRecordDataset([path for path, _ in files], buffer_size=_READ_BUFFER)
    records = _counted(records, sum(count for _, count in files))
    # Every host reads the batches of all hosts and takes its part, so that all of them have the
    # same number: a host that stopped earlier would block the collectives of the others.
    batches = records.batch(size * host.count)
    example = encode_example({name: value.ravel() for name, value in padding.items()})
    return batches.map(_without_autograph(partial(_take_part, size, host, example))).enumerate()


def _counted(records: tf.data.Dataset, number: int) -> tf.data.Dataset:
    """Make another number of records than ``number`` an error.

    Without it, an evaluation of too few records would pass, and an endless stream of epochs without
    records would search for one for ever.
    """
    return records.apply(tf.data.experimental.assert_cardinality(number))


def _take_part(size: int, host: _Host, padding: bytes, serialized: tf.Tensor) -> tf.Tensor:
    """Fill up a batch of all hosts with ``padding`` and return the records of this host [size]."""
    lacking = size * host.count - tf.size(serialized)
    full = tf.concat([serialized, tf.repeat(tf.constant(padding), lacking)], 0)
    return full[size * host.index : size * (host.index + 1)]


@dataclass(frozen=True)
class _EpochReader:
    """Reads the records of one host for any epoch.

    Attributes:
        files: the files to read.
        num_records: records of an epoch that this host yields.
        num_read: records of an epoch in ``files``.
        shard: take every ``shard.count``-th record; None takes all.
        config: the order.
        seed: of the order.
        done: records of the stream to skip.
    """

    files: tuple[str, ...]
    num_records: int
    num_read: int
    shard: _Host | None
    config: InputConfig
    seed: int
    done: int

    def read(self, epoch: tf.Tensor) -> tf.data.Dataset:
        """Yield the serialized records of epoch number ``epoch``, in the order of that epoch.

        Stateless random operations make the order a function of seed and epoch, so ``skip`` finds
        the place of any step. It comes before parsing, and discards bytes only.
        """
        pair = tf.random.stateless_uniform([2], [self.seed, epoch], 0, 1 << 62, tf.int64)
        order = tf.argsort(tf.random.stateless_uniform([len(self.files)], pair))
        names = tf.gather(tf.constant(self.files), order)
        records = tf.data.Dataset.from_tensor_slices(names).interleave(
            partial(tf.data.TFRecordDataset, buffer_size=_READ_BUFFER),
            cycle_length=min(_FILES_AT_A_TIME, len(self.files)),
            block_length=_BLOCK,
            num_parallel_calls=tf.data.AUTOTUNE,
            # Hosts that share files must see the same order to divide the records.
            deterministic=self.config.deterministic or self.shard is not None,
        )
        records = _counted(records, self.num_read)
        if self.shard is not None:
            records = records.shard(self.shard.count, self.shard.index)
        buffer = min(self.config.shuffle_buffer, self.num_records)
        records = records.shuffle(buffer, pair[0] % (1 << 31), reshuffle_each_iteration=False)
        is_first = tf.cast(tf.equal(epoch, self.done // self.num_records), tf.int64)
        return records.skip(is_first * (self.done % self.num_records))


def _endless_records(
    files: Sequence[tuple[str, int]], config: InputConfig, host: _Host, done: int
) -> tf.data.Dataset:
    """Yield serialized records, epoch after epoch, without the first ``done`` ones."""
    by_file = config.shard_files and len(files) >= host.count
    own = list(files[host.index :: host.count] if by_file else files)
    count = num_read = sum(records for _, records in own)
    by_record = config.shard_files and not by_file
    if by_record:
        count = len(range(host.index, count, host.count))
    if not count:
        part = f" for host {host.index} of {host.count}" if num_read or by_file else ""
        raise DataError(f"the record files hold no examples to train on{part}")
    seed = config.seed if config.shard_files else config.seed + 1000003 * host.index
    paths = tuple(path for path, _ in own)
    shard = host if by_record else None
    reader = _EpochReader(paths, count, num_read, shard, config, seed, done)
    epochs = tf.data.Dataset.range(done // count, _LAST_EPOCH)
    return epochs.flat_map(_without_autograph(reader.read))


def _map_batches(
    batches: tf.data.Dataset, function: partial[Features], config: InputConfig
) -> tf.data.Dataset:
    """Apply ``function`` to several batches in parallel and prefetch the results."""
    mapped = batches.map(_without_autograph(function), num_parallel_calls=tf.data.AUTOTUNE)
    options = tf.data.Options()
    options.deterministic = config.deterministic or not config.is_training
    return mapped.prefetch(tf.data.AUTOTUNE).with_options(options)


def _check_records(records: Features, masker: Masker) -> list[tf.Operation]:
    """Return assertions that the word boundaries of pretraining records ascend."""
    if not masker.config.by_words:
        return []
    edges, length = records["boundary"], masker.config.seq_len
    rising = (edges[:, 1:] > edges[:, :-1]) | tf.equal(edges[:, 1:], length)
    message = f"{ASSERTION} word boundaries that do not rise"
    return [tf.debugging.Assert(tf.reduce_all(rising), [message])]
