"""Text normalization for SentencePiece models, with character alignment to the original.

The steps, in this order: collapse white space; straighten quotes (doubled ones become one);
decompose (NFKD) and drop accents; lower-case. :func:`normalize` returns the text only and is fast;
:func:`normalize_aligned` returns the same text with the offsets of every character.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

_WORD = re.compile(r"\S+")
_QUOTE = re.compile("``|''|[“”‘’]")
_STRAIGHT = {"“": '"', "”": '"', "``": '"', "''": '"', "‘": "'", "’": "'"}


def normalize(text: str, uncased: bool, keep_accents: bool = False) -> str:
    """Return the input text of a SentencePiece model.

    Args:
        text: the original text.
        uncased: lower-case as the last step.
        keep_accents: skip the third step, decomposition included.
    """
    text = " ".join(text.split())
    # Doubled quotes are replaced before curly single ones, two of which would otherwise become one
    # double quote.
    for quote, straight in _STRAIGHT.items():
        text = text.replace(quote, straight)
    if not keep_accents and not text.isascii():
        decomposed = unicodedata.normalize("NFKD", text)
        text = "".join(char for char in decomposed if not unicodedata.combining(char))
    return text.lower() if uncased else text


@dataclass(frozen=True)
class AlignedText:
    """A normalized text whose character i comes from ``original[starts[i]:ends[i]]``."""

    text: str
    starts: list[int]
    ends: list[int]

    def original_span(self, start: int, end: int) -> tuple[int, int]:
        """Return the span in the original of ``text[start:end]``, without invisible ends.

        SentencePiece attributes a blank, and control and format characters that it ignores, to the
        adjacent token. A token without visible characters gets an empty span at the start of the
        next character.
        """
        while start < end and _is_invisible(self.text[start]):
            start += 1
        while end > start and _is_invisible(self.text[end - 1]):
            end -= 1
        if start < end:
            return self.starts[start], self.ends[end - 1]
        if start < len(self.text):
            return self.starts[start], self.starts[start]
        limit = self.ends[-1] if self.ends else 0
        return limit, limit


def _is_invisible(char: str) -> bool:
    # U+2581 is SentencePiece's blank, U+FFFD replaces lone surrogates.
    return char in " \ufffd\u2581" or unicodedata.category(char) in ("Cc", "Cf", "Zs", "Zl", "Zp")


class _Builder:
    """Collects characters and their offsets."""

    def __init__(self) -> None:
        self.chars: list[str] = []
        self.starts: list[int] = []
        self.ends: list[int] = []

    def add(self, chars: str, start: int, end: int) -> None:
        for char in chars:
            self.chars.append(char)
            self.starts.append(start)
            self.ends.append(end)

    def absorb(self, start: int, end: int) -> None:
        """Extend the previous character over a dropped one that directly follows it.

        A combining accent that becomes a character of its own under NFKD is dropped, but still
        belongs to the letter before it.
        """
        if self.chars and self.ends[-1] == start and self.chars[-1] != " ":
            self.ends[-1] = end

    def build(self) -> AlignedText:
        return AlignedText("".join(self.chars), self.starts, self.ends)


def normalize_aligned(text: str, uncased: bool, keep_accents: bool = False) -> AlignedText:
    """Normalize like :func:`normalize` and record the offsets of every character in ``text``."""
    aligned = _straighten_quotes(_collapse_blanks(text))
    if not keep_accents:
        aligned = _drop_accents(aligned)
    return _lower(aligned) if uncased else aligned


def _collapse_blanks(text: str) -> AlignedText:
    words = list(_WORD.finditer(text))
    starts: list[int] = []
    ends: list[int] = []
    for word in words:
        if ends:
            starts.append(ends[-1])
            ends.append(word.start())
        starts.extend(range(word.start(), word.end()))
        ends.extend(range(word.start() + 1, word.end() + 1))
    return AlignedText(" ".join(word.group() for word in words), starts, ends)


def _straighten_quotes(source: AlignedText) -> AlignedText:
    if not _QUOTE.search(source.text):
        return source
    builder, position = _Builder(), 0
    while position < len(source.text):
        match = _QUOTE.match(source.text, position)
        end = match.end() if match else position + 1
        char = _STRAIGHT[match.group()] if match else source.text[position]
        builder.add(char, source.starts[position], source.ends[end - 1])
        position = end
    return builder.build()


def _drop_accents(source: AlignedText) -> AlignedText:
    if source.text.isascii():
        return source
    # Decomposing single characters differs from decomposing the text only in the order of the
    # accents, which are dropped.
    builder = _Builder()
    for char, start, end in zip(source.text, source.starts, source.ends, strict=True):
        decomposed = unicodedata.normalize("NFKD", char)
        kept = "".join(part for part in decomposed if not unicodedata.combining(part))
        builder.add(kept, start, end)
        if not kept:
            builder.absorb(start, end)
    return builder.build()


def _lower(source: AlignedText) -> AlignedText:
    # The text is lowered as one string: the lower case of a Greek sigma depends on its neighbours.
    # The length of the lower case does not, so offsets can be computed per character.
    text = source.text.lower()
    if len(text) == len(source.text):  # no character has a shorter lower case, so none a longer
        return AlignedText(text, source.starts, source.ends)
    builder = _Builder()
    for char, start, end in zip(source.text, source.starts, source.ends, strict=True):
        builder.add(char.lower(), start, end)
    return AlignedText(text, builder.starts, builder.ends)
