"""Text files as people have them: compressed or not, with any line ends, UTF-8 or named as not.

Readers of tables, corpora and folders of texts share this module, so that a file which one program
reads is read by all.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from funnel.utils.compressed import SUFFIXES, SequentialReader
from funnel.utils.errors import DataError, FunnelError

_READ_BYTES = 1 << 20
_FIRST_LINE = 16 << 20  # bytes searched for a line feed before carriage returns are line ends
_LONGEST_LINE = 64 << 20  # bytes; a longer line is none of text, and a line is held in memory
# Deflate's limit is 1032, so it is other kinds of compression that are refused: memory is bounded
# by the longest line, and this bounds the time.
MAX_GROWTH = 1000
MAX_GROWTH_IN_MEMORY = 100
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_FOREIGN_MARKS = (b"\xff\xfe", b"\xfe\xff")  # byte order marks of UTF-16 and UTF-32 (little)
FOREIGN = "UTF-16 or UTF-32; save it as UTF-8"
# For the programs that take no encoding: most text that is not UTF-8 is from Western Windows.
TO_UTF8 = "save it as UTF-8, for example with iconv -f cp1252 -t utf-8"
_ZERO_SHARE = 0.2  # Latin text in UTF-16 has one zero byte in two; in UTF-8 text it is an error


class ForeignTextError(DataError):
    """A file in UTF-16 or UTF-32."""


class TextLine(NamedTuple):
    """A line without its end; ``problem`` if it is not UTF-8, with U+FFFD for invalid bytes."""

    number: int
    text: str
    problem: str | None


class Transcoder:
    """The bytes of a text file in any encoding, as UTF-8.

    Args:
        stream: the bytes as they are.
        path: the file, for messages.
        encoding: a name that :func:`check_encoding` accepts.
    """

    def __init__(
        self, stream: SequentialReader, path: str | os.PathLike[str], encoding: str
    ) -> None:
        self._stream, self._path, self._encoding = stream, path, encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._lines = 0

    def read(self, size: int) -> bytes:
        """Return the next bytes, about ``size``; none at the end only.

        Raises:
            DataError: the file is in another encoding, or cannot be read.
        """
        text = ""
        while not text:
            raw = self._stream.read(size)
            try:
                text = self._decoder.decode(raw, final=not raw)
            except UnicodeError as error:
                reason = getattr(error, "reason", error)
                raise DataError(
                    f"{self._path}: not {self._encoding} after line {self._lines}: {reason}"
                ) from None
            if not raw:
                break
        self._lines += text.count("\n")
        return text.encode("utf-8", errors="surrogatepass")


class Utf8Reader:
    """The characters of a UTF-8 file, without a byte order mark.

    Args:
        stream: the bytes of the file.
        path: the file, for messages.
    """

    def __init__(self, stream: SequentialReader, path: str | os.PathLike[str]) -> None:
        self._stream, self._path = stream, path
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._line, self._column = 1, 0  # of the bytes that were decoded

    def read(self, size: int) -> str:
        """Return the next characters, about ``size``; none at the end only.

        Raises:
            DataError: the file cannot be read or is not UTF-8; names the line.
        """
        text = ""
        while not text:
            raw = self._stream.read(size)
            try:
                text = self._decoder.decode(raw, final=not raw)
            except UnicodeDecodeError as caught:
                self._count(caught.object[: caught.start])
                where = f"byte {self._column + 1} of line {self._line}"
                raise DataError(f"{self._path}: not UTF-8 at {where}; {TO_UTF8}") from None
            if not raw:
                break
        self._count(text.encode("utf-8"))
        return text

    def _count(self, decoded: bytes) -> None:
        self._line += decoded.count(b"\n")
        last = decoded.rfind(b"\n")
        self._column = len(decoded) - last - 1 if last >= 0 else self._column + len(decoded)


def check_encoding(name: str, error: type[FunnelError] = DataError) -> str:
    """Return the usual name of a text encoding.

    Raises:
        FunnelError: there is no such encoding. The class is ``error``.
    """
    try:
        found = codecs.lookup(name)
        "".encode(found.name)  # "base64" and others are no encodings of text
    except (LookupError, ValueError):
        raise error(
            f"encoding {name!r} is unknown; it is utf-8, latin-1, cp1252, utf-16 or another that "
            "Python knows"
        ) from None
    return found.name


def read_lines(path: str | os.PathLike[str], encoding: str = "utf-8") -> Iterator[TextLine]:
    r"""Yield every line of a text file; gzip, bzip2 and xz data is decompressed.

    LF or CRLF ends a line. Unicode separators and lone CRs, where other readers split, occur inside
    sentences of real data; in a file whose first 16 MiB have a CR but no LF, every CR ends a line.
    A UTF-8 byte order mark is skipped. One line is held in memory.

    Args:
        path: the file.
        encoding: of the file, as :func:`check_encoding` returns it. A line that is not UTF-8 is
            yielded with its problem; a file that is not in another encoding is an error.

    Raises:
        DataError: the file cannot be read, is corrupt, or is UTF-16 or UTF-32 though that is not
            its ``encoding``, or a line is longer than 64 MiB.
    """
    with SequentialReader(path, MAX_GROWTH) as stream:
        yield from split_lines(path, stream, encoding)


def split_lines(
    path: str | os.PathLike[str], stream: SequentialReader, encoding: str = "utf-8"
) -> Iterator[TextLine]:
    """Yield every line of an open file; see :func:`read_lines`."""
    is_utf8 = encoding == "utf-8"
    source = stream if is_utf8 else Transcoder(stream, path, encoding)
    for number, raw in enumerate(_split(path, source), start=1):
        if number == 1:
            if is_utf8 and is_foreign(raw):
                raise ForeignTextError(f"{path}:1: is {FOREIGN}")
            raw = raw.removeprefix(_BYTE_ORDER_MARK)
        try:
            yield TextLine(number, raw.decode("utf-8"), None)
        except UnicodeDecodeError as error:
            problem = f"not UTF-8 at byte {error.start + 1} of the line"
            yield TextLine(number, raw.decode("utf-8", errors="replace"), problem)


def read_text(path: str | os.PathLike[str], error: type[FunnelError] = DataError) -> str:
    """Return a text file, decompressed if it is gzip, bzip2 or xz data; line ends are unchanged.

    Raises:
        FunnelError: the file cannot be read, is corrupt, expands more than a hundredfold, or is not
            UTF-8; names the line. The class is ``error``.
    """
    with SequentialReader(path, MAX_GROWTH_IN_MEMORY, error) as stream:
        raw = stream.read()
    if is_foreign(raw):
        raise error(f"{path}:1: is {FOREIGN}")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as caught:
        before = raw[: caught.start]
        line, column = before.count(b"\n") + 1, caught.start - before.rfind(b"\n")
        where = f"byte {column} of line {line}"
        raise error(f"{path}: not UTF-8 at {where}; {TO_UTF8}") from None


def list_texts(folder: Path) -> list[Path]:
    """Return the files ``*.txt`` of a folder, compressed ones included, sorted by name."""
    plain = sorted(folder.glob("*.txt"))
    packed = [path for suffix in SUFFIXES for path in folder.glob(f"*.txt{suffix}")]
    return sorted([*plain, *packed]) if packed else plain


def find_file(folder: Path, name: str) -> Path | None:
    """Return ``folder/name``, or that with the suffix of a compressed file; None without either."""
    candidates = (folder / f"{name}{suffix}" for suffix in ("", *SUFFIXES))
    return next((path for path in candidates if path.is_file()), None)


def is_split_by_carriage_returns(start: bytes) -> bool:
    """Return whether CR ends the lines of a file that begins with ``start`` (old Macintosh)."""
    return b"\n" not in start and b"\r" in start.removesuffix(b"\r")


def is_foreign(start: bytes) -> bool:
    """Return whether a text that begins with ``start`` is UTF-16 or UTF-32."""
    start = start[:4096]
    has_zeros = len(start) >= 8 and start.count(0) > _ZERO_SHARE * len(start)
    return start.startswith(_FOREIGN_MARKS) or has_zeros


def _split(path: str | os.PathLike[str], stream: SequentialReader | Transcoder) -> Iterator[bytes]:
    """Yield the lines of a stream without their ends."""
    number, pending = 0, b""
    start = stream.read(_READ_BYTES)
    while b"\n" not in start and len(start) < _FIRST_LINE and (more := stream.read(_READ_BYTES)):
        start += more
    by_carriage_return = is_split_by_carriage_returns(start)
    chunk = start
    while chunk:
        chunk = pending + chunk
        if by_carriage_return:
            # A CR at the end may be the first half of CRLF.
            held = b"\r" if chunk.endswith(b"\r") else b""
            chunk = chunk.removesuffix(b"\r").replace(b"\r\n", b"\n").replace(b"\r", b"\n") + held
        *lines, pending = chunk.split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r")
        number += len(lines)
        if len(pending) > _LONGEST_LINE:
            raise DataError(f"{path}:{number + 1}: the line has over {_LONGEST_LINE >> 20} MiB")
        chunk = stream.read(_READ_BYTES)
    if pending:
        yield pending.removesuffix(b"\r")
