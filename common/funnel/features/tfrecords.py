"""Fine-tuning data as TFRecord files: what a record holds, file names, writing, reuse.

Beside ``{name}.tfrecord`` lies ``{name}.tfrecord.meta.json`` with the number of examples and with
everything the file was made from (data, vocabulary, case, lengths, ...): a file that fits is used
again, any other is rebuilt. SQuAD's files are made in :mod:`funnel.features.squad_tfrecords`.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from funnel.features.classification import SegmentIds, encode_examples, pad_batch, source_key
from funnel.features.race import RaceConfig, encode_race
from funnel.formats.tfrecord import encode_example, read_examples, write_records_to
from funnel.tasks.base import Task
from funnel.tasks.race import LEVELS, OPTIONS, read_race
from funnel.utils.errors import ConfigError, DataError
from funnel.utils.files import atomic_path, atomic_write_json

if TYPE_CHECKING:
    from funnel.tokenization import Tokenizer

logger = logging.getLogger(__name__)

_FORMAT_VERSION = 1  # raise it when the same data give other records: old files are then rebuilt
_CHUNK = 256  # examples padded at once

Batch = Mapping[str, np.ndarray]


class FieldSpec(NamedTuple):
    """A feature of a record: its shape (``()``: one number, ``(-1,)``: any), float32 or int64."""

    shape: tuple[int, ...]
    is_float: bool = False


@dataclass(frozen=True)
class RecordSchema:
    """The features that every record of a file has, by name."""

    fields: Mapping[str, FieldSpec]


@dataclass(frozen=True)
class ExampleFile:
    """A complete file of records.

    Attributes:
        path: the TFRecord file.
        schema: what its records hold.
        num_real_examples: examples that come from data; they stand first.
        num_examples: these and the fakes that fill up the last batch.
    """

    path: Path
    schema: RecordSchema
    num_real_examples: int
    num_examples: int

    @property
    def meta_path(self) -> Path:
        """The JSON file beside it."""
        return meta_path(self.path)


@dataclass(frozen=True)
class RecordOptions:
    """How a file is written.

    Attributes:
        overwrite: write it even if what is there fits.
        shuffle_seed: shuffle the examples; None keeps their order.
        num_passes: how often the examples are repeated, shuffled anew each time.
        multiple: fakes are added up to a multiple of this number.
        segments: segment ids.
    """

    overwrite: bool = False
    shuffle_seed: int | None = None
    num_passes: int = 1
    multiple: int = 1
    segments: SegmentIds = field(default_factory=SegmentIds)

    def __post_init__(self) -> None:
        for key in ("num_passes", "multiple"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key}: {getattr(self, key)} should be at least 1")

    def order(self, count: int) -> np.ndarray:
        """The examples in the order of the file, int64 [num_passes * count]."""
        if self.shuffle_seed is None:
            return np.tile(np.arange(count), self.num_passes)
        generator = np.random.default_rng(self.shuffle_seed)
        return np.concatenate([generator.permutation(count) for _ in range(self.num_passes)])


def meta_path(path: Path) -> Path:
    """The description of a TFRecord file."""
    return path.with_name(f"{path.name}.meta.json")


def record_name(vocab_path: str | os.PathLike[str], length: int, split: str) -> str:
    """File name of classification and RACE records."""
    return f"{Path(vocab_path).name}.len-{length}.{split}.tfrecord"


def classifier_schema(length: int, regression: bool = False) -> RecordSchema:
    """Records of one sequence of ``length`` = T tokens: ``input_mask`` is 1 on padding."""
    return _labelled(length, {"label_ids": FieldSpec((), regression)})


def race_schema(length: int) -> RecordSchema:
    """Records of four sequences of ``length`` = T tokens, one after another: ``[4 * T]``."""
    labels = {"label_ids": FieldSpec(()), "is_high_example": FieldSpec(())}
    return _labelled(OPTIONS * length, labels)


def _labelled(size: int, labels: Mapping[str, FieldSpec]) -> RecordSchema:
    sequence = {
        "input_ids": FieldSpec((size,)),
        "input_mask": FieldSpec((size,), is_float=True),
        "segment_ids": FieldSpec((size,)),
    }
    return RecordSchema({**sequence, **labels, "is_real_example": FieldSpec(())})


def padding_example(schema: RecordSchema) -> dict[str, np.ndarray]:
    """A fake example: no token, label 0, not real. It fills up a batch and counts nowhere."""
    values = {}
    for name, spec in schema.fields.items():
        shape = (0,) if spec.shape == (-1,) else spec.shape
        array = np.zeros(shape, np.float32 if spec.is_float else np.int64)
        if name in ("input_mask", "p_mask"):
            array[...] = 1
        if name == "p_mask":
            array[:1] = 0  # some answer must be possible
        values[name] = array
    return values


def classifier_records(
    output_dir: str | os.PathLike[str],
    task: Task,
    split: str,
    data_dir: str | os.PathLike[str],
    tokenizer: Tokenizer,
    max_length: int,
    options: RecordOptions = RecordOptions(),
) -> ExampleFile:
    """Return the records of a split in ``output_dir``, written if what is there does not fit.

    A split without labels has label 0 everywhere.

    Raises:
        DataError: the data is missing or malformed (see :meth:`funnel.tasks.base.Task.load`).
        FunnelError: the file cannot be written.
    """
    task = task.resolve_labels(data_dir)
    schema = classifier_schema(max_length, task.is_regression)
    key = source_key(task, split, data_dir) | _common_key(tokenizer, max_length, options)

    def batches() -> Iterator[Batch]:
        examples = task.load(data_dir, split)
        features = encode_examples(examples, tokenizer, max_length, options.segments)
        for part in chunks(options.order(len(features))):
            pad_id, segment_pad = tokenizer.special.pad_id, options.segments.pad
            batch = pad_batch(features, part, max_length, pad_id, segment_pad)
            yield as_columns(batch) | {"label_ids": batch.get("labels", np.zeros(len(part)))}

    path = Path(output_dir, record_name(tokenizer.path, max_length, split))
    return load_or_write(path, schema, key, batches, options)


def race_records(
    output_dir: str | os.PathLike[str],
    data_dir: str | os.PathLike[str],
    split: str,
    tokenizer: Tokenizer,
    config: RaceConfig,
    options: RecordOptions = RecordOptions(),
) -> ExampleFile:
    """Return the records of a RACE split, as :func:`classifier_records`; the same errors."""
    length = config.max_seq_length
    key = {
        "task": "race",
        "split": split,
        "files": _race_files(data_dir, split),
        "max_qa_length": config.max_qa_length,
    }

    def batches() -> Iterator[Batch]:
        features = encode_race(read_race(data_dir, split), tokenizer, config)
        for part in chunks(options.order(len(features))):
            batch = features.pad(part, length, tokenizer.special.pad_id)
            labels = {"label_ids": batch["labels"], "is_high_example": features.is_high[part]}
            yield as_columns(batch) | labels

    path = Path(output_dir, record_name(tokenizer.path, length, split))
    key |= _common_key(tokenizer, length, options)
    return load_or_write(path, race_schema(length), key, batches, options)


def _race_files(data_dir: str | os.PathLike[str], split: str) -> list[Any]:
    """Number, size and latest change of a split's files: they are too many to read them twice."""
    found = [f.stat() for level in LEVELS for f in Path(data_dir, split, level).glob("*.txt")]
    latest = max((stat.st_mtime_ns for stat in found), default=0)
    return [len(found), sum(stat.st_size for stat in found), latest]


