"""Text people hold: plain files, JSON lines, Common Crawl's WET files, Gigaword's SGML.

Any of them may be packed (``.gz``, ``.bz2``, ``.xz``). Memory is that of the largest document.
"""

from __future__ import annotations

import bz2
import contextlib
import glob
import gzip
import html
import json
import lzma
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import IO, cast

from funnel.utils.errors import DataError
from funnel_data.corpora.sentences import split_sentences
from funnel_data.corpora.sharding import ByteRange

FORMATS = ("auto", "txt", "jsonl", "wet", "gigaword")
DOCUMENTS = ("blank_line", "line", "file")
LINES = ("paragraph", "wrapped", "sentence")
PACKED = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
SUFFIXES = {".txt": "txt", ".text": "txt", ".jsonl": "jsonl", ".ndjson": "jsonl", ".wet": "wet"}


@dataclass(frozen=True)
class TextOptions:
    """How to read files.

    Attributes:
        format: one of ``FORMATS``; ``auto`` goes by the ends of the names.
        documents: what ends a document of a plain file, one of ``DOCUMENTS``.
        lines: what a line is, one of ``LINES``.
        text_key: key of the text in JSON lines.
        encoding: of plain files and JSON lines.
        errors: what to do about bytes that are no text, as in ``bytes.decode``.
    """

    format: str = "auto"
    documents: str = "blank_line"
    lines: str = "paragraph"
    text_key: str = "text"
    encoding: str = "utf-8"
    errors: str = "strict"

    def format_of(self, path: str) -> str:
        """The format of a file; by its name, if none is set: ``txt`` for names that say nothing."""
        if self.format != "auto":
            return self.format
        return SUFFIXES.get(_suffix(path), "txt")

    def can_cut(self, path: str) -> bool:
        """Whether a file can be read from a place within it."""
        format_ = self.format_of(path)
        is_cut = format_ == "jsonl" or (format_ == "txt" and self.documents != "file")
        return is_cut and Path(path).suffix not in PACKED


def find_text(inputs: Sequence[str], options: TextOptions) -> list[str]:
    """Return the files that names, folders and patterns stand for, sorted and each once.

    Of folders, the files whose names are known as text, or all if the format is set; hidden ones
    are left out.

    Raises:
        DataError: an input stands for no file.
    """
    found: set[str] = set()
    for name in inputs:
        matches = [name] if os.path.exists(name) else glob.glob(name, recursive=True)
        files = {path for match in matches for path in _text_below(match, options)}
        if not files:
            raise DataError(f"--input {name}: no text file there")
        found |= files
    return sorted(found)


