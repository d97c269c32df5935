"""TFRecord files and the ``tf.train.Example`` messages in them, without TensorFlow.

A file is one record after another: length (8 bytes, little endian), checksum of the length (4),
data, checksum of the data (4). Checksums are masked CRC-32C; see
https://www.tensorflow.org/tutorials/load_data/tfrecord. An Example maps names to lists of integers,
floats or byte strings.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from funnel.formats import protobuf_wire as wire
from funnel.formats.crc32c import masked_crc32c
from funnel.utils.errors import DataError
from funnel.utils.files import atomic_path, name_read_errors

_HEADER = struct.Struct("<QI")  # length, its checksum
_FRAME = _HEADER.size + 4  # bytes of a record beside its data
_BUFFER = 1 << 20
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3  # the kinds of a Feature, by field number

Values = np.ndarray | Sequence[bytes]
OnDamage = Callable[[DataError], None]


class Record(NamedTuple):
    """A record: its number in the file (from 0), the byte it starts at, and its data."""

    index: int
    offset: int
    data: bytes

    @property
    def end(self) -> int:
        """The byte at which the next record starts: with ``index + 1``, where to resume."""
        return self.offset + _FRAME + len(self.data)


class _DamageError(Exception):
    """What is wrong with a record, and where the next one starts (None: unknown)."""

    def __init__(self, reason: str, following: int | None) -> None:
        super().__init__(reason)
        self.following = following


def write_records(path: str | os.PathLike[str], records: Iterable[bytes]) -> int:
    """Write a file of records, atomically, as they come. Returns their number.

    Raises:
        FunnelError: the file cannot be written.
    """
    with atomic_path(path) as temporary, open(temporary, "wb", buffering=_BUFFER) as stream:
        return write_records_to(stream, records)


def write_records_to(stream: BinaryIO, records: Iterable[bytes]) -> int:
    """Write records to an open binary file as they come. Returns their number."""
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
    on_damage: OnDamage | None = None,
) -> Iterator[Record]:
    """Yield the records of a file one by one; only one is held in memory.

    Args:
        path: the file.
        start: number of the first record to yield.
        offset: the byte at which record ``start`` begins (``Record.end`` of the one before), where
            it is known. None walks there from record to record without reading their data.
        on_damage: called with the error of a damaged record, which is then skipped; where even its
            length is lost, reading goes on at the next place with a valid one, and what lies
            between counts as one record. None raises the error.

    Raises:
        DataError: the file cannot be read, ends before ``start``, or holds a damaged record; the
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
                    stream.seek(following)
                else:
                    record = Record(index, position, _read_data(stream, length, following))
            except _DamageError as damage:
                _report(_damaged(path, index, position, damage), on_damage)
                known = damage.following
                following = _next_header(stream, position + 1, size) if known is None else known
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
    on_damage: OnDamage | None = None,
) -> Iterator[tuple[Record, dict[str, np.ndarray]]]:
    """Yield every record of :func:`read_records` with its features, as :func:`decode_example`.

    Args:
        names: the features wanted, all of which must be there; the others are not decoded.

    Raises:
        DataError: as there; also if a record is no Example or lacks a feature of ``names``.
    """
    for record in read_records(path, start, offset, on_damage):
        try:
            features = decode_example(record.data, names)
            if missing := sorted(set(names or ()) - features.keys()):
                raise wire.WireError(f"has no feature {missing[0]!r}")
        except wire.WireError as error:
            problem = f"no Example of the wanted features: it {error}"
            damage = DataError(f"{path}, record {record.index} (byte {record.offset}): {problem}")
            _report(damage, on_damage)
            continue
        yield record, features


def encode_example(features: Mapping[str, Values]) -> bytes:
    """Return a serialized ``tf.train.Example``; equal features give equal bytes.

    Args:
        features: name -> values, flattened: an integer or boolean array becomes an int64 list, a
            floating one a float32 list, a sequence of ``bytes`` a bytes list.

    Raises:
        TypeError: values of another kind.
    """
    entries = [
        wire.bytes_field(1, wire.bytes_field(1, name.encode()) + wire.bytes_field(2, feature))
        for name, feature in sorted((name, _encode(v)) for name, v in features.items())
    ]
    return wire.bytes_field(1, b"".join(entries))


