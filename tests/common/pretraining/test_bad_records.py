"""Record files and descriptions that lie: one line that names file and record, in bounded time."""

import json
import random
import tracemalloc

import numpy as np
import pytest

from funnel.formats import protobuf_wire as wire
from funnel.formats.indexed_tfrecord import IndexedRecords, count_records
from funnel.formats.tfrecord import (
    decode_example,
    encode_example,
    read_records,
    write_records,
    write_records_to,
)
from funnel.pretraining.create_records import RecordSet
from funnel.pretraining.dataset import DatasetConfig, MaskedDataset
from funnel.pretraining.record_index import find_records
from funnel.utils.errors import DataError
from record_cases import LENGTH, VOCAB, example, masker, write_set

META = RecordSet("train", 0, LENGTH, True, 1).meta_name(0)
INT64_MIN = -(1 << 63)


def find(folder):
    return find_records(str(folder), "train", LENGTH, True)


def read_all(folder, **config):
    collection = find(folder)
    dataset = MaskedDataset(collection, masker(), DatasetConfig(shuffle=False, **config))
    return dataset.read(np.arange(collection.num_examples))


def refused(folder, message):
    with pytest.raises(DataError, match=message) as caught:
        read_all(folder)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------ counts


@pytest.mark.parametrize("claimed", [1, 2, 4, 10**6, 10**30])
def test_counts_are_compared_with_the_files(tmp_path, claimed):
    (path,) = write_set(tmp_path, (3,))
    (tmp_path / META).write_text(json.dumps({"filenames": [path.name], "num_example": claimed}))
    refused(tmp_path, rf"{path.name}: .*(holds|states).* {claimed} ")


@pytest.mark.parametrize("skip_corrupt", [False, True])
def test_empty_files_that_claim_records(tmp_path, skip_corrupt):
    (path,) = write_set(tmp_path, (3,))
    path.write_bytes(b"")
    with pytest.raises(DataError, match=rf"{path.name}: its description states 3 records"):
        read_all(tmp_path, skip_corrupt=skip_corrupt)
    with pytest.raises(DataError, match="holds 0 records, but 3"):
        IndexedRecords(path, 3, skip_corrupt)
    assert count_records(path) == 0


def test_a_sparse_file_of_zeros_is_not_walked_through(tmp_path):
    (path,) = write_set(tmp_path, (3,))
    with path.open("wb") as stream:
        stream.truncate(1 << 40)  # 2^36 records of length 0
    refused(tmp_path, "holds more than 3 records, but 3")
    with pytest.raises(DataError, match="record 0 .* checksum of its length"):
        next(read_records(path))


def test_a_number_of_records_that_does_not_fit_is_not_allocated(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(b"\xff" * 1000)
    with pytest.raises(DataError, match="no room for the 1000000000000 records"):
        IndexedRecords(path, 10**12, skip_corrupt=True)


DESCRIPTIONS = {
    "not UTF-8": b'{"filenames": ["\xff"], "num_example": 3}',
    "a string for a list": b'{"filenames": "data", "num_example": 3}',
    "true for a number": b'{"filenames": ["data"], "num_example": true}',
    "a fraction": b'{"filenames": ["data"], "num_example": 3.0}',
    "too many digits": b'{"filenames": ["data"], "num_example": ' + b"9" * 6000 + b"}",
    "nested": b"[" * 100_000,
    "a list": b"[]",
    "long name": b'{"filenames": ["' + b"a" * 5000 + b'"], "num_example": 3}',
    "name with NUL": b'{"filenames": ["a\\u0000"], "num_example": 3}',
    "lone surrogate": b'{"filenames": ["a\\ud800"], "num_example": 3}',
}


@pytest.mark.parametrize("kind", DESCRIPTIONS)
def test_descriptions(tmp_path, kind):
    write_set(tmp_path, (3,))
    (tmp_path / META).write_bytes(DESCRIPTIONS[kind])
    refused(tmp_path, rf"{META}: (it should hold a list of names|it names .*, which is not there)")


# ------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize(
    ("name", "value"),
    [("input", 10 + (1 << 32)), ("input", INT64_MIN), ("input", -1), ("input", VOCAB)]
    + [("seg_id", value) for value in (7, 3, -1, 1 << 32, INT64_MIN)],
)
def test_numbers_out_of_range_name_file_and_record(tmp_path, name, value):
    (path,) = write_set(tmp_path, (3,))
    spoilt = example(1)
    spoilt[name] = spoilt[name].astype(np.int64)
    spoilt[name][3] = value
    write_records(path, map(encode_example, (example(0), spoilt, example(2))))
    refused(tmp_path, rf"{path.name}, record 1: .*{value}")


