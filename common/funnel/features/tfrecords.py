"""Fine-tuning data as TFRecord files that are reused while they match their source.

``{name}.tfrecord.meta.json``, in the same directory as ``{name}.tfrecord``, records the number of
examples and everything that determines the records (data, vocabulary, case, lengths, ...). A file
whose description matches is reused, any other is rebuilt. SQuAD's files are written by
:mod:`funnel.features.squad_tfrecords`; schemas are in :mod:`funnel.features.record_schema`.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from funnel.features.class_balance import balance_examples
from funnel.features.classification import Features as EncodedTexts
from funnel.features.classification import SegmentIds, encode_examples, pad_batch, source_key
from funnel.features.race import RaceConfig, RaceFeatures, encode_race
from funnel.features.record_files import (
    FORMAT_VERSION,
    ExampleFile,
    load_recorded,
    meta_path,
    read_meta,
)
from funnel.features.record_schema import (
    RecordSchema,
    classifier_schema,
    padding_example,
    race_schema,
)
from funnel.formats.tfrecord import encode_example, read_examples, write_records_to
from funnel.tasks.base import Task
from funnel.tasks.race import LEVELS, read_race
from funnel.utils.errors import ConfigError, DataError
from funnel.utils.files import atomic_path, atomic_write_json
from funnel.utils.split_report import NO_REPORT, SplitReport
from funnel.utils.text_files import list_texts

if TYPE_CHECKING:
    from funnel.tokenization import Tokenizer

logger = logging.getLogger(__name__)

_CHUNK = 256  # examples padded at a time

Batch = Mapping[str, np.ndarray]


@dataclass
class RecordSource:
    """Data to be written as records.

    Attributes:
        batches: returns the data as columns [B, ...] by name, and sets ``report``. Called only if
            the file has to be written.
        report: what became of the data.
    """

    batches: Callable[[RecordSource], Iterable[Batch]]
    report: SplitReport = NO_REPORT


@dataclass(frozen=True)
class RecordOptions:
    """How a file is written.

    Attributes:
        overwrite: rebuild the file even if it matches.
        shuffle_seed: seed for shuffling the examples; ``None`` keeps their order.
        num_passes: copies of every example; each pass is shuffled differently.
        multiple: padding examples are added up to a multiple of this number.
        segments: segment ids.
        balanced: classification examples of rare labels are repeated until all are as frequent.
    """

    overwrite: bool = False
    shuffle_seed: int | None = None
    num_passes: int = 1
    multiple: int = 1
    segments: SegmentIds = field(default_factory=SegmentIds)
    balanced: bool = False

    def __post_init__(self) -> None:
        for key in ("num_passes", "multiple"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key}: {getattr(self, key)} should be at least 1")

    def order(self, count: int) -> np.ndarray:
        """Return the order of the examples in the file, int64 [num_passes * count]."""
        if self.shuffle_seed is None:
            return np.tile(np.arange(count), self.num_passes)
        generator = np.random.default_rng(self.shuffle_seed)
        return np.concatenate([generator.permutation(count) for _ in range(self.num_passes)])


def record_name(vocab_path: str | os.PathLike[str], length: int, split: str) -> str:
    """Return the file name of classification and RACE records."""
    return f"{Path(vocab_path).name}.len-{length}.{split}.tfrecord"


def classifier_records(
    output_dir: str | os.PathLike[str],
    task: Task,
    split: str,
    data_dir: str | os.PathLike[str],
    tokenizer: Tokenizer,
    max_length: int,
    options: RecordOptions = RecordOptions(),
) -> ExampleFile:
    """Return the records of a split in ``output_dir``, written unless a matching file exists.

    In a split without labels every label is 0.

    Raises:
        DataError: the data is missing or malformed (see :meth:`funnel.tasks.base.Task.load`).
        FunnelError: the file cannot be written.
    """
    num_labels = None if task.is_regression else task.num_labels
    schema = classifier_schema(
        *(max_length, task.is_regression, tokenizer.vocab_size, num_labels, options.segments),
        multi_label=task.is_multi_label,
    )
    path = Path(output_dir, record_name(tokenizer.path, max_length, split))
    common = _common_key(tokenizer, max_length, options)
    if not _has_data(task, data_dir, split):
        known = {"task": task.name, "split": split} | common
        if (found := load_recorded(path, schema, known)) is not None:
            return found
    key = source_key(task, split, data_dir) | common

    def make_batches(source: RecordSource) -> Iterator[Batch]:
        examples, report = task.read(data_dir, split)
        features = encode_examples(examples, tokenizer, max_length, options.segments)
        source.report = replace(report, texts=features.texts)
        if options.balanced and features.labels is None:
            raise DataError(f"{task.path(data_dir, split)}: some examples have no label")
        return _classifier_batches(features, tokenizer, max_length, options, schema)

    file = load_or_write(path, schema, key, RecordSource(make_batches), options)
    file.report.log(split, task.path(data_dir, split), tokenizer.path)
    return file


def _has_data(task: Task, data_dir: str | os.PathLike[str], split: str) -> bool:
    try:
        return all(file.is_file() for file in task.input_files(data_dir, split))
    except DataError:
        return False


def _classifier_batches(
    features: EncodedTexts,
    tokenizer: Tokenizer,
    max_length: int,
    options: RecordOptions,
    schema: RecordSchema,
) -> Iterator[Batch]:
    pad_id, segment_pad = tokenizer.special.pad_id, options.segments.pad
    order, shape = options.order(len(features)), schema.fields["label_ids"].shape
    if options.balanced and features.labels is not None:
        chosen = balance_examples(features.labels, options.shuffle_seed or 0)
        order = chosen[options.order(len(chosen))]
    for part in iter_chunks(order):
        batch = pad_batch(features, part, max_length, pad_id, segment_pad)
        yield to_columns(batch) | {"label_ids": batch.get("labels", np.zeros((len(part), *shape)))}


def race_records(
    output_dir: str | os.PathLike[str],
    data_dir: str | os.PathLike[str],
    split: str,
    tokenizer: Tokenizer,
    config: RaceConfig,
    options: RecordOptions = RecordOptions(),
) -> ExampleFile:
    """Return the records of a RACE split; like :func:`classifier_records`, errors included."""
    length = config.max_seq_length
    path = Path(output_dir, record_name(tokenizer.path, length, split))
    files = _race_files(data_dir, split)
    key = {
        "task": "race",
        "split": split,
        "max_qa_length": config.max_qa_length,
        **_common_key(tokenizer, length, options),
    }
    schema = race_schema(length, tokenizer.vocab_size, config.segments)
    if not files[0] and (found := load_recorded(path, schema, key)) is not None:
        return found
    key["files"] = files

    def make_batches(source: RecordSource) -> Iterator[Batch]:
        features = encode_race(read_race(data_dir, split), tokenizer, config)
        source.report = features.report()
        return _race_batches(features, tokenizer, config, options)

    file = load_or_write(path, schema, key, RecordSource(make_batches), options)
    file.report.log(split, data_dir, tokenizer.path)
    return file


def _race_batches(
    features: RaceFeatures, tokenizer: Tokenizer, config: RaceConfig, options: RecordOptions
) -> Iterator[Batch]:
    for part in iter_chunks(options.order(len(features))):
        batch = features.pad(part, config.max_seq_length, tokenizer.special.pad_id)
        labels = {"label_ids": batch["labels"], "is_high_example": features.is_high[part]}
        yield to_columns(batch) | labels


def _race_files(data_dir: str | os.PathLike[str], split: str) -> list[Any]:
    """Return number, total size and latest change of a split's files.

    A hash of 28,000 small files would take as long as reading the data.
    """
    folders = [Path(data_dir, split, level) for level in LEVELS]
    found = [file.stat() for folder in folders for file in list_texts(folder)]
    latest = max((stat.st_mtime_ns for stat in found), default=0)
    return [len(found), sum(stat.st_size for stat in found), latest]


def _common_key(tokenizer: Tokenizer, length: int, options: RecordOptions) -> dict[str, Any]:
    settings = asdict(options)
    del settings["overwrite"]
    if not options.balanced:  # the usual records do not mention it
        del settings["balanced"]
    return {
        "uncased": tokenizer.uncased,
        "tokenizer_sha256": tokenizer.fingerprint,
        "max_length": length,
        **settings,
    }


def iter_chunks(order: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the parts of ``order`` that are padded and serialized at a time."""
    for start in range(0, len(order), _CHUNK):
        yield order[start : start + _CHUNK]


