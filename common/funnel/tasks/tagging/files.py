"""Readers of tagged sentences: CoNLL columns, and JSON lines with lists of words and tags.

Files may be compressed and have any line ends (:mod:`funnel.utils.text_files`). A line that cannot
be read is an error: to leave a word out would change its sentence.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from funnel.utils.errors import DataError
from funnel.utils.text import is_empty_line
from funnel.utils.text_files import TO_UTF8, TextLine, read_lines

DOCUMENT = "-DOCSTART-"
WORD_KEYS = ("tokens", "words")
TAG_KEYS = ("labels", "tags", "ner_tags", "pos_tags", "label")
# CoNLL-U: the line of a contraction, whose words follow, or of a word that is not in the text.
_NO_WORD = re.compile(r"\d+[-.]\d+")
# CoNLL-U's comments, where the number of columns is not known yet.
_COMMENT = re.compile(r"#\s*(?:[\w.:-]+\s*=|newdoc|newpar)")
_BLANKS = " \t"
_SHOWN = 40  # characters of a line in a message


@dataclass(frozen=True)
class TaggedSentence:
    """The words of a sentence, their tags if they are known, and the line (1-based) of each."""

    words: tuple[str, ...]
    tags: tuple[str, ...] | None
    lines: tuple[int, ...]


@dataclass
class _Lines:
    """The lines of a sentence that is being read."""

    words: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)

    def sentence(self, is_tagged: bool) -> TaggedSentence:
        tags = tuple(self.tags) if is_tagged else None
        return TaggedSentence(tuple(self.words), tags, tuple(self.numbers))


def read_conll(
    path: Path,
    text_column: int = 0,
    label_column: int = -1,
    skipped: Counter[str] | None = None,
    *,
    label_optional: bool = False,
) -> Iterator[TaggedSentence]:
    """Yield the sentences of a file of columns: a word a line, empty lines between sentences.

    Columns are separated by tabs if the first line of data has one, else by blanks; a no-break
    space separates none. Lines of
    ``-DOCSTART-``, comments (``#``, before a sentence) and CoNLL-U's lines of several words are
    left out.

    Args:
        path: the file.
        text_column: 0-based column of the word.
        label_column: 0-based column of the tag; -1 is the last.
        skipped: counts the lines that are left out, by reason.
        label_optional: a file without that column is not tagged, instead of an error.

    Raises:
        DataError: the file is empty, or a line lacks a column, a word or a tag.
    """
    skipped = Counter() if skipped is None else skipped
    layout: _Layout | None = None
    current, is_empty = _Lines(), True
    for line in read_lines(path):
        _check_encoding(path, line)
        if is_empty_line(line.text):
            if current.words and layout is not None:
                yield current.sentence(layout.label is not None)
                current = _Lines()
            continue
        if line.text.startswith(DOCUMENT):
            skipped[f"the mark {DOCUMENT}"] += 1
            continue
        if line.text.startswith("#") and not current.words and _is_comment(line.text, layout):
            skipped["a comment"] += 1
            continue
        layout = layout or _Layout.find(path, line, text_column, label_column, label_optional)
        cells = layout.split(path, line)
        if layout.text and _NO_WORD.fullmatch(cells[0]):
            skipped["several words, or none"] += 1
            continue
        is_empty = False
        layout.take(path, line.number, cells, current)
    if current.words and layout is not None:
        yield current.sentence(layout.label is not None)
    if is_empty:
        raise DataError(f"{path}: holds no words; a line should have a word and its tag")


def _is_comment(text: str, layout: _Layout | None) -> bool:
    """Return whether a line is no data; a word "#" has as many columns as the other lines."""
    if layout is None:
        return "\t" not in text and bool(_COMMENT.match(text))
    return len(layout.cells(text)) != layout.width


def _split(text: str, separator: str | None) -> list[str]:
    # Other white space is part of a word: "10\u00a0000" is no word and a further column.
    return text.split(separator) if separator else re.split(r"[ \t]+", text.strip(_BLANKS))


@dataclass(frozen=True)
class _Layout:
    """Separator and columns of a CoNLL file; ``label`` is None in one without tags."""

    separator: str | None
    width: int
    text: int
    label: int | None

    @classmethod
    def find(cls, path: Path, line: TextLine, text: int, label: int, optional: bool) -> _Layout:
        """Find the columns by the first line of data."""
        separator = "\t" if "\t" in line.text.strip(_BLANKS) else None
        width = len(_split(line.text, separator))
        word = text + width if text < 0 else text
        tag: int | None = label + width if label < 0 else label
        has_tag = tag is not None and 0 <= tag < width and tag != word
        if not 0 <= word < width:
            raise DataError(
                f"{path}:{line.number}: has {width} columns, so there is no column {text} for the "
                "word (--text_column counts from 0)"
            )
        if not has_tag and not optional:
            raise DataError(
                f"{path}:{line.number}: has {width} columns, so there is no column {label} for the "
                "tag (--label_column counts from 0; -1 is the last)"
            )
        return cls(separator, width, word, tag if has_tag else None)

    def cells(self, text: str) -> list[str]:
        """Return the columns of a line."""
        return _split(text, self.separator)

    def split(self, path: Path, line: TextLine) -> list[str]:
        """Return the columns of a line of data; refuse another number of them."""
        cells = self.cells(line.text)
        if len(cells) != self.width:
            raise DataError(
                f"{path}:{line.number}: has {len(cells)} columns, the lines before it have "
                f"{self.width}: {line.text[:_SHOWN]!r}"
            )
        return cells

    def take(self, path: Path, number: int, cells: list[str], into: _Lines) -> None:
        """Add a word and its tag to a sentence."""
        word = cells[self.text].strip()
        tag = None if self.label is None else cells[self.label].strip()
        if not word or tag == "":
            kind = "word" if not word else "tag"
            raise DataError(f"{path}:{number}: the {kind} is empty")
        into.words.append(word)
        into.tags.append(tag or "")
        into.numbers.append(number)


def read_jsonl(
    path: Path,
    word_key: str | None = None,
    tag_key: str | None = None,
    labels: Sequence[str] = (),
    *,
    label_optional: bool = False,
) -> Iterator[TaggedSentence]:
    """Yield the sentences of a file of JSON objects, one a line: lists of words and of tags.

    Args:
        path: the file.
        word_key: key of the words; None: ``tokens`` or ``words``.
        tag_key: key of the tags; None: ``labels``, ``tags``, ``ner_tags`` or ``pos_tags``.
        labels: names of tags that are given as integers.
        label_optional: sentences may lack the tags.

    Raises:
        DataError: the file is empty, or a line is no such object.
    """
    is_empty = True
    for line in read_lines(path):
        _check_encoding(path, line)
        if is_empty_line(line.text):
            continue
        is_empty, where = False, f"{path}:{line.number}"
        row = _parse(line.text, where)
        words = _find(row, [word_key] if word_key else WORD_KEYS)
        if not isinstance(words, list) or not words or not all(map(_is_word, words)):
            key = word_key or WORD_KEYS[0]
            raise DataError(f"{where}: {key!r} should be a list of words, none of them empty")
        found = _find(row, [tag_key] if tag_key else TAG_KEYS)
        if found is None and not label_optional:
            raise DataError(f"{where}: has no tags ({tag_key or ', '.join(TAG_KEYS)})")
        tags = None if found is None else _name_tags(found, len(words), labels, where)
        cleaned = tuple(" ".join(word.split()) for word in words)
        yield TaggedSentence(cleaned, tags, (line.number,) * len(words))
    if is_empty:
        raise DataError(f"{path}: empty, a line should be an object with lists of words and tags")


def _check_encoding(path: Path, line: TextLine) -> None:
    if line.problem:
        raise DataError(f"{path}:{line.number}: {line.problem}; {TO_UTF8}")


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        raise DataError(f"{where}: is not JSON: {text[:_SHOWN]!r}") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: should be a JSON object with lists of words and tags")
    return row


def _find(row: dict[str, Any], keys: Sequence[str]) -> Any:
    return next((row[key] for key in keys if row.get(key) is not None), None)


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _name_tags(values: Any, count: int, labels: Sequence[str], where: str) -> tuple[str, ...]:
    """Return the tags as names; integers are places in the list of labels."""
    if not isinstance(values, list) or len(values) != count:
        size = len(values) if isinstance(values, list) else "no list of"
        raise DataError(f"{where}: has {count} words and {size} tags")
    tags = []
    for value in values:
        if isinstance(value, int) and not isinstance(value, bool):
            if not labels:
                raise DataError(f"{where}: tags are integers: --labels should name them, from 0 on")
            if not 0 <= value < len(labels):
                raise DataError(f"{where}: tag {value} is none of the {len(labels)} labels")
            value = labels[value]
        if not _is_word(value):
            raise DataError(f"{where}: tag {json.dumps(value)[:_SHOWN]} is no name")
        tags.append(value.strip())
    return tuple(tags)
