"""Rule-based sentence splitting.

A sentence ends at a full stop, question mark or exclamation mark of any script, together with the
closing quotation marks and brackets after it, unless the next word is in lower case. English
abbreviations have rules of their own. Paragraphs in scripts without such marks (Thai) are not
split.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_CLOSING = "\"'”’»)\\]}"
# CJK marks end a sentence without white space after them; all others need some.
# Several marks are tried from the first one only: from each of them, the time would be quadratic.
_MARKS = ".!?…‽؟۔।॥።።"
_END = re.compile(
    rf"(?<![{_MARKS}])[{_MARKS}]+[{_CLOSING}]*(?=\s)|[。！？｡]+[{_CLOSING}」』）】》]*(?!$)"
)
_OPENING = "\"'“‘„«([{¿¡—–- \t"

_ABBREVIATIONS = """
mr mrs ms dr prof st ste gen col lt cmdr maj sgt capt adm rev hon sen rep gov fr messrs mt ft
vs cf e.g i.e viz approx al
"""
_BEFORE_NUMBERS = """
no nos nr vol vols fig figs p pp ch sec art op ca c b d fl r
jan feb mar apr jun jul aug sep sept oct nov dec
"""
_OFTEN_INSIDE = "inc ltd co corp bros jr sr etc dept univ ed eds"
# Capitalized after "Inc." or "U.S.", these words begin a new sentence.
_FIRST_WORDS = """
the a an this these that those in on at it its he she they we i his her their our there as after
before during while when however although but and if for from by since some many most both one two
such with what who why how
"""
_NEVER_LAST = frozenset(_ABBREVIATIONS.split())
_LAST_BUT_BEFORE_NUMBERS = frozenset(_BEFORE_NUMBERS.split())
_LAST_BEFORE_FIRST_WORDS = frozenset(_OFTEN_INSIDE.split())
_FIRST = frozenset(_FIRST_WORDS.split())
_DOTTED = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]")  # U.S, a.m


def split_sentences(paragraph: str) -> list[str]:
    """Return the sentences of a paragraph, stripped, without empty ones."""
    text = paragraph.strip()
    sentences = []
    start = 0
    for end in _sentence_ends(text):
        if sentence := text[start:end].strip():
            sentences.append(sentence)
        start = end
    if rest := text[start:].strip():
        sentences.append(rest)
    return sentences


def _sentence_ends(text: str) -> Iterator[int]:
    for match in _END.finditer(text):
        end = match.end()
        following = text[end : end + 40].lstrip(_OPENING)
        if following[:1].islower():
            continue
        if (
            match[0][0] != "."
            or match[0].startswith("..")
            or _ends_at_stop(text[max(0, match.start() - 40) : match.start()], following)
        ):
            yield end


def _ends_at_stop(before: str, following: str) -> bool:
    """Whether a full stop between two pieces of text ends a sentence, not an abbreviation."""
    words = before.split()
    word = words[-1].lstrip("\"'“‘„«([{") if words and not before[-1].isspace() else ""
    lower = word.lower()
    if lower in _NEVER_LAST:
        return False
    if lower in _LAST_BUT_BEFORE_NUMBERS and following[:1].isdigit():
        return False
    if len(word) == 1 and word.isalpha() and word.isascii() and word != "I":
        return False  # initials: J. K. Rowling
    if lower in _LAST_BEFORE_FIRST_WORDS or _DOTTED.fullmatch(word):
        start = following.split(maxsplit=1)
        return not start or start[0].strip(",;:").lower() in _FIRST
    return True
