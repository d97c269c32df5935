"""Readers of text corpora: plain text, JSON lines, Common Crawl's WET files, Gigaword's SGML.

Files may be compressed (gzip, bzip2, xz), which their name or their content shows. Lines end
with LF, CRLF or, in a file without any LF, CR. Memory use is that of the largest document.
"""

from __future__ import annotations

import contextlib
import glob
import gzip
import html
import json
import lzma
import os
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import IO

from funnel.utils.compressed import SUFFIXES, find_opener
from funnel.utils.errors import DataError
from funnel.utils.text import is_empty_line, split_lines
from funnel.utils.text_files import is_split_by_carriage_returns
from funnel_data.corpora.sentences import split_sentences
from funnel_data.corpora.sharding import ByteRange

FORMATS = ("auto", "txt", "jsonl", "wet", "gigaword")
_PAGE_DIGITS = 8  # of the length of a web page, which is held in memory
_START = 1 << 20  # bytes searched for line ends
DOCUMENTS = ("blank_line", "line", "file")
LINES = ("paragraph", "wrapped", "sentence")
TEXT_SUFFIXES = {
    ".txt": "txt",
    ".text": "txt",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".wet": "wet",
}


@dataclass(frozen=True)
class TextOptions:
    """Settings of :class:`TextReader`.

    Attributes:
        format: one of ``FORMATS``; ``auto`` decides by file name suffix.
        documents: end of a document in a plain text file, one of ``DOCUMENTS``.
        lines: meaning of a line, one of ``LINES``.
        text_key: key of the text in JSON lines.
        encoding: encoding of plain text and JSON lines.
        errors: treatment of invalid bytes, as in ``bytes.decode``.
    """

    format: str = "auto"
    documents: str = "blank_line"
    lines: str = "paragraph"
    text_key: str = "text"
    encoding: str = "utf-8"
    errors: str = "strict"

    def detect_format(self, path: str) -> str:
        """Return the format of a file; with ``auto``, ``txt`` for unknown suffixes."""
        if self.format != "auto":
            return self.format
        return TEXT_SUFFIXES.get(_suffix(path), "txt")

    def is_splittable(self, path: str) -> bool:
        """Whether documents can be read from a position within a file."""
        format_ = self.detect_format(path)
        by_line = format_ == "jsonl" or (format_ == "txt" and self.documents != "file")
        return by_line and find_opener(path) is None and not _has_carriage_returns(path)


def find_files(patterns: Sequence[str]) -> list[str]:
    """Return the paths that names and patterns match, sorted and without duplicates.

    Raises:
        DataError: nothing matches a pattern.
    """
    found: set[str] = set()
    for pattern in patterns:
        matches = [pattern] if os.path.isfile(pattern) else glob.glob(pattern, recursive=True)
        if not matches:
            raise DataError(f"--input {pattern}: no such file")
        found.update(matches)
    return sorted(found)


def find_text_files(inputs: Sequence[str], options: TextOptions) -> list[str]:
    """Return the text files that names, folders and patterns match, sorted, without duplicates.

    Folders contribute the files with a known suffix, or all files if the format is set, except for
    hidden ones.

    Raises:
        DataError: no file matches an input.
    """
    found: set[str] = set()
    for name in inputs:
        matches = [name] if os.path.exists(name) else glob.glob(name, recursive=True)
        files = {path for match in matches for path in _text_files_in(match, options)}
        if not files:
            raise DataError(f"--input {name}: there is no text file")
        found |= files
    return sorted(found)


@dataclass(frozen=True)
class TextReader:
    """Documents of text files; see :class:`funnel_data.corpora.sharding.Reader`."""

    options: TextOptions

    def read_documents(self, source: ByteRange) -> Iterator[list[str]]:
        """Yield the documents that begin in a byte range.

        Raises:
            DataError: the file cannot be read, is corrupt, or has another format.
        """
        format_ = self.options.detect_format(source.path)
        with _read_errors_named(source.path), _open(source.path) as stream:
            if find_opener(source.path) is not None:
                # One range, whose end counts other bytes than positions do.
                source = replace(source, end=sys.maxsize)
            if format_ == "wet":
                yield from (self._sentences(lines) for lines in _wet_records(stream, source.path))
            elif format_ == "gigaword":
                texts = (text for _, text in self._lines(stream, source))
                yield from (_sentences(lines, "wrapped") for lines in _gigaword_documents(texts))
            elif format_ == "jsonl":
                yield from map(self._sentences, self._json_texts(stream, source))
            else:
                yield from map(self._sentences, self._plain_documents(stream, source))

    def _sentences(self, lines: Iterable[str]) -> list[str]:
        return _sentences(lines, self.options.lines)

    def _lines(self, stream: IO[bytes], source: ByteRange) -> Iterator[tuple[int, str]]:
        """Yield (position, line) from the first line that begins in the range to the file's end."""
        position = source.start
        if position:
            # A line that began earlier belongs to the previous range: skip to its end, which may be
            # the byte just before this range.
            stream.seek(position - 1)
            position += len(stream.readline()) - 1
        for raw in _raw_lines(stream, source.path):
            try:
                line = raw.decode(self.options.encoding, self.options.errors)
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{source.path}, byte {position + error.start}: not {self.options.encoding} "
                    "text; see --encoding and --errors"
                ) from error
            yield position, line if position else line.removeprefix("\ufeff")
            position += len(raw)

    def _plain_documents(self, stream: IO[bytes], source: ByteRange) -> Iterator[list[str]]:
        """Yield documents; one belongs to the range in which the empty line before it begins."""
        lines = self._lines(stream, source)
        if self.options.documents == "file":
            yield [line for _, line in lines]
            return
        if self.options.documents == "line":
            yield from ([line] for _, line in _within(lines, source) if not is_empty_line(line))
            return
        document: list[str] = []
        is_ours = source.start == 0
        for position, line in lines:
            if not is_empty_line(line):
                if is_ours:
                    document.append(line)
                continue
            if document:
                yield document
            if _is_after(position, source):
                return
            document, is_ours = [], True
        if document:
            yield document

    def _json_texts(self, stream: IO[bytes], source: ByteRange) -> Iterator[list[str]]:
        key = self.options.text_key
        for position, line in _within(self._lines(stream, source), source):
            if is_empty_line(line):
                continue
            try:
                text = json.loads(line)[key]
            except ValueError as error:
                raise DataError(f"{source.path}, byte {position}: not JSON: {error}") from error
            except (KeyError, TypeError) as error:
                raise DataError(f"{source.path}, byte {position}: no key {key!r}") from error
            if not isinstance(text, str):
                raise DataError(f"{source.path}, byte {position}: {key!r} is not a string")
            yield split_lines(text)


