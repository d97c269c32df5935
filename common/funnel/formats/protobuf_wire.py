"""The parts of the protocol-buffer wire format that checkpoint files use, read and written by hand.

A message is a run of fields, each a key (field number and wire type) and a value. Five wire types
exist; the two "group" types were withdrawn and are refused like any other damage. See
https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_UINT64 = 1 << 64


class WireError(ValueError):
    """Bytes that are no message; the caller knows which file to name."""


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """The unsigned number at ``position`` (7 bits a byte, low first) and where the next one is."""
    value = 0
    for shift in range(0, 70, 7):
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
    """A whole number in 7-bit groups; a negative one as its 64-bit two's complement."""
    value %= _UINT64
    groups = bytearray()
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def read_fields(message: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Every field of a message as (number, wire type, value); fixed and varint values as int.

    Raises:
        WireError: the bytes are no message.
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
        if size > len(message) - position:
            raise WireError("ends inside a field")
        raw = message[position : position + size]
        position += size
        yield number, kind, raw if kind == BYTES else int.from_bytes(raw, "little")


def signed(value: int) -> int:
    """A varint read as int64, which is how protocol buffers write negative int32 and int64."""
    return value - _UINT64 if value >= _UINT64 // 2 else value


def varint_field(number: int, value: int) -> bytes:
    """An integer field, left out when zero as proto3 does."""
    return varint(number << 3 | VARINT) + varint(value) if value else b""


def bytes_field(number: int, value: bytes) -> bytes:
    """A string, bytes or sub-message field, written even when empty."""
    return varint(number << 3 | BYTES) + varint(len(value)) + value


def fixed32_field(number: int, value: int) -> bytes:
    """A four-byte field, left out when zero as proto3 does."""
    return varint(number << 3 | FIXED32) + value.to_bytes(4, "little") if value else b""