def decode_example(data: bytes, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Return the features of a serialized ``tf.train.Example`` as arrays of one dimension.

    Args:
        names: the features to decode; None decodes all.

    Returns:
        name -> int64, float32 or object (``bytes``) array. A feature without a list is left out.

    Raises:
        WireError: the bytes are no Example.
    """
    found: dict[str, np.ndarray] = {}
    # A message that comes in several parts is the same as their bytes joined.
    for entry in _submessages(b"".join(_submessages(data, 1)), 1):
        name = b"".join(_submessages(entry, 1)).decode("utf-8", "replace")
        if names is None or name in names:
            values = _decode(b"".join(_submessages(entry, 2)))
            if values is not None:
                found[name] = values
    return found


def encode_varints(values: np.ndarray) -> bytes:
    """Return integers as varints one after another, as a packed int64 list holds them."""
    numbers = values.astype(np.int64, copy=False).ravel().view(np.uint64)
    largest = int(numbers.max(initial=0))
    if largest < 0x80:
        return numbers.astype(np.uint8).tobytes()
    width = -(-largest.bit_length() // 7)
    # One row per number: what is left of it at each of its groups of seven bits, low first.
    rest = numbers[:, None] >> np.arange(0, 7 * width, 7, dtype=np.uint64)
    needed = rest != 0
    needed[:, 0] = True
    encoded = rest.astype(np.uint8) & 0x7F
    encoded[:, :-1] |= needed[:, 1:].astype(np.uint8) << 7  # the mark that another group follows
    return encoded[needed].tobytes()


def decode_varints(data: bytes) -> np.ndarray:
    """Return the integers of a packed int64 list, int64 [n].

    Raises:
        WireError: the bytes end inside a number, or one has more than 64 bits.
    """
    octets = np.frombuffer(data, np.uint8)
    is_last = octets < 0x80
    if is_last.all():
        return octets.astype(np.int64)
    if not is_last[-1]:
        raise wire.WireError("ends inside a number")
    last = np.flatnonzero(is_last)
    first = np.zeros_like(last)
    first[1:] = last[:-1] + 1
    width = int((last - first).max()) + 1
    if width > 10 or (width == 10 and (octets[last[last - first == 9]] > 1).any()):
        raise wire.WireError("holds a number of more than 64 bits")
    # Each byte's place in its number, from the distance to where the number starts.
    place = np.arange(len(octets)) - np.repeat(first, last - first + 1)
    bits = (octets & 0x7F).astype(np.uint64) << (7 * place).astype(np.uint64)
    return np.add.reduceat(bits, first).view(np.int64)


def _checksum(data: bytes) -> bytes:
    return masked_crc32c(data).to_bytes(4, "little")


def _read_length(stream: BinaryIO, left: int) -> int:
    """The length of the data of the record that starts here, ``left`` bytes before the end."""
    header = stream.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise _DamageError("the file ends inside it", None)
    length, checksum = _HEADER.unpack(header)
    if masked_crc32c(header[:8]) != checksum:
        raise _DamageError("the checksum of its length does not match", None)
    if length > left - _FRAME:
        raise _DamageError(f"the file ends inside its {length} bytes", None)
    return length


def _read_data(stream: BinaryIO, length: int, following: int) -> bytes:
    raw = stream.read(length + 4)
    if len(raw) < length + 4:
        raise _DamageError(f"the file ends inside its {length} bytes", None)
    if _checksum(raw[:length]) != raw[length:]:
        raise _DamageError("the checksum of its data does not match", following)
    return raw[:length]


def _next_header(stream: BinaryIO, position: int, size: int) -> int:
    """The first byte from ``position`` on at which a record can start; ``size`` if there is none.

    A place is taken for a start if its length fits the file and the checksum of it matches, which
    happens by chance once in four billion.
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
        position += max(1, starts)
    return size


def _damaged(path: Path, index: int, position: int, damage: _DamageError) -> DataError:
    return DataError(f"{path}, record {index} (byte {position}): damaged: {damage}")


def _report(error: DataError, on_damage: OnDamage | None) -> None:
    if on_damage is None:
        raise error
    on_damage(error)


def _encode(values: Values) -> bytes:
    """A Feature message."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "iub":
        kind, content = _INT64_LIST, wire.bytes_field(1, encode_varints(values))
    elif isinstance(values, np.ndarray) and values.dtype.kind == "f":
        kind, content = _FLOAT_LIST, wire.bytes_field(1, values.astype("<f4").tobytes())
    elif isinstance(values, bytes | str) or not all(isinstance(v, bytes) for v in values):
        raise TypeError("a feature is an array of numbers or a sequence of bytes")
    else:
        kind, content = _BYTES_LIST, b"".join(wire.bytes_field(1, bytes(v)) for v in values)
    return wire.bytes_field(kind, content)


def _decode(feature: bytes) -> np.ndarray | None:
    """The list of a Feature message; None where it has none."""
    chosen, content = 0, b""
    for number, kind, value in wire.read_fields(feature):
        if kind == wire.BYTES and number in (_BYTES_LIST, _FLOAT_LIST, _INT64_LIST):
            content = content + value if number == chosen else value
            chosen = number
    if chosen == _INT64_LIST:
        return _joined([decode_varints(raw) for raw in _packed(content, wire.VARINT)], np.int64)
    if chosen == _FLOAT_LIST:
        return _joined([_floats(raw) for raw in _packed(content, wire.FIXED32)], np.float32)
    if chosen == _BYTES_LIST:
        strings = list(_submessages(content, 1))
        array = np.empty(len(strings), object)
        array[:] = strings
        return array
    return None


def _packed(content: bytes, single: int) -> Iterator[bytes]:
    """The numbers of a list as packed bytes; writers may also give them one by one, unpacked."""
    for number, kind, value in wire.read_fields(content):
        if number == 1 and kind == wire.BYTES:
            yield value
        elif number == 1 and kind == single:
            yield wire.varint(value) if kind == wire.VARINT else value.to_bytes(4, "little")


def _floats(packed: bytes) -> np.ndarray:
    if len(packed) % 4:
        raise wire.WireError("ends inside a float")
    return np.frombuffer(packed, "<f4")


def _joined(parts: list[np.ndarray], dtype: type[np.generic]) -> np.ndarray:
    # Always a copy, which can be written to: frombuffer gives views of immutable bytes.
    return np.concatenate(parts, dtype=dtype) if parts else np.zeros(0, dtype)


def _submessages(message: bytes, number: int) -> Iterator[bytes]:
    """The sub-messages (or strings) that a message holds under a field number."""
    for found, kind, value in wire.read_fields(message):
        if found == number and kind == wire.BYTES:
            yield value
