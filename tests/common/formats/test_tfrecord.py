"""TFRecord files and Examples: exact bytes, corruption, resuming, bounded memory."""

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from funnel.formats import protobuf_wire as wire
from funnel.formats.crc32c import masked_crc32c
from funnel.formats.tfrecord import (
    Record,
    decode_example,
    decode_varints,
    encode_example,
    encode_varints,
    read_examples,
    read_records,
    write_records,
)
from funnel.utils.errors import DataError

# What TensorFlow 2.15 wrote for the records b"" and b"funnel", and for an Example.
KNOWN_FILE = "000000000000000029039807d8ea82a206000000000000007369d53766756e6e656c9567b023"
KNOWN_EXAMPLE = (
    "0a350a160a016112111a0f0a0d01feffffffffffffffff01ac020a0d0a0162120812060a040000c03f"
    "0a0c0a016312070a050a01780a00"
)
RECORDS = (b"funnel", b"", bytes(range(60)), b"transformer" * 4, b"\0" * 30)
INT64 = st.integers(-(2**63), 2**63 - 1)


@pytest.fixture
def path(tmp_path):
    target = tmp_path / "a.tfrecord"
    assert write_records(target, iter(RECORDS)) == len(RECORDS)
    return target


def _data(records):
    return [record.data for record in records]


# ------------------------------------------------------------------------------------ the files


def test_bytes_are_tensorflows(tmp_path):
    write_records(tmp_path / "a", [b"", b"funnel"])
    assert (tmp_path / "a").read_bytes().hex() == KNOWN_FILE
    assert _data(read_records(tmp_path / "a")) == [b"", b"funnel"]


def test_records_know_where_they_are(path):
    records = list(read_records(path))
    assert _data(records) == list(RECORDS)
    assert [record.index for record in records] == [0, 1, 2, 3, 4]
    assert [record.offset for record in records] == [0, *(record.end for record in records[:-1])]
    assert records[-1].end == path.stat().st_size


def test_resuming_at_every_record_by_number_or_offset(path):
    records = list(read_records(path))
    for record in records:
        rest = records[record.index :]
        assert list(read_records(path, record.index)) == rest
        assert list(read_records(path, record.index, record.offset)) == rest
    assert list(read_records(path, 5)) == []
    assert list(read_records(path, 5, records[-1].end)) == []


def test_resuming_where_nothing_is(path):
    with pytest.raises(DataError, match=r"a\.tfrecord: there is no record 6: the file has 5$"):
        list(read_records(path, 6))
    with pytest.raises(DataError, match="no record starts at byte 9999: the file has"):
        list(read_records(path, 6, 9999))
    with pytest.raises(DataError, match=r"record 1 \(byte 3\): corrupt"):
        list(read_records(path, 1, 3))


def test_an_empty_file_has_no_records(tmp_path):
    assert write_records(tmp_path / "a", []) == 0
    assert list(read_records(tmp_path / "a")) == []


def test_files_that_cannot_be_read(tmp_path):
    for name in ("none", "."):
        with pytest.raises(DataError, match="cannot be read"):
            list(read_records(tmp_path / name))


