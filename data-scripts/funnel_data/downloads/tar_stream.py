"""Members of a tar archive, read as a stream with bounded memory.

:mod:`tarfile` reads extended headers of any size into memory, several times, and searches sparse
files in quadratic time. Archives of data need neither: here an extended header has at most a
megabyte, and sparse files are refused.

An archive is a sequence of blocks of 512 bytes: a header, then the content of the member, padded
to complete blocks. Headers of some types carry, as their content, attributes of the next member:
its name if longer than 100 bytes (GNU, type L), or lines ``length key=value`` (pax, type x).
See https://www.gnu.org/software/tar/manual/html_node/Standard.html.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from typing import NamedTuple, Protocol

_BLOCK = 512
_MAX_HEADER = 1 << 20  # bytes of an extended header
_READ_BYTES = 1 << 20
_FOLDER, _FILES = tarfile.DIRTYPE, (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_LONG = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_EXTENDED = (*_PAX, tarfile.XGLTYPE, *_LONG)


class Readable(Protocol):
    """A stream of bytes."""

    def read(self, size: int, /) -> bytes:
        """Return the next ``size`` bytes, fewer only at the end."""
        ...


class TarMember(NamedTuple):
    """A member. ``content`` is valid until the next one is asked for; None without content."""

    name: str
    is_folder: bool
    problem: str | None
    content: io.RawIOBase | None


def read_members(stream: Readable) -> Iterator[TarMember]:
    """Yield the members of an uncompressed tar archive, and read the stream to its end.

    Raises:
        tarfile.TarError: the archive is corrupt or truncated.
    """
    changes: dict[str, str] = {}
    while (header := _read_header(stream)) is not None:
        if header.size < 0:
            raise tarfile.ReadError(f"{header.name!r} has a negative size")
        if header.type in _EXTENDED:
            changes |= _read_changes(stream, header)
            continue
        name, size = changes.get("path", header.name), _size(changes, header)
        is_sparse = any(key.startswith("GNU.sparse.") for key in changes)
        if is_sparse or header.type == tarfile.GNUTYPE_SPARSE:
            yield TarMember(name, False, "it is a sparse file", None)
        elif header.type in _FILES:
            content = _Content(stream, size)
            yield TarMember(name, False, None, content)
            _skip(content)
            _read_exactly(stream, -size % _BLOCK)
        else:
            is_folder = header.type == _FOLDER
            yield TarMember(name, is_folder, None if is_folder else "it is a link or device", None)
        changes = {}
    _skip(stream)


def _read_header(stream: Readable) -> tarfile.TarInfo | None:
    """Return the next header; None at the end of the archive."""
    block = stream.read(_BLOCK)
    if not block or block == bytes(_BLOCK):
        return None
    return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")


def _read_changes(stream: Readable, header: tarfile.TarInfo) -> dict[str, str]:
    """Read an extended header; return the attributes of the next member that it has."""
    if header.size > _MAX_HEADER:
        raise tarfile.ReadError(
            f"an extended header has {header.size} bytes, more than {_MAX_HEADER}"
        )
    content = _read_exactly(stream, header.size)
    _read_exactly(stream, -header.size % _BLOCK)
    if header.type == tarfile.GNUTYPE_LONGNAME:
        return {"path": content.partition(b"\0")[0].decode("utf-8", "surrogateescape")}
    # Names of links are not needed, nor are attributes of all members (git's comment).
    return dict(_pax_records(content)) if header.type in _PAX else {}


def _pax_records(content: bytes) -> Iterator[tuple[str, str]]:
    position = 0
    while position < len(content) and content[position]:
        digits, blank, _ = content[position : position + 9].partition(b" ")
        if not (blank and digits.isdigit()):
            raise tarfile.ReadError("an extended header is no list of `length key=value`")
        end = position + int(digits)
        line = content[position + len(digits) + 1 : end]
        key, equals, value = line[:-1].partition(b"=")
        if end > len(content) or not equals or line[-1:] != b"\n":
            raise tarfile.ReadError("an extended header is no list of `length key=value`")
        yield key.decode("utf-8", "replace"), value.decode("utf-8", "surrogateescape")
        position = end


def _size(changes: dict[str, str], header: tarfile.TarInfo) -> int:
    text = changes.get("size")
    if text is None:
        return header.size
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise tarfile.ReadError(f"{header.name!r} has the size {text[:30]!r}")
    return int(text)


class _Content(io.RawIOBase):
    """The next ``size`` bytes of a stream."""

    def __init__(self, stream: Readable, size: int) -> None:
        super().__init__()
        self._stream, self._left = stream, size

    def read(self, size: int = -1) -> bytes:
        """Return the next ``size`` bytes, fewer only at the end."""
        wanted = self._left if size < 0 else min(size, self._left)
        data = _read_exactly(self._stream, wanted)
        self._left -= len(data)
        return data


def _read_exactly(stream: Readable, size: int) -> bytes:
    data = stream.read(size) if size else b""
    if len(data) < size:
        raise tarfile.ReadError("unexpected end of data")
    return data


def _skip(stream: Readable) -> None:
    while stream.read(_READ_BYTES):
        continue
