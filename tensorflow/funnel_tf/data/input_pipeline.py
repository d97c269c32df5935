"""Input pipelines with ``tf.data``: fine-tuning records and pretraining records.

Training is an endless stream of whole batches: the files in an order drawn anew for every epoch,
several read at a time, through a shuffle buffer that holds serialized records, so memory does not
grow with the data. Seed and step decide what a batch holds: a run that continues at step k gets the
batches an uninterrupted one would have got, with nothing saved but k. An evaluation reads every
record once, in order; its last batch is filled up with fakes that count nowhere.

Every host of several reads its part. What is wrong with a record is said by :func:`damage_named`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf

from funnel.features.record_schema import RecordSchema, padding_example, pretraining_schema
from funnel.features.tfrecords import find_corrupt_record
from funnel.formats.tfrecord import encode_example
from funnel.pretraining.masking import Masker
from funnel.pretraining.record_index import RecordCollection
from funnel.utils.errors import ConfigError, DataError
from funnel_tf.data.masking import GraphRecords, mask_records, sample_randoms

PRETRAIN_SHUFFLE = 8192  # records; of 512 tokens they are about 20 MB
_FILES_AT_A_TIME = 16
_BLOCK = 8  # records read from a file before the next one has its turn
_LAST_EPOCH = 1 << 62
_OURS = "the records hold"  # how our own assertions begin

# Our functions hold no Python control flow over tensors; rewriting them takes seconds.
_plain = tf.autograph.experimental.do_not_convert

Params = Mapping[str, Any]
InputFn = Callable[[Params], tf.data.Dataset]


@dataclass(frozen=True)
class InputConfig:
    """In which order records come.

    Attributes:
        is_training: endless and shuffled; else every record once, in order.
        shuffle_buffer: records held at a time to draw the next one from.
        seed: of the order (and of masks).
        deterministic: the same records in the same order on every machine; False lets a fast file
            overtake a slow one.
        start_step: steps already made: the stream goes on behind them.
        examples_per_step: examples that this host's pipeline yields in a step.
        shard_files: a host reads files of its own, where there are enough; False lets every host
            read all of them, in an order of its own.
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
    """Which of how many input pipelines this one is."""

    index: int
    count: int


def num_batches(examples: int, batch_size: int) -> int:
    """Batches that hold all examples, the last one perhaps filled up with fakes."""
    return -(-examples // batch_size)


def finetune_input_fn(
    files: Sequence[tuple[str, int]], schema: RecordSchema, config: InputConfig
) -> InputFn:
    """Return an ``input_fn(params)`` of fine-tuning records.

    Args:
        files: TFRecord files and how many records each holds.
        schema: their features.
        config: the order.

    Returns:
        A function of ``params`` (``batch_size`` = B, perhaps ``context``), which gives batches of
        all features by name, int32 or float32 [B, ...].
    """

    def input_fn(params: Params) -> tf.data.Dataset:
        batches = _serialized_batches(files, padding_example(schema), config, params)
        parse = _parser(schema, params["batch_size"])
        return _mapped(batches, lambda _, serialized: parse(serialized), config)

    return input_fn


def pretrain_input_fn(collection: RecordCollection, masker: Masker, config: InputConfig) -> InputFn:
    """Return an ``input_fn(params)`` of pretraining records, masked anew every epoch.

    Evaluation draws the same masks every time. What fills up its last batch is padding throughout
    and has no targets.

    Returns:
        As :func:`finetune_input_fn`; the features are those of
        :func:`funnel_tf.data.masking.mask_records`.
    """
    length = masker.config.seq_len
    schema = pretraining_schema(length)
    padding = padding_example(schema)
    padding |= {"input": np.full(length, masker.special.pad_id), "boundary": np.array([length])}
    files = [(str(file.path), file.num_example) for file in collection.files]

    def input_fn(params: Params) -> tf.data.Dataset:
        size, host = params["batch_size"], _host(params)
        batches = _serialized_batches(files, padding, config, params)
        parse = _parser(schema, size)

        def mask(index: tf.Tensor, serialized: tf.Tensor) -> dict[str, tf.Tensor]:
            records = parse(serialized)
            number = index * host.count + host.index
            number = number if config.is_training else -1 - number
            seed = tf.stack([tf.constant(config.seed, tf.int64), number])
            draws = sample_randoms(masker.config, size, seed)
            with tf.control_dependencies(_checks(records, masker)):
                ids = tf.identity(records["input"])
            masked = GraphRecords(ids, records["seg_id"], records["boundary"])
            return mask_records(masker, masked, draws)

        return _mapped(batches, mask, config)

    return input_fn


@contextlib.contextmanager
def damage_named(files: Sequence[str], schema: RecordSchema) -> Iterator[None]:
    """Turn TensorFlow's error about a record into a DataError that names its file and number.

    The files are read again to find it, which happens only after such an error.
    """
    try:
        yield
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError, tf.errors.NotFoundError) as e:
        if not isinstance(e, tf.errors.DataLossError) and "Iterator" not in str(e):
            raise
        damage = find_corrupt_record([file for file in files if os.path.exists(file)], schema)
        if damage is None and _OURS in str(e):
            damage = DataError(_sentence(str(e)))
        if damage is None:
            raise
        raise damage from None


def _sentence(text: str) -> str:
    """The line of TensorFlow's message that is ours."""
    line = next(line for line in text.splitlines() if _OURS in line)
    return line[line.find(_OURS) :].replace("] [", " ").strip(" ]'\"")