def test_a_failing_source_leaves_the_old_file(path):
    def failing():
        yield b"new"
        raise ValueError("no more")

    before = path.read_bytes()
    with pytest.raises(ValueError, match="no more"):
        write_records(path, failing())
    assert path.read_bytes() == before
    assert [item.name for item in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_a_corrupt_byte_is_found_named_and_skipped_only_on_request(path, mask):
    content, records = path.read_bytes(), list(read_records(path))
    for position in range(len(content)):
        corrupt = bytearray(content)
        corrupt[position] ^= mask
        path.write_bytes(corrupt)
        hit = next(record for record in records if position < record.end)
        rest = [record for record in records if record != hit]
        name = rf"{path.name}, record {hit.index} \(byte {hit.offset}\): corrupt: "

        reader = read_records(path)
        assert [next(reader) for _ in range(hit.index)] == records[: hit.index]
        with pytest.raises(DataError, match=name):
            next(reader)

        errors = []
        assert list(read_records(path, on_error=errors.append)) == rest
        assert len(errors) == 1 and isinstance(errors[0], DataError)
        # Numbers count corrupt records too, so resuming by number finds the same records.
        assert list(read_records(path, 3, on_error=errors.append)) == [
            record for record in rest if record.index >= 3
        ]


def test_a_file_cut_short_at_any_byte(path):
    content, records = path.read_bytes(), list(read_records(path))
    borders = {0, *(record.end for record in records)}
    for size in range(len(content)):
        path.write_bytes(content[:size])
        complete = [record for record in records if record.end <= size]
        errors = []
        assert list(read_records(path, on_error=errors.append)) == complete
        assert len(errors) == (size not in borders)
        if errors:
            assert f"record {len(complete)} " in str(errors[0])
            assert "the file ends inside" in str(errors[0])


def test_reading_continues_after_a_long_hole(tmp_path):
    """A block of zeros, as a crash leaves it, over the start of a record and much of its data."""
    records = [bytes([65 + i]) * 3000 for i in range(5)]
    write_records(tmp_path / "a", records)
    data = bytearray((tmp_path / "a").read_bytes())
    data[3016 * 2 : 3016 * 2 + 2000] = bytes(2000)
    (tmp_path / "a").write_bytes(data)
    errors = []
    left = list(read_records(tmp_path / "a", on_error=errors.append))
    assert [(r.index, r.data[:1]) for r in left] == [(0, b"A"), (1, b"B"), (3, b"D"), (4, b"E")]
    assert len(errors) == 1


def test_a_huge_length_with_a_right_checksum_allocates_nothing(tmp_path):
    length = struct.pack("<Q", 1 << 60)
    header = length + struct.pack("<I", masked_crc32c(length))
    (tmp_path / "a").write_bytes(header + bytes(50))
    with pytest.raises(DataError, match=f"the file ends inside its {1 << 60} bytes"):
        list(read_records(tmp_path / "a"))


def test_one_record_in_memory_at_a_time(tmp_path):
    tracemalloc.start()
    try:
        write_records(tmp_path / "a", (bytes([i % 251]) * 100_000 for i in range(300)))
        assert sum(len(record.data) for record in read_records(tmp_path / "a")) == 30_000_000
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


# --------------------------------------------------------------------------------- the Examples


def test_example_bytes_are_tensorflows():
    features = {
        "c": [b"x", b""],
        "b": np.array([1.5], np.float64),
        "a": np.array([1, -2, 300], np.int32),
    }
    data = encode_example(features)
    assert data.hex() == KNOWN_EXAMPLE
    decoded = decode_example(data)
    assert {name: (v.dtype, v.tolist()) for name, v in decoded.items()} == {
        "a": (np.int64, [1, -2, 300]),
        "b": (np.float32, [1.5]),
        "c": (object, [b"x", b""]),
    }
    assert list(decode_example(data, ["b"])) == ["b"]
    for values in (decoded["a"], decoded["b"]):
        values += 1  # arrays of the caller's own


@settings(deadline=None)
@given(st.lists(INT64 | st.integers(-3, 200) | st.sampled_from([127, 128, 2**14, 2**63 - 1])))
def test_varints_of_arrays(values):
    array = np.array(values, np.int64)
    packed = encode_varints(array)
    assert packed == b"".join(map(wire.varint, values))
    assert decode_varints(packed).dtype == np.int64
    assert decode_varints(packed).tolist() == values


@pytest.mark.parametrize(
    ("packed", "problem"),
    [
        (b"\x01\x80", "ends inside a number"),
        (b"\xff" * 9 + b"\x02", "more than 64 bits"),
        (b"\xff" * 10 + b"\x01", "more than 64 bits"),
    ],
)
def test_varints_that_are_none(packed, problem):
    with pytest.raises(wire.WireError, match=problem):
        decode_varints(packed)


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(
        st.text(max_size=5),
        st.lists(INT64) | st.lists(st.floats(width=32, allow_nan=False)) | st.lists(st.binary()),
    )
)
def test_examples_come_back(features):
    kinds = {int: np.int64, float: np.float32}
    given_features = {
        name: np.array(values, kinds[type(values[0])])
        if values and type(values[0]) in kinds
        else values
        for name, values in features.items()
    }
    data = encode_example(given_features)
    assert data == encode_example(dict(reversed(given_features.items())))
    assert {name: v.tolist() for name, v in decode_example(data).items()} == features