@dataclass(frozen=True)
class TextReader:
    """Documents of text files; see :class:`funnel_data.corpora.sharding.Reader`."""

    options: TextOptions

    def documents(self, part: ByteRange) -> Iterator[list[str]]:
        """Yield the documents that begin in a part.

        Raises:
            DataError: the file cannot be read, is damaged, or is not of its format.
        """
        format_ = self.options.format_of(part.path)
        with _read_errors_named(part.path), _opened(part.path) as stream:
            if format_ == "wet":
                yield from (self._sentences(lines) for lines in _wet_records(stream, part.path))
            elif format_ == "gigaword":
                texts = (text for _, text in self._lines(stream, part))
                yield from (_sentences(lines, "wrapped") for lines in _gigaword_documents(texts))
            elif format_ == "jsonl":
                yield from map(self._sentences, self._json_texts(stream, part))
            else:
                yield from map(self._sentences, self._plain_documents(stream, part))

    def _sentences(self, lines: Iterable[str]) -> list[str]:
        return _sentences(lines, self.options.lines)

    def _lines(self, stream: IO[bytes], part: ByteRange) -> Iterator[tuple[int, str]]:
        """Yield (position, line) from the first line that begins in the part to the file's end."""
        position = part.start
        if position:
            stream.seek(position - 1)
            position += len(stream.readline()) - 1
        for raw in stream:
            try:
                line = raw.decode(self.options.encoding, self.options.errors)
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{part.path}, byte {position + error.start}: not {self.options.encoding} "
                    "text; see --encoding and --errors"
                ) from error
            yield position, line if position else line.removeprefix("\ufeff")
            position += len(raw)

    def _plain_documents(self, stream: IO[bytes], part: ByteRange) -> Iterator[list[str]]:
        """A document belongs to the part in which the empty line before it begins."""
        lines = self._lines(stream, part)
        if self.options.documents == "file":
            yield [line for _, line in lines]
            return
        if self.options.documents == "line":
            yield from ([line] for _, line in _of_part(lines, part) if line.strip())
            return
        document: list[str] = []
        is_ours = part.start == 0
        for position, line in lines:
            if line.strip():
                if is_ours:
                    document.append(line)
                continue
            if document:
                yield document
            if _is_after(position, part):
                return
            document, is_ours = [], True
        if document:
            yield document

    def _json_texts(self, stream: IO[bytes], part: ByteRange) -> Iterator[list[str]]:
        key = self.options.text_key
        for position, line in _of_part(self._lines(stream, part), part):
            if not line.strip():
                continue
            try:
                text = json.loads(line)[key]
            except ValueError as error:
                raise DataError(f"{part.path}, byte {position}: not JSON: {error}") from error
            except (KeyError, TypeError) as error:
                raise DataError(f"{part.path}, byte {position}: no key {key!r}") from error
            if not isinstance(text, str):
                raise DataError(f"{part.path}, byte {position}: {key!r} is no text")
            yield text.splitlines()


def _of_part(lines: Iterable[tuple[int, str]], part: ByteRange) -> Iterator[tuple[int, str]]:
    for position, line in lines:
        if _is_after(position, part):
            return
        yield position, line


def _is_after(position: int, part: ByteRange) -> bool:
    """Whether a line is behind a part; positions in a packed file, always whole, mean nothing."""
    return position >= part.end and Path(part.path).suffix not in PACKED


def _sentences(lines: Iterable[str], kind: str) -> list[str]:
    """The sentences of a document, each without repeated blanks."""
    tidy = (" ".join(line.split()) for line in lines)
    if kind == "sentence":
        return [line for line in tidy if line]
    if kind == "wrapped":
        tidy = (" ".join(group) for is_text, group in groupby(tidy, bool) if is_text)
    return [sentence for paragraph in tidy for sentence in split_sentences(paragraph)]


def _gigaword_documents(lines: Iterable[str]) -> Iterator[list[str]]:
    """The text of every ``<DOC>``, with an empty line between paragraphs; no headlines."""
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
    """The lines of every page of a WET file (WARC records of type "conversion")."""
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
            raise DataError(f"{path}: a WARC record without Content-Length")
        body = stream.read(int(length))
        if len(body) < int(length):
            raise DataError(f"{path}: the file is cut off; fetch or copy it again")
        if fields.get(b"warc-type") == b"conversion":
            yield body.decode("utf-8", "replace").splitlines()


def _suffix(path: str) -> str:
    """The end of a name that tells the format: ``.txt`` of ``a.txt.gz``."""
    name = Path(path)
    return (Path(name.stem) if name.suffix in PACKED else name).suffix.lower()


def _text_below(path: str, options: TextOptions) -> Iterator[str]:
    if not os.path.isdir(path):
        yield from [path] if os.path.isfile(path) else []
        return
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            is_text = options.format != "auto" or _suffix(name) in SUFFIXES
            if is_text and not name.startswith("."):
                yield os.path.join(folder, name)


def _opened(path: str) -> IO[bytes]:
    opener = PACKED.get(Path(path).suffix)
    return cast("IO[bytes]", opener(path, "rb")) if opener else open(path, "rb")


@contextlib.contextmanager
def _read_errors_named(path: str) -> Iterator[None]:
    """Turn what a damaged or missing file raises into one line that names it."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{path}: the file is damaged or cut off: {error}") from error
    except OSError as error:
        if error.errno is None:  # bz2's word for damage
            raise DataError(f"{path}: the file is damaged or cut off: {error}") from error
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
