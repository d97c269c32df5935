"""Functions on text: lines, lists in messages, cleaning, punctuation, truncation of pairs."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_LINK = re.compile(r"<a\s[^>]*>|</a>")
_BLANKS = re.compile(r" {2,}")
_LINE_END = re.compile(r"\r\n|\r|\n")
ASCII_BLANKS = " \t\r\n\f\v"


def split_lines(text: str) -> list[str]:
    r"""Split a text at \n, \r\n and \r; other Unicode line ends, e.g. U+2028, are text."""
    return _LINE_END.split(text)


def is_empty_line(line: str) -> bool:
    """Return whether a line is empty, apart from ASCII blanks; U+00A0 or U+3000 are text."""
    return not line.strip(ASCII_BLANKS)


def join_names(names: Sequence[str], limit: int = 8, separator: str = ", ") -> str:
    """Join names for a message: at most ``limit`` of them, then the number of the others.

    >>> join_names(["a", "b", "c", "d"], 2)
    'a, b and 2 more'
    """
    shown = separator.join(names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown


def clean_classification_text(text: str) -> str:
    r"""Remove mark-up from one field of a text-classification file.

    ``<br />``, ``<p>``, a literal ``\n`` and any other backslash become spaces, ``&quot;`` a
    quotation mark; link tags are dropped, runs of spaces collapsed and the ends stripped. Other
    entities (``#39;`` in AG News) stay, since the published models were trained with them.
    """
    text = text.replace("<br />", " ").replace("<p>", " ").replace("&quot;", '"')
    # Links end at the last ">": searching for an end that is not there would take quadratic time.
    end = text.rfind(">") + 1
    text = _LINK.sub("", text[:end]) + text[end:]
    text = text.replace("\\n", " ").replace("\\", " ")
    return _BLANKS.sub(" ", text).strip()


def is_punctuation(char: str) -> bool:
    """Return whether a character is punctuation: visible non-alphanumeric ASCII, or Unicode P*.

    Symbols such as ``$`` and ``^`` count, as in BERT, although Unicode puts them into S*.
    """
    if char.isascii():
        return char.isprintable() and not char.isalnum() and char != " "
    return unicodedata.category(char).startswith("P")


def truncate_pair(length_a: int, length_b: int, limit: int) -> tuple[int, int]:
    """Return the numbers of tokens of a and b to keep so that their sum is at most ``limit``.

    The result equals BERT's loop, which removes one token at a time from the longer side (from b
    on a tie). Here in closed form: the longer side shrinks to the length of the shorter, then both
    shrink in turn.

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
