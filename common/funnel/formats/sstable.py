"""Sorted string tables in LevelDB's file format, used for the index of a TensorFlow checkpoint.

File:     data blocks, meta-index block (here empty), index block, footer.
Block:    entries in ascending order of their keys, the offsets of the restarts (uint32 each), their
          number (uint32). In the file it is followed by a trailer: one byte for the compression
          (0: none) and a masked CRC-32C (uint32) of block and compression byte.
Entry:    three varints (bytes of the key shared with the previous key, bytes of the key that
          follow, bytes of the value), the rest of the key, the value.
Restart:  an entry that stores its complete key, so that readers can search a block by bisection.
          Every 16th entry is one, as is the first.
Handle:   two varints, offset and size of a block without its trailer.
Footer:   handles of the meta-index and index blocks, zeros up to 40 bytes, 8 bytes of magic number.

The index block has one entry per data block: a key not below the block's last key, and the block's
handle. Numbers are little endian. See ``doc/table_format.md`` in the LevelDB source.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from funnel.formats.crc32c import crc32c, mask
from funnel.formats.protobuf_wire import WireError, read_varint, varint
from funnel.utils.errors import CheckpointError
from funnel.utils.files import name_read_errors

_MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
_FOOTER_SIZE = 48
_TRAILER_SIZE = 5  # compression, checksum
_BLOCK_SIZE = 1 << 18  # bytes after which a block is closed, as in TensorFlow
_RESTART_INTERVAL = 16
_SNAPPY = 1


def read_table(path: Path) -> dict[bytes, bytes]:
    """Return all entries of a table file in order of their keys, every checksum verified.

    Raises:
        CheckpointError: the file cannot be read, is no table, or is truncated or corrupt.
    """
    with name_read_errors(path, CheckpointError):
        data = path.read_bytes()
    if len(data) < _FOOTER_SIZE or data[-8:] != _MAGIC:
        raise CheckpointError(
            f"{path}: is no TensorFlow checkpoint index, or is truncated ({len(data)} bytes, "
            "the magic number at its end is missing)"
        )
    try:
        return _parse(data)
    except WireError as error:
        raise CheckpointError(f"{path}: corrupt checkpoint index: it {error}") from None


def table_bytes(items: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the file content of a table; ``items`` must be in strictly ascending order of keys."""
    table, index, block = bytearray(), _Block(), _Block()
    for key, value in items:
        block.add(key, value)
        if block.size >= _BLOCK_SIZE:
            # LevelDB shortens index keys to any that separates two blocks; the last key is one.
            index.add(key, _append(table, block))
            block = _Block()
    if block.last is not None:
        index.add(block.last, _append(table, block))
    # The meta-index block is for filters, which checkpoints do not have; the format requires it.
    footer = _append(table, _Block()) + _append(table, index)
    return bytes(table) + footer.ljust(_FOOTER_SIZE - len(_MAGIC), b"\0") + _MAGIC


def _parse(data: bytes) -> dict[bytes, bytes]:
    footer = data[-_FOOTER_SIZE:]
    meta_index, position = _read_handle(footer, 0)
    index, _ = _read_handle(footer, position)
    _read_block(data, meta_index)  # empty in checkpoints; read to verify its checksum
    entries: dict[bytes, bytes] = {}
    last: bytes | None = None
    # The index block's keys are needed for bisection only; its values are the handles in order.
    for handle in _read_block(data, index).values():
        block = _read_block(data, _read_handle(handle, 0)[0])
        for key in block:
            if last is not None and key <= last:
                raise WireError("has keys out of order")
            last = key
        entries |= block
    return entries


def _read_handle(data: bytes, position: int) -> tuple[tuple[int, int], int]:
    """Return (offset, size) of a block, and the position after the handle."""
    offset, position = read_varint(data, position)
    size, position = read_varint(data, position)
    return (offset, size), position


def _read_block(data: bytes, handle: tuple[int, int]) -> dict[bytes, bytes]:
    """Verify a block's trailer and return its entries."""
    offset, size = handle
    end = offset + size
    if end + _TRAILER_SIZE > len(data) - _FOOTER_SIZE or size < 4:
        raise WireError("points outside of the file")
    # The checksum covers the block and the compression byte after it.
    stored = int.from_bytes(data[end + 1 : end + _TRAILER_SIZE], "little")
    if mask(crc32c(data[offset : end + 1])) != stored:
        raise WireError("has a block whose checksum does not match")
    if data[end] == _SNAPPY:
        raise WireError("is compressed with snappy, which TensorFlow does not use for checkpoints")
    if data[end] != 0:
        raise WireError(f"has a block of unknown compression {data[end]}")
    return _read_entries(data[offset:end])


def _read_entries(block: bytes) -> dict[bytes, bytes]:
    """Return the entries of a block by reading all of it, which needs no restarts."""
    restarts = int.from_bytes(block[-4:], "little")
    limit = len(block) - 4 * (restarts + 1)  # where the entries end
    if limit < 0:
        raise WireError("has a block shorter than its list of restarts")
    entries: dict[bytes, bytes] = {}
    key, position = b"", 0
    while position < limit:
        # Keys share prefixes, so names like model/encoder/layer_0/... take few bytes.
        shared, position = read_varint(block, position)
        rest, position = read_varint(block, position)
        size, position = read_varint(block, position)
        if shared > len(key) or rest + size > limit - position:
            raise WireError("has an entry that runs over its block")
        key = key[:shared] + block[position : position + rest]
        position += rest
        entries[key] = block[position : position + size]
        position += size
    return entries


class _Block:
    """Builder of one block."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._restarts = [0]
        self._since_restart = 0
        self.last: bytes | None = None

    @property
    def size(self) -> int:
        return len(self._data)

    def add(self, key: bytes, value: bytes) -> None:
        if self.last is not None and key <= self.last:
            raise ValueError(f"keys must ascend: {key!r} after {self.last!r}")
        shared = 0
        # A restart shares nothing with the key before.
        if self._since_restart == _RESTART_INTERVAL:
            self._restarts.append(len(self._data))
            self._since_restart = 0
        elif self.last is not None:
            shared = len(os.path.commonprefix([key, self.last]))  # noqa: RUF071 - bytes, no paths
        self._data += varint(shared) + varint(len(key) - shared) + varint(len(value))
        self._data += key[shared:] + value
        self._since_restart += 1
        self.last = key

    def finish(self) -> bytes:
        numbers = [*self._restarts, len(self._restarts)]
        return bytes(self._data) + b"".join(number.to_bytes(4, "little") for number in numbers)


def _append(table: bytearray, block: _Block) -> bytes:
    """Append a block with its trailer to ``table`` and return its handle."""
    content = block.finish()
    handle = varint(len(table)) + varint(len(content))
    table += content + b"\0" + mask(crc32c(content + b"\0")).to_bytes(4, "little")
    return handle