def test_segments_out_of_range_are_skipped_on_request(tmp_path):
    (path,) = write_set(tmp_path, (3,))
    spoilt = example(1) | {"seg_id": np.full(LENGTH, 7)}
    write_records(path, map(encode_example, (example(0), spoilt, example(2))))
    batch = read_all(tmp_path, skip_corrupt=True)
    assert len(batch.corrupt) == 1 and f"{path.name}, record 1" in batch.corrupt[0]


# ------------------------------------------------------------------------------ structure


def test_a_list_in_very_many_parts_is_decoded_in_linear_time():
    part = wire.bytes_field(3, wire.bytes_field(1, b"\x05"))
    feature = wire.bytes_field(2, part * 300_000)
    entry = wire.bytes_field(1, b"x") + feature
    numbers = decode_example(wire.bytes_field(1, wire.bytes_field(1, entry)))["x"]
    assert numbers.tolist() == [5] * 300_000


def test_a_number_of_another_kind_in_a_list():
    def with_list(content):
        feature = wire.bytes_field(2, wire.bytes_field(3, content))
        return wire.bytes_field(1, wire.bytes_field(1, wire.bytes_field(1, b"x") + feature))

    assert decode_example(with_list(b"\x08\x85\x01" * 2))["x"].tolist() == [133, 133]
    for content in (wire.fixed32_field(1, 5), wire.bytes_field(1, b"\x85") + b"\x08\x05"):
        with pytest.raises(wire.WireError):
            decode_example(with_list(content))


def _mutated_file(rng, good):
    """Change bytes of the file, or cut, repeat, drop or insert some."""
    raw = bytearray(good)
    at, end = sorted(rng.randrange(len(raw)) for _ in range(2))
    kind = rng.randrange(5)
    if kind == 0:
        raw[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del raw[at:]
    elif kind == 2:
        del raw[at:end]
    elif kind == 3:
        raw[at:at] = raw[at:end]
    else:
        raw[at:at] = rng.randbytes(rng.randint(1, 50))
    return [bytes(raw)]


def _mutated_records(rng, good):
    """Change features, or bytes inside of a valid frame."""
    records = [example(number) for number in range(4)]
    spoilt = {n: v.astype(np.int64) for n, v in records[rng.randrange(4)].items()}
    kind, name = rng.randrange(5), rng.choice(list(spoilt))
    odd = rng.choice([-1, 3, 7, VOCAB, 1 << 31, 1 << 32, (1 << 63) - 1, INT64_MIN])
    if kind == 0:
        spoilt[name][rng.randrange(len(spoilt[name]))] = odd
    elif kind == 1:
        spoilt[name] = spoilt[name][: rng.randrange(len(spoilt[name]))]
    elif kind == 2:
        spoilt[name] = spoilt[name].astype(np.float32)
    elif kind == 3:
        del spoilt[name]
    encoded = bytearray(encode_example(spoilt))
    if kind == 4:
        for _ in range(rng.randint(1, 4)):
            encoded[rng.randrange(len(encoded))] = rng.randrange(256)
    return [encode_example(records[0]), bytes(encoded), *map(encode_example, records[2:])]


@pytest.mark.slow
@pytest.mark.parametrize("mutate", [_mutated_file, _mutated_records])
@pytest.mark.parametrize("strategy", ["single_token", "word_span"])
def test_mutated_files_are_refused_or_mean_the_same(tmp_path, mutate, strategy):
    (path,) = write_set(tmp_path, (4,))
    good, rng = path.read_bytes(), random.Random(7)
    masking = masker(sample_strategy=strategy)
    refusals = 0
    tracemalloc.start()
    for _ in range(250):
        content = mutate(rng, good)
        if len(content) == 1:
            path.write_bytes(content[0])
        else:
            with path.open("wb") as stream:
                write_records_to(stream, content)
        try:
            collection = find(tmp_path)
            batch = MaskedDataset(collection, masking, DatasetConfig()).read(np.arange(4))
        except DataError as error:
            refusals += 1
            assert path.name in str(error) and "\n" not in str(error)
        else:
            assert batch.origin_input.shape == (4, LENGTH)
            assert 0 <= batch.origin_input.min() <= batch.origin_input.max() < VOCAB
            assert 0 <= batch.token_type_ids.min() <= batch.token_type_ids.max() <= 2
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refusals > 100 and peak < 50e6