def _common_key(tokenizer: Tokenizer, length: int, options: RecordOptions) -> dict[str, Any]:
    settings = asdict(options)
    del settings["overwrite"]
    return {
        "uncased": tokenizer.uncased,
        "tokenizer_sha256": tokenizer.fingerprint,
        "max_length": length,
        **settings,
    }


def chunks(order: np.ndarray) -> Iterator[np.ndarray]:
    """Pieces of ``order`` that are padded and encoded at a time."""
    for start in range(0, len(order), _CHUNK):
        yield order[start : start + _CHUNK]


def as_columns(batch: Batch) -> dict[str, np.ndarray]:
    """The sequences of a padded batch under the names of records; 1 in a mask means padding."""
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
    batches: Callable[[], Iterable[Batch]],
    options: RecordOptions,
) -> ExampleFile:
    """Return the file at ``path`` if its description repeats ``key``; else write both.

    Args:
        path: the TFRecord file.
        schema: what its records hold.
        key: everything they are made from, as JSON values.
        batches: called to write; yields columns [B, ...] by name, which are cast to the schema.
        options: ``overwrite`` and ``multiple`` count here.

    Raises:
        FunnelError: the file cannot be written.
    """
    key = json.loads(json.dumps({"version": _FORMAT_VERSION, **key}))  # tuples become lists
    if not options.overwrite and (found := read_meta(path, key)) is not None:
        return ExampleFile(path, schema, found["num_real_examples"], found["num_examples"])
    description, real = meta_path(path), 0

    def examples() -> Iterator[bytes]:
        nonlocal real
        for batch in batches():
            columns = {name: _cast(batch[name], spec) for name, spec in schema.fields.items()}
            for row in range(len(next(iter(columns.values())))):
                yield encode_example({name: c[row] for name, c in columns.items()})
                real += 1
        fake = encode_example(
            {name: value.ravel() for name, value in padding_example(schema).items()}
        )
        yield from [fake] * (-real % options.multiple)

    with atomic_path(path) as temporary:
        with temporary.open("wb") as stream:
            total = write_records_to(stream, examples())
        # An old description must not be found beside new records.
        description.unlink(missing_ok=True)
    size = path.stat().st_size
    counts = {"num_real_examples": real, "num_examples": total, "num_bytes": size}
    atomic_write_json(description, {**counts, **key})
    logger.info("%s: wrote %d examples", path, real)
    return ExampleFile(path, schema, real, total)


