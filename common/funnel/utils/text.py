"""Small rules about text: cleaning of text-classification data, punctuation, pair truncation."""

from __future__ import annotations

import re
import unicodedata

_LINK = re.compile(r"<a\s[^>]*>|</a>")
_BLANKS = re.compile(r" {2,}")


def clean_classification_text(text: str) -> str:
    r"""Clean one field of a text-classification file of the mark-up those sets carry.

    ``<br />`` and ``<p>`` become blanks, ``&quot;`` a quotation mark, links lose their tags, a
    literal ``\n`` and any other backslash become blanks, repeated blanks one; the ends are
    stripped. Other entities (``#39;`` in AG News) stay: the published models saw them.
    """
    text = text.replace("<br />", " ").replace("<p>", " ").replace("&quot;", '"')
    text = _LINK.sub("", text)
    text = text.replace("\\n", " ").replace("\\", " ")
    return _BLANKS.sub(" ", text).strip()


def is_punctuation(char: str) -> bool:
    """Whether a character is punctuation: visible non-alphanumeric ASCII, or Unicode P*."""
    if char.isascii():
        return char.isprintable() and not char.isalnum() and char != " "
    return unicodedata.category(char).startswith("P")


def truncate_pair(length_a: int, length_b: int, limit: int) -> tuple[int, int]:
    """Return how many tokens of a and of b to keep so that both fit into ``limit``.

    The result is that of removing one token at a time from the longer side, from b on a tie. It is
    computed directly: first the longer side shrinks to the shorter, then both shrink in turn.

    Raises:
        ValueError: a negative argument.
    """
    if min(length_a, length_b, limit) < 0:
        raise ValueError(f"negative length in truncate_pair({length_a}, {length_b}, {limit})")
    excess = length_a + length_b - limit
    if excess <= 0:
        return length_a, length_b
    shorter = min(length_a, length_b)
    if excess <= max(length_a, length_b) - shorter:
        return (limit - length_b, length_b) if length_a > length_b else (length_a, limit - length_a)
    return limit - limit // 2, limit // 2