def test_shapes_are_flattened_and_other_values_refused():
    data = encode_example({"a": np.arange(6).reshape(2, 3), "b": np.array([True, False])})
    assert decode_example(data)["a"].tolist() == [0, 1, 2, 3, 4, 5]
    assert decode_example(data)["b"].tolist() == [1, 0]
    for wrong in (["text"], "text", b"bytes", [1, 2], np.array(["x"])):
        with pytest.raises(TypeError, match="an array of numbers or a sequence of bytes"):
            encode_example({"a": wrong})


def _example(feature):
    """An Example whose feature `a` is the given message."""
    entry = wire.bytes_field(1, b"a") + wire.bytes_field(2, feature)
    return wire.bytes_field(1, wire.bytes_field(1, entry))


def test_other_ways_to_write_the_same():
    one_by_one = b"".join(wire.varint_field(1, value) for value in (7, 300))
    unpacked = _example(wire.bytes_field(3, one_by_one))
    in_parts = _example(wire.bytes_field(3, one_by_one[:2]) + wire.bytes_field(3, one_by_one[2:]))
    for message in (unpacked, in_parts):
        assert decode_example(message)["a"].tolist() == [7, 300]
    single = _example(wire.bytes_field(2, wire.fixed32_field(1, 0x3FC00000)))
    assert decode_example(single)["a"].tolist() == [1.5]
    strings = wire.bytes_field(1, wire.bytes_field(1, b"x"))
    last_kind_wins = _example(strings + wire.bytes_field(3, one_by_one))
    assert decode_example(last_kind_wins)["a"].tolist() == [7, 300]
    foreign = wire.varint_field(9, 5) + unpacked + wire.bytes_field(15, b"new")
    assert decode_example(foreign)["a"].tolist() == [7, 300]


def test_empty_lists_and_no_list():
    for kind, dtype in ((1, object), (2, np.float32), (3, np.int64)):
        empty = decode_example(_example(wire.bytes_field(kind, b"")))["a"]
        assert empty.dtype == dtype and empty.shape == (0,)
    assert decode_example(_example(b"")) == {}
    assert decode_example(b"") == {}


def test_every_cut_of_an_example_is_refused_or_shorter():
    data = bytes.fromhex(KNOWN_EXAMPLE)
    for size in range(1, len(data)):
        with pytest.raises(wire.WireError):
            decode_example(data[:size])
    with pytest.raises(wire.WireError, match="ends inside a float"):
        decode_example(_example(wire.bytes_field(2, wire.bytes_field(1, b"abc"))))


def test_records_that_are_no_wanted_examples(tmp_path):
    path = tmp_path / "a.tfrecord"
    good = encode_example({"x": np.array([1]), "y": np.array([2])})
    write_records(path, [good, b"\xff\xff", encode_example({"x": np.array([3])}), good])
    errors = []
    found = list(read_examples(path, ["x", "y"], on_error=errors.append))
    assert [(record.index, features["y"].tolist()) for record, features in found] == [
        (0, [2]),
        (3, [2]),
    ]
    assert "a.tfrecord, record 1 (byte " in str(errors[0]) and "no Example" in str(errors[0])
    assert "record 2" in str(errors[1]) and "has no feature 'y'" in str(errors[1])
    with pytest.raises(DataError, match="record 1 "):
        list(read_examples(path))
    found = list(read_examples(path, ["x"], start=3))
    assert [(record.index, list(features)) for record, features in found] == [(3, ["x"])]


def test_a_record_is_a_plain_tuple():
    assert Record(2, 100, b"abc").end == 100 + 12 + 3 + 4
