"""TFRecord files and the ``tf.train.Example`` messages in them, without TensorFlow.

A file is a sequence of records without header or index:

    length            uint64, little endian
    checksum          masked CRC-32C of the length, uint32
    data              ``length`` bytes
    checksum          masked CRC-32C of the data, uint32

The length has a checksum of its own because a wrong one loses the position of all later records.
See https://www.tensorflow.org/tutorials/load_data/tfrecord.

An Example maps names to lists of integers, floats or byte strings:

    Example    1 Features            Features   1 entry of the map, repeated
    entry      1 name, 2 Feature     Feature    1 BytesList, 2 FloatList or 3 Int64List
    each list  1 value, repeated; numbers packed as one field or one field each
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from funnel.formats import protobuf_wire as wire
from funnel.formats.crc32c import masked_crc32c
from funnel.utils.errors import DataError
from funnel.utils.files import atomic_path, name_read_errors

_HEADER = struct.Struct("<QI")  # length, its checksum
_FRAME = _HEADER.size + 4  # bytes of a record in addition to its data
_BUFFER = 1 << 20
_MAX_RECORD = 1 << 28  # bytes; a record is held in memory
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3  # field numbers of a Feature

Values = np.ndarray | Sequence[bytes]
ErrorHandler = Callable[[DataError], None]


@dataclass(frozen=True, slots=True)
class Record:
    """One record.

    Attributes:
        index: its number in the file, from 0.
        offset: the byte at which it starts.
        data: its content.
    """

    index: int
    offset: int
    data: bytes

    @property
    def end(self) -> int:
        """The byte at which the next record starts."""
        return self.offset + _FRAME + len(self.data)


class _CorruptRecordError(Exception):
    """A corrupt record; ``following`` is the offset of the next one, None if unknown."""

    def __init__(self, reason: str, following: int | None) -> None:
        super().__init__(reason)
        self.following = following


def write_records(path: str | os.PathLike[str], records: Iterable[bytes]) -> int:
    """Write a file of records atomically and return their number.

    Raises:
        FunnelError: the file cannot be written.
    """
    with atomic_path(path) as temporary, open(temporary, "wb", buffering=_BUFFER) as stream:
        return write_records_to(stream, records)


def write_records_to(stream: BinaryIO, records: Iterable[bytes]) -> int:
    """Write records to an open binary file and return their number."""
    count = 0
    for data in records:
        length = len(data).to_bytes(8, "little")
        for part in (length, _checksum(length), data, _checksum(data)):
            stream.write(part)
        count += 1
    return count


def read_records(
    path: str | os.PathLike[str],
    start: int = 0,
    offset: int | None = None,
    on_error: ErrorHandler | None = None,
) -> Iterator[Record]:
    """Yield the records of a file; one at a time is held in memory.

    Args:
        path: the file.
        start: number of the first record to yield.
        offset: the byte at which record ``start`` begins (``Record.end`` of the one before), if
            known. None finds it from record to record without reading their data.
        on_error: called with the error of a corrupt record, which is then skipped. If its length is
            corrupt too, reading continues at the next offset with a valid length, and everything
            in between counts as one record. None raises the error.

    Raises:
        DataError: the file cannot be read, ends before ``start``, or holds a corrupt record; the
            message names the file and the number of the record.
    """
    path = Path(path)
    with name_read_errors(path), open(path, "rb", buffering=_BUFFER) as stream:
        size = os.fstat(stream.fileno()).st_size
        index, position = (0, 0) if offset is None else (start, offset)
        stream.seek(position)
        while position < size:
            record = None
            try:
                length = _read_length(stream, size - position)
                following = position + _FRAME + length
                if index < start:
                    stream.seek(following)  # data that is skipped is not verified
                else:
                    record = Record(index, position, _read_data(stream, length, following))
            except _CorruptRecordError as corrupt:
                reason = f"{path}, record {index} (byte {position}): corrupt: {corrupt}"
                _report(DataError(reason), on_error)
                known = corrupt.following
                following = _find_header(stream, position + 1, size) if known is None else known
                stream.seek(following)
            if record is not None:
                yield record
            index, position = index + 1, following
        if position > size:
            raise DataError(f"{path}: no record starts at byte {position}: the file has {size}")
        if index < start:
            raise DataError(f"{path}: there is no record {start}: the file has {index}")


def read_examples(
    path: str | os.PathLike[str],
    names: Collection[str] | None = None,
    start: int = 0,
    offset: int | None = None,
    on_error: ErrorHandler | None = None,
) -> Iterator[tuple[Record, dict[str, np.ndarray]]]:
    """Yield the records of :func:`read_records` with their features (:func:`decode_example`).

    Args:
        path, start, offset, on_error: as in :func:`read_records`.
        names: features to decode, all of which a record must have. None decodes all it has.

    Raises:
        DataError: as :func:`read_records`; also if a record is no Example or lacks a feature.
    """
    for record in read_records(path, start, offset, on_error):
        try:
            features = decode_example(record.data, names)
            if missing := sorted(set(names or ()) - features.keys()):
                raise wire.WireError(f"has no feature {missing[0]!r}")
        except wire.WireError as error:
            problem = f"no Example of the wanted features: it {error}"
            where = f"{path}, record {record.index} (byte {record.offset})"
            _report(DataError(f"{where}: {problem}"), on_error)
            continue
        yield record, features


def encode_example(features: Mapping[str, Values]) -> bytes:
    """Return a serialized ``tf.train.Example``; equal features give equal bytes.

    Args:
        features: name -> values. Arrays are flattened: integers and booleans become an int64 list,
            floating-point numbers a float32 list; a sequence of ``bytes`` becomes a bytes list.

    Raises:
        TypeError: values of another type.
    """
    entries = [
        wire.bytes_field(1, wire.bytes_field(1, name.encode()) + wire.bytes_field(2, feature))
        for name, feature in sorted((n, _encode_feature(v)) for n, v in features.items())
    ]
    return wire.bytes_field(1, b"".join(entries))


def decode_example(data: bytes, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Return the features of a serialized ``tf.train.Example`` as arrays of one dimension.

    Args:
        names: features to decode; None decodes all.

    Returns:
        name -> int64, float32 or object (``bytes``) array. Features without a list are omitted.

    Raises:
        WireError: the bytes are no Example.
    """
    found: dict[str, np.ndarray] = {}
    # Protocol buffers define a sub-message given in several fields as the concatenation of them.
    for entry in wire.read_submessages(b"".join(wire.read_submessages(data, 1)), 1):
        name = b"".join(wire.read_submessages(entry, 1)).decode("utf-8", "replace")
        if names is None or name in names:
            values = _decode_feature(b"".join(wire.read_submessages(entry, 2)))
            if values is not None:
                found[name] = values
    return found


