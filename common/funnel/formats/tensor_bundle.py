"""TensorFlow checkpoints (tensor bundles, "V2"), read and written without TensorFlow.

A checkpoint is named by a prefix, e.g. ``model.ckpt``, and consists of

    model.ckpt.index                 a sorted table (:mod:`funnel.formats.sstable`) of messages: a
                                     BundleHeaderProto under the empty key, which sorts first, and a
                                     BundleEntryProto under the name of each tensor
    model.ckpt.data-00000-of-00001   the tensors' numbers, little endian in row-major order, one
                                     tensor after another; large models have several such shards
    checkpoint                       text protobuf with the newest prefix and all others

    BundleHeaderProto   1 num_shards, 2 endianness (0: little), 3 version {1 producer}
    BundleEntryProto    1 dtype, 2 shape {2 dim {1 size}}, 3 shard_id, 4 offset, 5 size (bytes),
                        6 crc32c (masked, fixed32), 7 slices (of a partitioned variable)

The numbers are field numbers of ``tensor_bundle.proto`` and ``tensor_shape.proto``. The data files
have no structure of their own and no padding, so a tensor's bytes may be unaligned.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from funnel.config.limits import describe
from funnel.formats import protobuf_wire as wire
from funnel.formats.crc32c import masked_crc32c
from funnel.formats.sstable import read_table, table_bytes
from funnel.utils.errors import CheckpointError
from funnel.utils.files import atomic_path, atomic_write_text, is_file, name_read_errors

STATE_FILE = "checkpoint"
OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"  # marks TensorFlow 2's object-based checkpoints
_BFLOAT16 = 14
# DataType of types.proto: number, name, and NumPy's name of its little-endian form
_DTYPES = {
    1: ("float32", "<f4"),
    2: ("float64", "<f8"),
    3: ("int32", "<i4"),
    4: ("uint8", "u1"),
    5: ("int16", "<i2"),
    6: ("int8", "i1"),
    9: ("int64", "<i8"),
    10: ("bool", "?"),
    _BFLOAT16: ("bfloat16", "<u2"),
    17: ("uint16", "<u2"),
    19: ("float16", "<f2"),
    22: ("uint32", "<u4"),
    23: ("uint64", "<u8"),
}
_CODES = {name: code for code, (name, _) in _DTYPES.items()}
_SHOWN_PATH = 300  # characters of a path in a message
_SLICE_KEY = b"\0"  # first byte of the keys of slices, the parts of partitioned variables


@dataclass(frozen=True)
class TensorEntry:
    """Location and type of a tensor: ``size`` bytes at ``offset`` of data file ``shard``."""

    dtype: int = 0
    shape: tuple[int, ...] = ()
    shard: int = 0
    offset: int = 0
    size: int = 0
    crc: int = 0
    is_partitioned: bool = False

    @property
    def dtype_name(self) -> str:
        """TensorFlow's name of the type; its number if it is not a numeric type."""
        return _DTYPES[self.dtype][0] if self.dtype in _DTYPES else f"type {self.dtype}"