def _host(params: Params) -> _Host:
    context = params.get("context")
    if context is None:
        return _Host(0, 1)
    _, index, count, _ = context.current_input_fn_deployment()
    return _Host(index, count)


def _serialized_batches(
    files: Sequence[tuple[str, int]],
    fake: Mapping[str, np.ndarray],
    config: InputConfig,
    params: Params,
) -> tf.data.Dataset:
    """Pairs of the number of a batch and its serialized records [B]; ``fake`` fills up the last."""
    size, host = params["batch_size"], _host(params)
    if config.is_training:
        done = config.start_step * config.examples_per_step
        records = _endless(files, config, host, done)
        return records.batch(size, drop_remainder=True).enumerate(done // size)
    whole = tf.data.TFRecordDataset([path for path, _ in files], buffer_size=1 << 20)
    # All hosts have as many batches: each takes its part of a batch for all of them.
    batches = whole.batch(size * host.count)
    fill = tf.constant(encode_example({name: value.ravel() for name, value in fake.items()}))

    def own_part(serialized: tf.Tensor) -> tf.Tensor:
        lacking = size * host.count - tf.size(serialized)
        full = tf.concat([serialized, tf.repeat(fill, lacking)], 0)
        return full[size * host.index : size * (host.index + 1)]

    return batches.map(_plain(own_part)).enumerate()


def _endless(
    files: Sequence[tuple[str, int]], config: InputConfig, host: _Host, done: int
) -> tf.data.Dataset:
    """Serialized records, epoch after epoch, without the ``done`` first ones."""
    by_file = config.shard_files and len(files) >= host.count
    own = list(files[host.index :: host.count] if by_file else files)
    count = sum(records for _, records in own)
    if not count:
        raise DataError("the record files hold no examples to train on")
    seed = config.seed if config.shard_files else config.seed + 1000003 * host.index
    by_record = config.shard_files and not by_file
    if by_record:
        count = max(1, len(range(host.index, count, host.count)))
    names = tf.constant([path for path, _ in own])

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        pair = tf.random.stateless_uniform([2], [seed, number], 0, 1 << 62, tf.int64)
        order = tf.argsort(tf.random.stateless_uniform([len(own)], pair))
        records = tf.data.Dataset.from_tensor_slices(tf.gather(names, order)).interleave(
            lambda name: tf.data.TFRecordDataset(name, buffer_size=1 << 20),
            cycle_length=min(_FILES_AT_A_TIME, len(own)),
            block_length=_BLOCK,
            num_parallel_calls=tf.data.AUTOTUNE,
            # Hosts that share files must agree on who reads what.
            deterministic=config.deterministic or by_record,
        )
        if by_record:
            records = records.shard(host.count, host.index)
        buffer = min(config.shuffle_buffer, count)
        records = records.shuffle(buffer, pair[0] % (1 << 31), reshuffle_each_iteration=False)
        is_first = tf.cast(tf.equal(number, done // count), tf.int64)
        return records.skip(is_first * (done % count))

    epochs = tf.data.Dataset.range(done // count, _LAST_EPOCH)
    return epochs.flat_map(_plain(epoch))


def _mapped(
    batches: tf.data.Dataset, function: Callable[..., Any], config: InputConfig
) -> tf.data.Dataset:
    """What ``function`` makes of every batch, several at a time, ahead of the model."""
    mapped = batches.map(_plain(function), num_parallel_calls=tf.data.AUTOTUNE)
    options = tf.data.Options()
    options.deterministic = config.deterministic or not config.is_training
    return mapped.prefetch(tf.data.AUTOTUNE).with_options(options)


def _parser(schema: RecordSchema, size: int) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """A function from ``size`` = B serialized records to features [B, ...]."""
    wanted: dict[str, Any] = {}
    for name, spec in schema.fields.items():
        dtype = tf.float32 if spec.is_float else tf.int64
        fixed = tf.FixedLenFeature(spec.shape, dtype)
        wanted[name] = tf.io.RaggedFeature(dtype) if spec.shape == (-1,) else fixed

    def parse(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        found = tf.io.parse_example(tf.reshape(serialized, [size]), wanted)
        if "boundary" in found:  # every place behind the last word is the end
            length = schema.fields["input"].shape[0]
            found["boundary"] = found["boundary"].to_tensor(length, shape=[size, length + 1])
        return {
            name: tf.cast(value, tf.int32) if value.dtype == tf.int64 else value
            for name, value in found.items()
        }

    return parse


def _checks(records: Mapping[str, tf.Tensor], masker: Masker) -> list[tf.Operation]:
    """Assertions that the records fit the vocabulary and that word boundaries are some."""
    ids, edges = records["input"], records["boundary"]
    fits = tf.reduce_all((ids >= 0) & (ids < len(masker.is_text)))
    message = (
        f"{_OURS} ids outside the vocabulary of {len(masker.is_text)}; use the one that they were "
        "made with: up to"
    )
    checks = [tf.debugging.Assert(fits, [message, tf.reduce_max(ids)])]
    if masker.config.by_words:
        length = masker.config.seq_len
        rising = (edges[:, 1:] > edges[:, :-1]) | tf.equal(edges[:, 1:], length)
        message = f"{_OURS} word boundaries that do not rise"
        checks.append(tf.debugging.Assert(tf.reduce_all(rising), [message]))
    return checks
