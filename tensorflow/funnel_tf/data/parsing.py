"""Serialized records to tensors: types, ranges and names of the features."""

from __future__ import annotations

from typing import Any

import tensorflow.compat.v1 as tf

from funnel.features.record_schema import RecordSchema

ASSERTION = "the records hold"  # first words of the messages about numbers in records

Features = dict[str, tf.Tensor]


def parse_records(schema: RecordSchema, size: int, serialized: tf.Tensor) -> Features:
    """Parse ``size`` = B serialized records to features [B, ...] and rename them.

    Numbers out of the range of their feature are an error of the session that runs the graph.
    """
    specs: dict[str, Any] = {}
    for name, spec in schema.fields.items():
        dtype = tf.float32 if spec.is_float else tf.int64
        fixed = tf.FixedLenFeature(spec.shape, dtype)
        specs[name] = tf.io.RaggedFeature(dtype) if spec.shape == (-1,) else fixed
    features = tf.io.parse_example(tf.reshape(serialized, [size]), specs)
    # Before the cast to int32, which would turn 2^32 + 10 into 10.
    with tf.control_dependencies(_check_ranges(schema, features)):
        features = {name: _identity(value) for name, value in features.items()}
    if "boundary" in features:  # pad with the length, which is also the last boundary
        length = schema.fields["input"].shape[0]
        features["boundary"] = features["boundary"].to_tensor(length, shape=[size, length + 1])
    for name in ("segment_ids", "seg_id"):
        if name in features:
            features["token_type_ids"] = features.pop(name)
    if "input_mask" in features:
        features["attention_mask"] = 1.0 - features.pop("input_mask")
    return {
        name: tf.cast(value, tf.int32) if value.dtype == tf.int64 else value
        for name, value in features.items()
    }


def _check_ranges(schema: RecordSchema, features: Features) -> list[tf.Operation]:
    """Return assertions that every feature holds valid numbers; features are as in the files."""
    checks = []
    for name, spec in schema.fields.items():
        is_ragged = spec.shape == (-1,)
        values = features[name].flat_values if is_ragged else features[name]
        low, high = (tf.constant(spec.dtype(limit)) for limit in spec.limits)
        # False for NaN too.
        fits = tf.reduce_all((values >= low) & (values <= high))
        message = f"{ASSERTION} {name} outside of {spec.expected}: from"
        found = [message, tf.reduce_min(values), "to", tf.reduce_max(values)]
        checks.append(tf.debugging.Assert(fits, found))
    return checks


def _identity(value: tf.Tensor | tf.RaggedTensor) -> tf.Tensor | tf.RaggedTensor:
    if isinstance(value, tf.RaggedTensor):
        return value.with_flat_values(tf.identity(value.flat_values))
    return tf.identity(value)
