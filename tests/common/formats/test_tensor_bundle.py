"""TensorFlow checkpoint files: round trips, resolving prefixes, every kind of corruption."""

import resource

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoint_cases import assert_same, flip, truncate
from funnel.formats import protobuf_wire as wire
from funnel.formats import sstable
from funnel.formats.crc32c import crc32c, mask
from funnel.formats.tensor_bundle import TFCheckpoint, resolve_prefix, write_tf_checkpoint
from funnel.utils.errors import CheckpointError, FunnelError

DTYPES = ("f4", "f8", "f2", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")
DATA = ".data-00000-of-00001"


def _tensors():
    random = np.random.default_rng(0)
    tensors = {f"a/{dtype}": random.integers(0, 2, (3, 5)).astype(dtype) for dtype in DTYPES}
    return tensors | {
        "empty": np.zeros((0, 4), np.float32),
        "nan": np.array([np.nan, -0.0, np.inf], np.float32),
        "scalar": np.asarray(7, np.int64),
        "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "big_endian": np.arange(3, dtype=">f4").astype(">f4"),
    }


@pytest.fixture
def saved(tmp_path):
    prefix = tmp_path / "model.ckpt"
    write_tf_checkpoint(prefix, {"w": np.arange(40, dtype=np.float32).reshape(8, 5)})
    return prefix


def test_round_trip_of_every_type(tmp_path):
    tensors = _tensors()
    write_tf_checkpoint(tmp_path / "m", tensors)
    found = TFCheckpoint(tmp_path / "m")
    tensors["big_endian"] = tensors["big_endian"].astype("<f4")
    assert_same(dict(found), tensors)
    assert list(found) == sorted(tensors) and len(found) == len(tensors)


def test_look_up_is_a_view_of_the_file(saved):
    values = TFCheckpoint(saved)["w"]
    assert not values.flags.owndata and not values.flags.writeable


def test_bfloat16_becomes_float32(tmp_path):
    exact = np.array([1.5, -2.0, 3e38, np.inf, -0.0], np.float32)
    bits = (exact.view(np.uint32) >> 16).astype(np.uint16)
    write_tf_checkpoint(tmp_path / "m", {"w": bits})
    _edit_entry(tmp_path / "m", "w", {1: 14})
    rounded = (bits.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(TFCheckpoint(tmp_path / "m")["w"], rounded)


def test_an_index_of_many_blocks(tmp_path):
    # 20,000 names take more than the 256 KiB of one block.
    tensors = {f"scope_{i:05d}/kernel": np.float32([i]) for i in range(20_000)}
    write_tf_checkpoint(tmp_path / "m", tensors)
    assert (tmp_path / "m.index").stat().st_size > 2 * sstable._BLOCK_SIZE
    assert_same(dict(TFCheckpoint(tmp_path / "m")), tensors)


def test_several_data_files(tmp_path):
    write_tf_checkpoint(tmp_path / "a", {"x": np.float32([1, 2])})
    write_tf_checkpoint(tmp_path / "b", {"y": np.float32([3])})
    one, other = (sstable.read_table(tmp_path / f"{name}.index") for name in "ab")
    other = other[b"y"] + wire.varint_field(3, 1)
    table = {b"": b"\x08\x02\x1a\x02\x08\x01", b"x": one[b"x"], b"y": other}
    (tmp_path / "c.index").write_bytes(sstable.table_bytes(table.items()))
    (tmp_path / f"a{DATA}").rename(tmp_path / "c.data-00000-of-00002")
    (tmp_path / f"b{DATA}").rename(tmp_path / "c.data-00001-of-00002")
    assert {name: list(v) for name, v in TFCheckpoint(tmp_path / "c").items()} == {
        "x": [1, 2],
        "y": [3],
    }
    (tmp_path / "c.data-00001-of-00002").unlink()
    with pytest.raises(CheckpointError, match="data-00001-of-00002: cannot be read"):
        TFCheckpoint(tmp_path / "c")


def test_every_way_to_name_a_checkpoint(tmp_path):
    for step in (1, 2):
        write_tf_checkpoint(tmp_path / f"model.ckpt-{step}", {"w": np.float32([step])})
    newest = tmp_path / "model.ckpt-2"
    for path in (tmp_path, tmp_path / "latest", newest, f"{newest}.index", f"{newest}{DATA}"):
        assert resolve_prefix(path) == newest, path
    text = (tmp_path / "checkpoint").read_text().splitlines()
    assert text == [
        'model_checkpoint_path: "model.ckpt-2"',
        'all_model_checkpoint_paths: "model.ckpt-1"',
        'all_model_checkpoint_paths: "model.ckpt-2"',
    ]


def test_a_directory_that_was_moved_or_has_no_state_file(tmp_path):
    write_tf_checkpoint(tmp_path / "m", {"w": np.float32([1])})
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/old/pl\\141ce/m"\n')
    assert resolve_prefix(tmp_path) == tmp_path / "m"
    (tmp_path / "checkpoint").unlink()
    assert resolve_prefix(tmp_path) == tmp_path / "m"
    write_tf_checkpoint(tmp_path / "n", {"w": np.float32([1])}, update_state=False)
    with pytest.raises(CheckpointError, match="several checkpoints \\(m, n\\)"):
        resolve_prefix(tmp_path)


def test_what_is_not_there(tmp_path):
    with pytest.raises(CheckpointError, match=r"no TensorFlow checkpoint \(none.index is missing"):
        TFCheckpoint(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"no \*.index file"):
        TFCheckpoint(tmp_path)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "gone"\n')
    with pytest.raises(CheckpointError, match=r"names gone, but gone.index does not exist"):
        TFCheckpoint(tmp_path / "latest")
    (tmp_path / "checkpoint").write_text("nonsense")
    with pytest.raises(CheckpointError, match="one line model_checkpoint_path"):
        TFCheckpoint(tmp_path)


def test_every_flipped_bit_of_the_index_is_found(saved):
    index = saved.with_name("model.ckpt.index")
    good = index.read_bytes()
    wanted = TFCheckpoint(saved)["w"].copy()
    survived = []
    for position in range(len(good)):
        flip(index, position, 1 << position % 8)
        try:
            found = TFCheckpoint(saved)["w"]
            assert_same({"w": found}, {"w": wanted})
            survived.append(position)
        except CheckpointError as error:
            assert str(saved) in str(error)
        index.write_bytes(good)
    # Only the zeros that pad the footer mean nothing.
    assert survived == [at for at in range(len(good) - 48, len(good) - 8) if not any(good[at:-8])]


def test_every_flipped_byte_of_the_data_is_found(saved):
    data = saved.with_name(f"model.ckpt{DATA}")
    good = data.read_bytes()
    for position in range(len(good)):
        flip(data, position)
        with pytest.raises(CheckpointError, match="checksum of w does not match"):
            TFCheckpoint(saved)["w"]
        data.write_bytes(good)


@pytest.mark.parametrize("suffix", [".index", DATA])
def test_every_truncation_is_found(saved, suffix):
    path = saved.with_name(f"model.ckpt{suffix}")
    good = path.read_bytes()
    for size in range(len(good)):
        truncate(path, size)
        with pytest.raises(CheckpointError, match="truncated"):
            TFCheckpoint(saved)
        path.write_bytes(good)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    prefix = tmp_path_factory.mktemp("fuzz") / "m"
    write_tf_checkpoint(prefix, {"w": np.float32([1])})
    return prefix, sstable.read_table(prefix.with_name("m.index"))


@settings(deadline=None, max_examples=200)
@given(message=st.binary(max_size=60))
def test_random_messages_never_crash_the_parser(fuzzed, message):
    """Behind valid checksums anything may stand: only a clear error is allowed."""
    prefix, table = fuzzed
    index = sstable.table_bytes((table | {b"w": message}).items())
    prefix.with_name("m.index").write_bytes(index)
    try:
        found = TFCheckpoint(prefix)["w"]
    except CheckpointError as error:
        assert str(prefix) in str(error)
    else:
        assert found.nbytes == 0  # "" describes an empty tensor, of a type that has no numbers


@pytest.mark.parametrize(
    ("block", "told"),
    [
        (b"\xff", "shorter"),
        (b"\x00\x7f\x01w" + bytes(8), "runs over"),
        (b"\xff" * 11 + bytes(8), "64 bits"),
    ],
)
def test_malformed_blocks(tmp_path, block, told):
    content = block + (1).to_bytes(4, "little")
    path = tmp_path / "m.index"
    path.write_bytes(_write_table(content))
    with pytest.raises(CheckpointError, match=told):
        TFCheckpoint(tmp_path / "m")


def test_compressed_blocks_are_refused(saved):
    index = saved.with_name("model.ckpt.index")
    content = b"\x00\x00\x00" + bytes(4) + (1).to_bytes(4, "little")
    index.write_bytes(_write_table(content, kind=1))
    with pytest.raises(CheckpointError, match="compressed with snappy"):
        TFCheckpoint(saved)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + bytes(100), bytes(1000)])