def _within(lines: Iterable[tuple[int, str]], source: ByteRange) -> Iterator[tuple[int, str]]:
    for position, line in lines:
        if _is_after(position, source):
            return
        yield position, line


def _is_after(position: int, source: ByteRange) -> bool:
    """Whether a line begins after a range."""
    return position >= source.end


def _sentences(lines: Iterable[str], kind: str) -> list[str]:
    """Return the sentences of a document, with runs of white space replaced by one space."""
    tidy = (" ".join(line.split()) for line in lines)
    if kind == "sentence":
        return [line for line in tidy if line]
    if kind == "wrapped":
        tidy = (" ".join(group) for is_text, group in groupby(tidy, bool) if is_text)
    return [sentence for paragraph in tidy for sentence in split_sentences(paragraph)]


def _gigaword_documents(lines: Iterable[str]) -> Iterator[list[str]]:
    """Yield the text of every ``<DOC>``, an empty line between paragraphs, without headlines."""
    document: list[str] = []
    is_text = False
    for line in lines:
        tag = line.strip()
        if tag in ("<TEXT>", "</TEXT>"):
            is_text = tag == "<TEXT>"
        elif tag == "</DOC>":
            yield document
            document = []
        elif is_text:
            document.append("" if tag in ("<P>", "</P>") else html.unescape(line))


def _wet_records(stream: IO[bytes], path: str) -> Iterator[list[str]]:
    """Yield the lines of every page of a WET file (WARC records of type "conversion")."""
    while first := stream.readline():
        if not first.strip():
            continue
        if not first.startswith(b"WARC/"):
            raise DataError(f"{path}: not a WET file; its records begin with WARC/1.0")
        fields: dict[bytes, bytes] = {}
        while line := stream.readline().strip():
            name, _, value = line.partition(b":")
            fields[name.lower()] = value.strip()
        length = fields.get(b"content-length", b"")
        if not length.isdigit():
            raise DataError(f"{path}: a WARC record has no Content-Length")
        if len(length) > _PAGE_DIGITS:
            raise DataError(f"{path}: a WARC record of over {10**_PAGE_DIGITS} bytes")
        body = stream.read(int(length))
        if len(body) < int(length):
            raise DataError(f"{path}: the file is truncated; download or copy it again")
        if fields.get(b"warc-type") == b"conversion":
            yield split_lines(body.decode("utf-8", "replace"))


def _suffix(path: str) -> str:
    """Return the suffix that gives the format: ``.txt`` for ``a.txt.gz``."""
    name = Path(path)
    return (Path(name.stem) if name.suffix in SUFFIXES else name).suffix.lower()


def _has_carriage_returns(path: str) -> bool:
    """Return whether CR ends the lines of a file, decompressed if need be."""
    with _open(path) as stream:
        return is_split_by_carriage_returns(stream.read(_START))


def _raw_lines(stream: IO[bytes], path: str) -> Iterator[bytes]:
    """Yield lines with their ends."""
    if not _has_carriage_returns(path):
        yield from stream
        return
    pending = b""
    while piece := stream.read(_START):
        *lines, pending = (pending + piece).split(b"\r")
        yield from (line + b"\r" for line in lines)
    if pending:
        yield pending


def _text_files_in(path: str, options: TextOptions) -> Iterator[str]:
    if not os.path.isdir(path):
        yield from [path] if os.path.isfile(path) else []
        return
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            is_text = options.format != "auto" or _suffix(name) in TEXT_SUFFIXES
            if is_text and not name.startswith("."):
                yield os.path.join(folder, name)


def _open(path: str) -> IO[bytes]:
    opener = find_opener(path)
    return opener(path, "rb") if opener else open(path, "rb")


@contextlib.contextmanager
def _read_errors_named(path: str) -> Iterator[None]:
    """Turn the exceptions of a corrupt or missing file into one-line errors that name it."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{path}: the file is corrupt or truncated: {error}") from error
    except OSError as error:
        if error.errno is None:  # bz2 raises OSError without a number for corrupt data
            raise DataError(f"{path}: the file is corrupt or truncated: {error}") from error
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