def _cast(column: np.ndarray, spec: FieldSpec) -> np.ndarray:
    """A column as numbers of a record, [B, size]."""
    dtype = np.float32 if spec.is_float else np.int64
    return np.asarray(column).astype(dtype).reshape(len(column), math.prod(spec.shape))


def read_meta(path: Path, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """The description of a file made from ``key``; None (the log says why) for any other."""
    try:
        found = json.loads(meta_path(path).read_text(encoding="utf-8"))
        size = path.stat().st_size
        num_bytes, *_ = (int(found[n]) for n in ("num_bytes", "num_real_examples", "num_examples"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        logger.warning("%s: is damaged; the records are rebuilt", meta_path(path))
        return None
    if changed := [name for name in key if found.get(name) != key[name]]:
        logger.info("%s: rebuilt, other %s than before", path, ", ".join(changed))
        return None
    if size != num_bytes:
        logger.warning("%s: rebuilt, it has %d bytes instead of %d", path, size, num_bytes)
        return None
    return found


def find_damage(files: Sequence[str | os.PathLike[str]], schema: RecordSchema) -> DataError | None:
    """Read all files and return the first thing wrong with one of them, if there is any.

    The message names the file, the record and the feature.
    """
    try:
        for path in files:
            for record, values in read_examples(path, tuple(schema.fields)):
                _check_sizes(path, record.index, values, schema)
    except DataError as error:
        return error
    return None


def _check_sizes(
    path: str | os.PathLike[str], index: int, values: Batch, schema: RecordSchema
) -> None:
    for name, spec in schema.fields.items():
        size, kind = math.prod(spec.shape), "f" if spec.is_float else "i"
        if size not in (-1, len(values[name])) or values[name].dtype.kind != kind:
            wanted = f"{size} {'float32' if spec.is_float else 'int64'}"
            raise DataError(
                f"{path}, record {index}: feature {name!r} holds {len(values[name])} "
                f"{values[name].dtype}, expected {wanted}; was it made for other lengths?"
            )