def test_foreign_files(tmp_path, content):
    (tmp_path / "m.index").write_bytes(content)
    with pytest.raises(CheckpointError, match="no TensorFlow checkpoint index"):
        TFCheckpoint(tmp_path / "m")


def test_strings_partitions_and_big_endian_are_refused_by_name(saved):
    _edit_entry(saved, "w", {1: 7})
    with pytest.raises(CheckpointError, match="w holds no numbers"):
        TFCheckpoint(saved)["w"]
    _edit_entry(saved, "w", {}, more=wire.bytes_field(7, b""))
    with pytest.raises(CheckpointError, match="w is a partitioned variable"):
        TFCheckpoint(saved)["w"]
    table = sstable.read_table(saved.with_name("model.ckpt.index"))
    table[b""] += wire.varint_field(2, 1)
    saved.with_name("model.ckpt.index").write_bytes(sstable.table_bytes(table.items()))
    with pytest.raises(CheckpointError, match="big-endian"):
        TFCheckpoint(saved)


def test_types_the_format_lacks_are_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(CheckpointError, match="w: a TensorFlow checkpoint cannot hold complex64"):
        write_tf_checkpoint(tmp_path / "m", {"w": np.zeros(2, np.complex64)})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_previous_checkpoint(saved):
    before = sorted((path.name, path.read_bytes()) for path in saved.parent.iterdir())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(FunnelError, match=r"model.ckpt.data-00000-of-00001: cannot be written"):
            write_tf_checkpoint(saved, {"w": np.zeros(100_000, np.float32)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted((path.name, path.read_bytes()) for path in saved.parent.iterdir()) == before


def _edit_entry(prefix, name, changes, more=b""):
    """Rewrite an entry's integer fields behind a valid checksum."""
    index = prefix.with_name(f"{prefix.name}.index")
    table = sstable.read_table(index)
    message = more
    for number, kind, value in wire.read_fields(table[name.encode()]):
        if kind == wire.BYTES:
            message += wire.bytes_field(number, value)
        elif kind == wire.FIXED32:
            message += wire.fixed32_field(number, value)
        else:
            message += wire.varint_field(number, changes.get(number, value))
    table[name.encode()] = message
    index.write_bytes(sstable.table_bytes(table.items()))


def _write_table(content, kind=0):
    """A table file whose one data block has this content, with valid checksums."""

    def block(data, kind=0):
        data += bytes([kind])
        return data + mask(crc32c(data)).to_bytes(4, "little")

    data = block(content, kind)
    handle = wire.varint(0) + wire.varint(len(content))
    entry = b"\x00\x01" + wire.varint(len(handle)) + b"z" + handle
    index = entry + bytes(4) + (1).to_bytes(4, "little")
    footer = handle + wire.varint(len(data)) + wire.varint(len(index))
    return data + block(index) + footer.ljust(40, b"\0") + sstable._MAGIC
