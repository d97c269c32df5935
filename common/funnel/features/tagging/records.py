"""Token-classification windows as TFRecord files that are reused while they match their source."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from funnel.features.record_files import ExampleFile
from funnel.features.record_schema import NO_TAG, tagging_schema
from funnel.features.tagging.splits import LoadedSplit
from funnel.features.tfrecords import (
    Batch,
    RecordOptions,
    RecordSource,
    iter_chunks,
    load_or_write,
    record_name,
    to_columns,
)

if TYPE_CHECKING:
    from funnel.tokenization import Tokenizer


def tagging_records(
    output_dir: str | os.PathLike[str],
    loaded: LoadedSplit,
    split: str,
    tokenizer: Tokenizer,
    length: int,
    num_labels: int,
    options: RecordOptions,
) -> ExampleFile:
    """Return the records of a split in ``output_dir``, written unless a matching file exists.

    Record i is window i of ``loaded.features``, unless the options change the order. Without tags,
    the words to be tagged have label 0.

    Args:
        output_dir: directory of the record files.
        loaded: the encoded sentences.
        split: its name.
        tokenizer: they were encoded with it.
        length: tokens per sequence.
        num_labels: number of tags.
        options: order and padding.

    Raises:
        FunnelError: the file cannot be written.
    """
    features, settings = loaded.features, asdict(options)
    del settings["overwrite"]
    key = {
        "task": "tagging",
        "split": split,
        "windows_sha256": _hash(loaded, num_labels),
        "tokenizer_sha256": tokenizer.fingerprint,
        "max_length": length,
        **settings,
    }
    schema = tagging_schema(length, num_labels, tokenizer.vocab_size, features.segments)

    def make_batches(source: RecordSource) -> Iterator[Batch]:
        source.report = loaded.report
        for part in iter_chunks(options.order(len(features))):
            batch = features.pad(part, length, tokenizer.special.pad_id)
            labels = features.label_pieces(part, length, NO_TAG)
            yield to_columns(batch) | {"label_ids": labels}

    path = Path(output_dir, record_name(tokenizer.path, length, f"tagging.{split}"))
    return load_or_write(path, schema, key, RecordSource(make_batches), options)


def _hash(loaded: LoadedSplit, num_labels: int) -> str:
    """Return a hash of everything in the records of a split."""
    features = loaded.features
    digest = hashlib.sha256(str(num_labels).encode())
    arrays = (features.input_ids, features.offsets, features.slots, features.word_ids)
    labels = np.empty(0) if features.labels is None else features.labels
    for array in (*arrays, features.positions, labels):
        digest.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()
