"""Articles of Wikipedia dumps (``pages-articles``, plain or bzip2), read by byte range.

A page belongs to the range in which its ``<page>`` tag begins, so ranges that cover a file give
every page once. In a compressed file, a page belongs to the range in which the bzip2 block of its
tag begins.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from funnel.utils.errors import DataError
from funnel.utils.files import name_read_errors
from funnel_data.corpora.bz2_blocks import SIGNATURE, check_end, read_blocks
from funnel_data.corpora.sentences import split_sentences
from funnel_data.corpora.sharding import ByteRange
from funnel_data.corpora.wikitext import NO_TEXT, WikitextOptions, clean_wikitext

_READ = 1 << 20
_TAIL = 1 << 12
_LONGEST_PAGE = 1 << 26  # a revision has at most 2 MiB: longer pages hold all revisions
_OPEN, _CLOSE = b"<page>", b"</page>"
_ARTICLES = "0"  # the namespace of articles

_WITHOUT_TEXT = frozenset({"-2", "6", "14"})  # the namespaces Media, File and Category


@dataclass(frozen=True)
class Article:
    """The title of an article and its text in wikitext."""

    title: str
    text: str


@dataclass(frozen=True)
class WikipediaReader:
    """Articles of dumps as sentences; see :class:`funnel_data.corpora.sharding.Reader`."""

    options: WikitextOptions

    def read_documents(self, source: ByteRange) -> Iterator[list[str]]:
        """Yield the articles that begin in a byte range, without their titles."""
        for article in read_articles(Path(source.path), source.start, source.end):
            paragraphs = clean_wikitext(article.text, self.options)
            yield [sentence for text in paragraphs for sentence in split_sentences(text)]


def check_dump(path: Path) -> frozenset[str]:
    """Check the beginning and the end of a dump.

    Returns:
        The dump's lower-case names of the namespaces for media, files and categories.

    Raises:
        DataError: the file cannot be read, is empty or truncated, or is not a dump.
    """
    with name_read_errors(path):
        size = path.stat().st_size
        if not size:
            raise DataError(f"{path}: the file is empty")
        if is_compressed(path):
            check_end(path)
        head = b""
        for _, piece in _pieces(path, 0, size):
            head += piece
            if b"</siteinfo>" in head or _OPEN in head or len(head) > _READ:
                break
        if b"<mediawiki" not in head[:_TAIL]:
            raise DataError(
                f"{path}: not a Wikipedia dump, which begins with <mediawiki ...>; "
                "a ...-pages-articles.xml or ...-pages-articles.xml.bz2 is needed"
            )
        if not is_compressed(path):
            _check_last_line(path, size)
    return _textless_namespaces(head, path)


def is_compressed(path: Path) -> bool:
    """Whether the first bytes are those of a bzip2 file."""
    with open(path, "rb") as stream:
        return stream.read(len(SIGNATURE)) == SIGNATURE


def read_articles(path: Path, start: int, end: int) -> Iterator[Article]:
    """Yield the articles that begin in bytes ``start`` to ``end``, without redirects.

    Raises:
        DataError: the file is corrupt, truncated, or has more than one revision per page.
    """
    with name_read_errors(path):
        for source in _page_sources(path, start, end):
            try:
                page = ElementTree.fromstring(source)
            except ElementTree.ParseError as error:
                title = source[:400].decode(errors="replace").partition("<title>")[2]
                name = title.partition("</title>")[0]
                raise DataError(f"{path}: broken XML in the page {name!r}: {error}") from error
            is_article = page.findtext("ns", _ARTICLES) == _ARTICLES
            if is_article and page.find("redirect") is None:
                yield Article(page.findtext("title", ""), page.findtext("revision/text") or "")


def _page_sources(path: Path, start: int, end: int) -> Iterator[bytes]:
    """Yield the XML of the pages of a byte range."""
    data, ours = b"", 0  # `ours`: number of bytes of `data` that belong to this range
    for position, piece in _pieces(path, start, end):
        data += piece
        ours += len(piece) if position < end else 0
        done = 0
        while 0 <= (begin := data.find(_OPEN, done)) < ours:
            stop = data.find(_CLOSE, begin)
            if stop < 0:
                break
            done = stop + len(_CLOSE)
            yield data[begin:done]
        # Keep the page that has begun, or what may be the start of its first tag.
        kept = begin if begin >= 0 else max(done, len(data) - len(_OPEN) + 1)
        data, ours = data[kept:], ours - kept
        if position >= end and ours <= 0:
            return
        if len(data) > _LONGEST_PAGE:
            raise DataError(
                f"{path}: a page of over {_LONGEST_PAGE >> 20} MiB; dumps with all revisions are "
                "not supported, use ...-pages-articles.xml"
            )
    if 0 <= data.find(_OPEN) < ours:
        raise DataError(f"{path}: the file is truncated within a page; download or copy it again")


def _pieces(path: Path, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield (position, data) from ``start`` to the end of the file; none extends across ``end``."""
    if is_compressed(path):
        yield from read_blocks(path, start)
        return
    with open(path, "rb") as stream:
        stream.seek(start)
        position = start
        while piece := stream.read(min(_READ, end - position) if position < end else _READ):
            yield position, piece
            position += len(piece)


def _check_last_line(path: Path, size: int) -> None:
    with open(path, "rb") as stream:
        stream.seek(max(0, size - _TAIL))
        if b"</mediawiki>" not in stream.read():
            raise DataError(
                f"{path}: no </mediawiki> at the end, so the file is truncated; download it again"
            )


def _textless_namespaces(head: bytes, path: Path) -> frozenset[str]:
    """Return the dump's names of the namespaces without text, with the English ones."""
    begin, stop = head.find(b"<namespaces>"), head.find(b"</namespaces>")
    if begin < 0 or stop < 0:
        return NO_TEXT
    try:
        found = ElementTree.fromstring(head[begin:stop] + b"</namespaces>")
    except ElementTree.ParseError as error:
        raise DataError(f"{path}: broken XML in its <namespaces>: {error}") from error
    return NO_TEXT | {
        item.text.lower() for item in found if item.get("key") in _WITHOUT_TEXT and item.text
    }
