"""Wikipedia dumps: the articles of a part of a ``pages-articles`` file, packed or not.

A part is a range of bytes of the file, and has the pages whose ``<page>`` begins there, so parts
that cover a file have every page once. In a packed file a part has whole blocks.
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
_LONGEST_PAGE = 1 << 26  # a revision has 2 MiB at most: what is longer holds all revisions
_OPEN, _CLOSE = b"<page>", b"</page>"
_ARTICLES = "0"  # the namespace of articles

_WITHOUT_TEXT = frozenset({"-2", "6", "14"})  # the numbers of Media, File and Category


@dataclass(frozen=True)
class Article:
    """An article: its title, and its text in wikitext."""

    title: str
    text: str


@dataclass(frozen=True)
class WikipediaReader:
    """Articles of dumps as sentences; see :class:`funnel_data.corpora.sharding.Reader`."""

    options: WikitextOptions

    def documents(self, part: ByteRange) -> Iterator[list[str]]:
        """Yield the articles that begin in a part, without their titles."""
        for article in read_articles(Path(part.path), part.start, part.end):
            paragraphs = clean_wikitext(article.text, self.options)
            yield [sentence for text in paragraphs for sentence in split_sentences(text)]


def check_dump(path: Path) -> frozenset[str]:
    """Look at both ends of a dump. Returns its names, lower-case, for files and categories.

    Raises:
        DataError: it cannot be read, is empty, cut off, or no dump; one line that says which.
    """
    with name_read_errors(path):
        size = path.stat().st_size
        if not size:
            raise DataError(f"{path}: the file is empty")
        if is_packed(path):
            check_end(path)
        head = b""
        for _, piece in _pieces(path, 0, size):
            head += piece
            if b"</siteinfo>" in head or _OPEN in head or len(head) > _READ:
                break
        if b"<mediawiki" not in head[:_TAIL]:
            raise DataError(
                f"{path}: not a Wikipedia dump, which begins with <mediawiki ...>; "
                "what is needed is a ...-pages-articles.xml, with or without .bz2"
            )
        if not is_packed(path):
            _check_last_line(path, size)
    return _names(head, path)


def is_packed(path: Path) -> bool:
    """Whether a file is a bzip2 file, by its first bytes."""
    with open(path, "rb") as stream:
        return stream.read(len(SIGNATURE)) == SIGNATURE


def read_articles(path: Path, start: int, end: int) -> Iterator[Article]:
    """Yield the articles of a part of a dump: no redirects, no talk, no templates.

    Raises:
        DataError: the file is damaged, cut off, or holds more than one revision of its pages.
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
    """Yield the pages of a part as they stand in the file."""
    data, ours = b"", 0  # `ours`: how many of the bytes in hand belong to this part
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
                "of no use here, take ...-pages-articles.xml"
            )
    if 0 <= data.find(_OPEN) < ours:
        raise DataError(f"{path}: the file is cut off within a page; fetch or copy it again")


def _pieces(path: Path, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield (position, data) from ``start`` to the end of the file; none reaches across ``end``."""
    if is_packed(path):
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
            raise DataError(f"{path}: ends without </mediawiki>, so it is cut off; fetch it again")


def _names(head: bytes, path: Path) -> frozenset[str]:
    """The dump's names for the namespaces that have no text."""
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