class TFCheckpoint(Mapping[str, np.ndarray]):
    """A checkpoint opened for reading: a mapping from tensor name to array.

    Opening reads the index only. Each access verifies the tensor's checksum and returns a read-only
    view of the memory-mapped data file (bfloat16, which NumPy lacks, becomes float32).

    Raises:
        CheckpointError: a file is missing, truncated, corrupt or of another kind; on access also
            if the tensor is not numeric or is partitioned.
    """

    def __init__(self, prefix: str | Path) -> None:
        self.prefix = resolve_prefix(prefix)
        self.index_path = Path(f"{self.prefix}.index")
        table = read_table(self.index_path)
        try:
            self._num_shards = _parse_header(table.pop(b"", None))
            self.entries = {
                key.decode("utf-8"): _parse_entry(value)
                for key, value in table.items()
                # Slices are skipped: the full tensor's own entry marks it as partitioned.
                if not key.startswith(_SLICE_KEY)
            }
        except (wire.WireError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{self.index_path}: no checkpoint index: it {error}") from None
        self._shards: dict[int, np.ndarray] = {}
        for name, entry in self.entries.items():
            self._check_place(name, entry)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def __getitem__(self, name: str) -> np.ndarray:
        entry = self.entries[name]
        if entry.is_partitioned:
            raise CheckpointError(
                f"{self.prefix}: {name} is a partitioned variable; save the checkpoint again "
                "without a partitioner"
            )
        if entry.dtype not in _DTYPES:
            raise CheckpointError(f"{self.prefix}: {name} holds no numbers ({entry.dtype_name})")
        # One byte array per file: slices and views of it copy nothing.
        raw = self._shard(entry.shard)[entry.offset : entry.offset + entry.size]
        if masked_crc32c(raw) != entry.crc:
            raise CheckpointError(
                f"{self._shard_path(entry.shard)}: corrupt: the checksum of {name} does not match"
            )
        values = raw.view(_DTYPES[entry.dtype][1]).reshape(entry.shape)
        if entry.dtype == _BFLOAT16:
            return bfloat16_to_float32(values)
        # The file has no padding, and unaligned arrays are slow or refused elsewhere.
        return values if values.flags.aligned else values.copy()

    def _shard_path(self, shard: int) -> Path:
        return Path(f"{self.prefix}.data-{shard:05d}-of-{self._num_shards:05d}")

    def _shard(self, shard: int) -> np.ndarray:
        """Return the bytes of a data file, memory-mapped on first use."""
        if shard not in self._shards:
            path = self._shard_path(shard)
            with name_read_errors(path, CheckpointError):
                is_empty = path.stat().st_size == 0  # which mmap refuses
                data = np.empty(0, np.uint8) if is_empty else np.memmap(path, np.uint8, "r")
            self._shards[shard] = data.view(np.ndarray)
        return self._shards[shard]

    def _check_place(self, name: str, entry: TensorEntry) -> None:
        """Refuse an entry that does not fit its data file."""
        if entry.is_partitioned:
            return
        if not 0 <= entry.shard < self._num_shards or entry.offset < 0 or entry.size < 0:
            raise CheckpointError(f"{self.index_path}: corrupt: {name} is in no data file")
        if entry.dtype in _DTYPES:
            # Python integers: a corrupt shape must not overflow to the right size.
            wanted = np.dtype(_DTYPES[entry.dtype][1]).itemsize
            for size in entry.shape:
                wanted *= size
            if wanted != entry.size or min(entry.shape, default=0) < 0:
                raise CheckpointError(
                    f"{self.index_path}: corrupt: {name} {list(entry.shape)} of {entry.dtype_name} "
                    f"cannot take {entry.size} bytes"
                )
        length = len(self._shard(entry.shard))
        if entry.offset + entry.size > length:
            raise CheckpointError(
                f"{self._shard_path(entry.shard)}: truncated: {length} bytes, "
                f"but {name} ends at {entry.offset + entry.size}"
            )


def write_tf_checkpoint(
    prefix: str | Path, tensors: Mapping[str, np.ndarray], *, update_state: bool = True
) -> None:
    """Write ``tensors`` as ``prefix.index`` and one data file, as TensorFlow's Saver does.

    Both files are complete on disk before either is renamed. ``update_state`` also enters the
    prefix in the directory's ``checkpoint`` file, from which TensorFlow takes the newest one.

    Raises:
        CheckpointError: a tensor has a type that the format lacks.
        FunnelError: the files cannot be written.
    """
    prefix = Path(prefix)
    table = {b"": _header(num_shards=1)}
    data_path = Path(f"{prefix}.data-00000-of-00001")
    # The inner context ends first, so data is renamed before the index: an index always finds data
    # at least as new as itself.
    with atomic_path(f"{prefix}.index") as index, atomic_path(data_path) as data:
        with data.open("wb") as stream:
            offset = 0
            # The table needs ascending keys; the data is in the same order.
            for name in sorted(tensors, key=str.encode):
                # ascontiguousarray turns a scalar into [1]; the entry keeps the original shape.
                values = np.ascontiguousarray(_little_endian(tensors[name]))
                entry = TensorEntry(
                    dtype=_dtype_code(name, values),
                    shape=np.shape(tensors[name]),
                    offset=offset,
                    size=values.nbytes,
                    crc=masked_crc32c(values),
                )
                stream.write(values.data)
                table[name.encode()] = _encode_entry(entry)
                offset += values.nbytes
        index.write_bytes(table_bytes(table.items()))
    if update_state:
        write_state(prefix)


def resolve_prefix(path: str | Path) -> Path:
    """Return the prefix of the checkpoint at ``path``.

    ``path`` may be the prefix, one of its files, a directory (for the newest prefix in its
    ``checkpoint`` file; without that file it must hold a single checkpoint) or
    ``DIRECTORY/latest``.

    Raises:
        CheckpointError: there is no such checkpoint.
    """
    path = Path(path)
    name = re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", path.name)
    if name and is_file(path.with_name(f"{name}.index"), CheckpointError):
        return path.with_name(name)
    if path.is_dir():
        return _newest_prefix(path)
    if path.name.endswith("latest") and path.parent.is_dir():
        return _newest_prefix(path.parent)
    raise CheckpointError(f"{path}: no TensorFlow checkpoint ({name}.index is missing)")


def _newest_prefix(directory: Path) -> Path:
    state = directory / STATE_FILE
    if is_file(state, CheckpointError):
        newest = _read_state(state)[0]
        # After the directory was moved, absolute paths in its state file are out of date.
        for prefix in (directory / newest, directory / Path(newest).name):
            if is_file(Path(f"{prefix}.index"), CheckpointError):
                return prefix
        shown = newest if len(newest) <= _SHOWN_PATH else describe(newest)
        raise CheckpointError(f"{state}: names {shown}, but {shown}.index does not exist")
    found = sorted(path.with_suffix("") for path in directory.glob("*.index"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise CheckpointError(f"{directory}: holds no TensorFlow checkpoint (no *.index file)")
    names = ", ".join(path.name for path in found)
    raise CheckpointError(f"{directory}: holds several checkpoints ({names}); name one of them")


def write_state(prefix: Path) -> None:
    """Enter ``prefix`` as the newest checkpoint in the directory's ``checkpoint`` file."""
    state = prefix.parent / STATE_FILE
    try:
        earlier = _read_state(state)[1] if state.is_file() else []
    except CheckpointError:
        earlier = []  # an unreadable file is replaced
    paths = [path for path in earlier if path != prefix.name] + [prefix.name]
    quoted = [path.replace("\\", "\\\\").replace('"', '\\"') for path in paths]
    lines = [f'model_checkpoint_path: "{quoted[-1]}"']
    lines += [f'all_model_checkpoint_paths: "{path}"' for path in quoted]
    atomic_write_text(state, "\n".join(lines) + "\n")


def _read_state(state: Path) -> tuple[str, list[str]]:
    """Return the newest prefix and all prefixes in a ``checkpoint`` file."""
    with name_read_errors(state, CheckpointError):
        text = state.read_bytes().decode("utf-8", "replace")
    quoted = r'"((?:[^"\\]|\\.)*)"|\'((?:[^\'\\]|\\.)*)\''
    pattern = rf"^(all_model_checkpoint_paths|model_checkpoint_path):\s*(?:{quoted})"
    found = [(key, a or b) for key, a, b in re.findall(pattern, text, re.MULTILINE)]
    newest = [_unquote(path, state) for key, path in found if key == "model_checkpoint_path"]
    if len(newest) != 1:
        raise CheckpointError(f"{state}: should have one line model_checkpoint_path")
    return newest[0], [_unquote(path, state) for key, path in found if key.startswith("all_")]


# Escapes of protocol buffers' text format: one to three octal digits, hexadecimal, or a character.
_ESCAPE = re.compile(rb"\\([0-7]{1,3}|[xX][0-9a-fA-F]{1,2}|.)", re.DOTALL)
_CONTROLS = {b"a": 7, b"b": 8, b"t": 9, b"n": 10, b"v": 11, b"f": 12, b"r": 13}
_OCTAL = tuple(b"%d" % digit for digit in range(8))
_PLAIN = (b"\\", b'"', b"'", b"?")


def _unquote(text: str, state: Path) -> str:
    """Undo the escapes of a quoted path.

    Raises:
        CheckpointError: there is no such escape, or the path has characters that no path has.
    """
    try:
        path = _ESCAPE.sub(_unescape, text.encode("utf-8", "replace")).decode("utf-8", "replace")
    except ValueError as error:
        raise CheckpointError(f"{state}: {describe(text)} is no quoted path: {error}") from None
    if any(ord(char) < ord(" ") for char in path):
        raise CheckpointError(f"{state}: {describe(path)} is no path of a checkpoint")
    return path


def _unescape(match: re.Match[bytes]) -> bytes:
    code = match.group(1)
    if code in _CONTROLS:
        return bytes([_CONTROLS[code]])
    if code in _PLAIN:
        return code
    is_hex = code[:1] in (b"x", b"X") and len(code) > 1
    if not is_hex and code[:1] not in _OCTAL:
        raise ValueError(f"unknown escape {describe(match.group().decode(errors='replace'))}")
    return bytes([int(code[1:], 16) if is_hex else int(code, 8)])


def bfloat16_to_float32(bits: np.ndarray) -> np.ndarray:
    """Convert bfloat16 numbers, given as uint16: they are the upper halves of float32 numbers."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _little_endian(values: np.ndarray) -> np.ndarray:
    return np.asarray(values).astype(np.asarray(values).dtype.newbyteorder("<"), copy=False)


def _dtype_code(name: str, values: np.ndarray) -> int:
    if values.dtype.name not in _CODES:
        raise CheckpointError(f"{name}: a TensorFlow checkpoint cannot hold {values.dtype.name}")
    return _CODES[values.dtype.name]


def _header(num_shards: int) -> bytes:
    version = wire.varint_field(1, 1)  # producer 1, the only version of the format
    return wire.varint_field(1, num_shards) + wire.bytes_field(3, version)


def _parse_header(message: bytes | None) -> int:
    """Return the number of data files."""
    if message is None:
        raise wire.WireError("has no header")
    num_shards = 0
    for number, _, value in wire.read_fields(message):
        if number == 1 and isinstance(value, int):
            num_shards = value
        if number == 2 and value != 0:
            raise wire.WireError("was written on a big-endian machine, which is not supported")
    if not 0 < num_shards < 100_000:
        raise wire.WireError(f"names {num_shards} data files")
    return num_shards


def _encode_entry(entry: TensorEntry) -> bytes:
    shape = b"".join(wire.bytes_field(2, wire.varint_field(1, size)) for size in entry.shape)
    return (
        wire.varint_field(1, entry.dtype)
        + wire.bytes_field(2, shape)
        + wire.varint_field(4, entry.offset)
        + wire.varint_field(5, entry.size)
        + wire.fixed32_field(6, entry.crc)
    )


def _parse_entry(message: bytes) -> TensorEntry:
    numbers = {1: "dtype", 3: "shard", 4: "offset", 5: "size", 6: "crc"}
    values: dict[str, int] = {}
    shape: tuple[int, ...] = ()
    is_partitioned = False
    for number, _, value in wire.read_fields(message):
        if number in numbers and isinstance(value, int):
            values[numbers[number]] = wire.signed(value)
        elif number == 2 and isinstance(value, bytes):
            shape = tuple(map(_parse_dimension, wire.read_submessages(value, 2)))
        elif number == 7:
            is_partitioned = True
    return TensorEntry(shape=shape, is_partitioned=is_partitioned, **values)


def _parse_dimension(message: bytes) -> int:
    """Return the size in a TensorShapeProto.Dim message; 0 if it is omitted."""
    size = 0
    for number, _, value in wire.read_fields(message):
        if number == 1 and isinstance(value, int):
            size = wire.signed(value)
    return size