def encode_varints(values: np.ndarray) -> bytes:
    """Return integers as a packed int64 list: their varints one after another."""
    numbers = values.astype(np.int64, copy=False).ravel().view(np.uint64)
    largest = int(numbers.max(initial=0))
    if largest < 0x80:
        return numbers.astype(np.uint8).tobytes()
    width = -(-largest.bit_length() // 7)
    # One row per number, one column per group of seven bits, low first: the number shifted so far
    # that the group is in its low bits. A group is written if it or a higher one is not zero.
    rest = numbers[:, None] >> np.arange(0, 7 * width, 7, dtype=np.uint64)
    needed = rest != 0
    needed[:, 0] = True
    encoded = rest.astype(np.uint8) & 0x7F
    encoded[:, :-1] |= needed[:, 1:].astype(np.uint8) << 7  # another group follows
    return encoded[needed].tobytes()


def decode_varints(data: bytes) -> np.ndarray:
    """Return the integers of a packed int64 list, int64 [n].

    Raises:
        WireError: the bytes end inside a number, or one has more than 64 bits.
    """
    octets = np.frombuffer(data, np.uint8)
    # The top bit of each byte is clear in the last byte of a number. Token ids are often below 128.
    is_last = octets < 0x80
    if is_last.all():
        return octets.astype(np.int64)
    if not is_last[-1]:
        raise wire.WireError("ends inside a number")
    last = np.flatnonzero(is_last)
    first = np.zeros_like(last)
    first[1:] = last[:-1] + 1
    # 64 bits take ten bytes, of which the last has one bit.
    width = int((last - first).max()) + 1
    if width > 10 or (width == 10 and (octets[last[last - first == 9]] > 1).any()):
        raise wire.WireError("holds a number of more than 64 bits")
    # Shift each byte's seven bits to their place in the number, then sum the bytes of each number.
    place = np.arange(len(octets)) - np.repeat(first, last - first + 1)
    bits = (octets & 0x7F).astype(np.uint64) << (7 * place).astype(np.uint64)
    return np.add.reduceat(bits, first).view(np.int64)


def _checksum(data: bytes) -> bytes:
    return masked_crc32c(data).to_bytes(4, "little")


def _read_length(stream: BinaryIO, left: int) -> int:
    """Read the header of a record ``left`` bytes before the end; return the length of its data."""
    header = stream.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise _CorruptRecordError("the file ends inside it", None)
    length, checksum = _HEADER.unpack(header)
    if masked_crc32c(header[:8]) != checksum:
        raise _CorruptRecordError("the checksum of its length does not match", None)
    # Before anything of this length is allocated: a right checksum does not make it plausible.
    if length > left - _FRAME:
        raise _CorruptRecordError(f"the file ends inside its {length} bytes", None)
    if length > _MAX_RECORD:
        raise _CorruptRecordError(f"its {length} bytes are more than {_MAX_RECORD}", None)
    return length


def _read_data(stream: BinaryIO, length: int, following: int) -> bytes:
    """Read the data of a record and verify it; ``following`` is where the next record starts."""
    raw = stream.read(length + 4)
    if len(raw) < length + 4:
        raise _CorruptRecordError(f"the file ends inside its {length} bytes", None)
    if _checksum(raw[:length]) != raw[length:]:
        raise _CorruptRecordError("the checksum of its data does not match", following)
    return raw[:length]


def _find_header(stream: BinaryIO, position: int, size: int) -> int:
    """Return the first offset from ``position`` on with a valid header; ``size`` without one.

    A header is valid if its length fits the file and has the right checksum, which happens by
    chance once in four billion.
    """
    while position + _FRAME <= size:
        stream.seek(position)
        window = stream.read(_BUFFER)
        starts = len(window) - _HEADER.size + 1
        for at in range(starts):
            length, checksum = _HEADER.unpack_from(window, at)
            fits = length <= size - position - at - _FRAME
            if fits and masked_crc32c(window[at : at + 8]) == checksum:
                return position + at
        position += max(1, starts)  # the next window overlaps by a header less one byte
    return size


def _report(error: DataError, on_error: ErrorHandler | None) -> None:
    if on_error is None:
        raise error
    on_error(error)


def _encode_feature(values: Values) -> bytes:
    """Return a Feature message."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "iub":
        kind, content = _INT64_LIST, wire.bytes_field(1, encode_varints(values))
    elif isinstance(values, np.ndarray) and values.dtype.kind == "f":
        kind, content = _FLOAT_LIST, wire.bytes_field(1, values.astype("<f4").tobytes())
    elif isinstance(values, bytes | str) or not all(isinstance(v, bytes) for v in values):
        raise TypeError("a feature is an array of numbers or a sequence of bytes")
    else:
        kind, content = _BYTES_LIST, b"".join(wire.bytes_field(1, bytes(v)) for v in values)
    return wire.bytes_field(kind, content)


def _decode_feature(feature: bytes) -> np.ndarray | None:
    """Return the list of a Feature message; None if it has none."""
    chosen, parts = 0, list[bytes]()
    for number, _, value in wire.read_fields(feature):
        if isinstance(value, bytes) and number in (_BYTES_LIST, _FLOAT_LIST, _INT64_LIST):
            # The lists are alternatives: the last kind counts, in as many parts as it comes.
            if number != chosen:
                parts = []
            parts.append(value)
            chosen = number
    content = b"".join(parts)
    if chosen == _INT64_LIST:
        return decode_varints(_packed(content, wire.VARINT))
    if chosen == _FLOAT_LIST:
        # A copy, which is writable: frombuffer returns read-only views.
        return np.frombuffer(_packed(content, wire.FIXED32), "<f4").astype(np.float32)
    if chosen == _BYTES_LIST:
        strings = list(wire.read_submessages(content, 1))
        array = np.empty(len(strings), object)
        array[:] = strings
        return array
    return None


def _packed(content: bytes, own_kind: int) -> bytes:
    """Return the numbers of a list as packed bytes.

    Joined before they are decoded: a list may come in as many parts as it has numbers.

    Args:
        content: the list message.
        own_kind: wire type of a number that has a field of its own, VARINT or FIXED32.

    Raises:
        WireError: a part ends inside a number, or a number is of another kind.
    """
    parts: list[bytes] = []
    for number, kind, value in wire.read_fields(content):
        if number != 1:
            continue
        if isinstance(value, bytes):
            if own_kind == wire.VARINT and value[-1:] >= b"\x80":
                raise wire.WireError("ends inside a number")
            if own_kind == wire.FIXED32 and len(value) % 4:
                raise wire.WireError("ends inside a float")
            parts.append(value)
        elif kind != own_kind:
            raise wire.WireError(f"holds numbers of wire type {kind} in a list of another kind")
        else:
            parts.append(wire.varint(value) if kind == wire.VARINT else value.to_bytes(4, "little"))
    return b"".join(parts)
