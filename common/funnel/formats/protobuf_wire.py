"""The parts of the protocol-buffer wire format that TensorFlow's files use.

A message is a sequence of fields. Each begins with a key, the varint ``number << 3 | wire type``:

    0  varint   integers and booleans, 7 bits a byte, least significant group first; the top bit of
                a byte is set if another follows
    1  fixed64  8 bytes, little endian
    2  bytes    a varint length, then strings, bytes, sub-messages or packed lists of numbers
    5  fixed32  4 bytes, little endian

The "group" types 3 and 4 are obsolete and treated as corrupt. Fields may come in any order, and
proto3 omits those that are zero. See https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_UINT64 = 1 << 64


class WireError(ValueError):
    """Bytes that are no valid message; the caller adds the name of the file."""


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Return the unsigned varint at ``position`` and the position after it."""
    value = 0
    for shift in range(0, 70, 7):  # 64 bits take at most ten groups
        if position >= len(data):
            raise WireError("ends inside a number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= _UINT64:
                break
            return value, position
    raise WireError("holds a number of more than 64 bits")


def varint(value: int) -> bytes:
    """Encode an integer; a negative one as its 64-bit two's complement, in ten bytes."""
    value %= _UINT64  # Python's modulo gives the two's complement of a negative number
    groups = bytearray()
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def read_fields(message: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Yield every field of a message as (number, wire type, value).

    Values are ``bytes`` for the wire type BYTES and unsigned integers for the others.

    Raises:
        WireError: the bytes are no valid message.
    """
    position = 0
    while position < len(message):
        key, position = read_varint(message, position)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise WireError("holds field number 0")
        if kind == VARINT:
            value, position = read_varint(message, position)
            yield number, kind, value
            continue
        if kind == BYTES:
            size, position = read_varint(message, position)
        elif kind in (FIXED64, FIXED32):
            size = 8 if kind == FIXED64 else 4
        else:
            raise WireError(f"holds a field of wire type {kind}")
        # A slice beyond the end would be shorter without an error.
        if size > len(message) - position:
            raise WireError("ends inside a field")
        raw = message[position : position + size]
        position += size
        yield number, kind, raw if kind == BYTES else int.from_bytes(raw, "little")


def read_submessages(message: bytes, number: int) -> Iterator[bytes]:
    """Yield the sub-messages (or strings) of a message under a field number."""
    for found, _, value in read_fields(message):
        if found == number and isinstance(value, bytes):
            yield value


def signed(value: int) -> int:
    """Reinterpret an unsigned varint as int64."""
    return value - _UINT64 if value >= _UINT64 // 2 else value


def varint_field(number: int, value: int) -> bytes:
    """Encode an integer field; empty if zero, as proto3 does."""
    return varint(number << 3 | VARINT) + varint(value) if value else b""


def bytes_field(number: int, value: bytes) -> bytes:
    """Encode a string, bytes or sub-message field, even if empty."""
    return varint(number << 3 | BYTES) + varint(len(value)) + value


def fixed32_field(number: int, value: int) -> bytes:
    """Encode a four-byte field; empty if zero, as proto3 does."""
    return varint(number << 3 | FIXED32) + value.to_bytes(4, "little") if value else b""