def to_columns(batch: Batch) -> dict[str, np.ndarray]:
    """Rename the sequences of a padded batch to the features of records; inverts the mask."""
    count = len(batch["input_ids"])
    return {
        "input_ids": batch["input_ids"],
        "input_mask": 1 - batch["attention_mask"],
        "segment_ids": batch["token_type_ids"],
        "is_real_example": np.ones(count, np.int64),
    }


def load_or_write(
    path: Path,
    schema: RecordSchema,
    key: Mapping[str, Any],
    source: RecordSource,
    options: RecordOptions,
) -> ExampleFile:
    """Return the file at ``path`` if its description matches ``key``; otherwise write both.

    Args:
        path: the TFRecord file.
        schema: features of the records.
        key: everything that determines the records, as JSON values.
        source: the data to write; its columns are cast to the schema.
        options: ``overwrite`` and ``multiple`` are used.

    Raises:
        FunnelError: the file cannot be written.
    """
    key = json.loads(json.dumps({"version": FORMAT_VERSION, **key}))  # tuples become lists
    if not options.overwrite and (found := read_meta(path, key)) is not None:
        report = SplitReport.from_json(found["report"])
        return ExampleFile(path, schema, found["num_real_examples"], found["num_examples"], report)
    description = meta_path(path)
    padding = {name: value.ravel() for name, value in padding_example(schema).items()}
    with atomic_path(path) as temporary:
        with temporary.open("wb") as stream:
            real = write_records_to(stream, _serialize(source.batches(source), schema))
            fill = [encode_example(padding)] * (-real % options.multiple)
            total = real + write_records_to(stream, fill)
        # A kill between the two writes must not leave an old description next to new records.
        description.unlink(missing_ok=True)
    size = path.stat().st_size
    counts = {"num_real_examples": real, "num_examples": total, "num_bytes": size}
    atomic_write_json(description, {**counts, **key, "report": source.report.to_json()})
    logger.info("%s: wrote %d examples", path, real)
    return ExampleFile(path, schema, real, total, source.report)


def _serialize(batches: Iterable[Batch], schema: RecordSchema) -> Iterator[bytes]:
    """Yield the rows of batches as serialized records."""
    for batch in batches:
        columns = {}
        for name, spec in schema.fields.items():
            column = np.asarray(batch[name]).astype(spec.dtype)
            columns[name] = column.reshape(len(column), math.prod(spec.shape))
        for row in range(len(next(iter(columns.values())))):
            yield encode_example({name: column[row] for name, column in columns.items()})


def find_corrupt_record(
    files: Sequence[str | os.PathLike[str]], schema: RecordSchema
) -> DataError | None:
    """Read all files and return an error that describes the first corrupt record, if any.

    Its message names the file, the record and the feature.
    """
    try:
        for path in files:
            for record, values in read_examples(path, tuple(schema.fields)):
                schema.check(values, f"{path}, record {record.index}")
    except DataError as error:
        return error
    return None
