"""Tag schemes of entities: which one a file follows, and the entities that tags stand for.

In all schemes ``O`` is a word outside of entities, and other tags are a letter and the type of an
entity, as ``B-PER``. IOB1 (Ramshaw and Marcus 1995) marks an entity by ``I`` and its first word by
``B`` only where it follows another of its type; IOB2 begins every entity by ``B``; IOBES also ends
it by ``E``, and marks an entity of one word by ``S``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from funnel.utils.errors import ConfigError

OUTSIDE = "O"
IOB1, IOB2, IOBES, NO_SCHEME = "iob1", "iob2", "iobes", "none"
SCHEMES = (IOB1, IOB2, IOBES)
_LETTERS = frozenset("BIES")


class Entity(NamedTuple):
    """An entity: its type, the number of its first word, and that of the word after its last."""

    kind: str
    begin: int
    end: int


def split_tag(tag: str) -> tuple[str, str]:
    """Return letter and type of a tag; ``("O", "")`` outside, ``("", tag)`` for a plain tag."""
    if tag == OUTSIDE:
        return OUTSIDE, ""
    letter, dash, kind = tag.partition("-")
    return (letter, kind) if dash and kind and letter in _LETTERS else ("", tag)


def marks_entities(tags: Iterable[str]) -> bool:
    """Return whether tags are those of a scheme: all have a letter or are ``O``, and some a letter.

    Part-of-speech tags, for example, do not.
    """
    letters = {split_tag(tag)[0] for tag in tags}
    return "" not in letters and letters != {OUTSIDE} and bool(letters)


def detect_scheme(sentences: Sequence[Sequence[str]]) -> str:
    """Return the scheme that the tags of ``sentences`` follow; ``none`` for plain tags.

    Where a file breaks every scheme, it is the one that the fewest sentences break.
    """
    found = {tag for tags in sentences for tag in tags}
    if not marks_entities(found):
        return NO_SCHEME
    if {"E", "S"} & {split_tag(tag)[0] for tag in found}:
        return IOBES
    # IOB2 first: a file in which no entity is longer than a word and all begin by B follows it.
    counts = {
        scheme: sum(find_violation(tags, scheme) is not None for tags in sentences)
        for scheme in (IOB2, IOB1)
    }
    return min(counts, key=counts.__getitem__)


def find_violation(tags: Sequence[str], scheme: str) -> int | None:
    """Return the number of the first word whose tag breaks ``scheme``; None if the tags follow it.

    In IOBES an entity that is not ended breaks it at the word after it (the number of words at the
    end of the sentence).
    """
    is_allowed = _ALLOWED[scheme]
    before = (OUTSIDE, "")
    for number, tag in enumerate([*tags, OUTSIDE]):
        now = split_tag(tag)
        if not now[0] or not is_allowed(before, now):
            return number
        before = now
    return None


_Tag = tuple[str, str]


def _follows_iob1(before: _Tag, now: _Tag) -> bool:
    if now[0] == "B":
        return before[0] in ("B", "I") and before[1] == now[1]
    return now[0] in (OUTSIDE, "I")


def _follows_iob2(before: _Tag, now: _Tag) -> bool:
    if now[0] == "I":
        return before[0] in ("B", "I") and before[1] == now[1]
    return now[0] in (OUTSIDE, "B")


def _follows_iobes(before: _Tag, now: _Tag) -> bool:
    is_open = before[0] in ("B", "I")
    return is_open == (now[0] in ("I", "E")) and (not is_open or before[1] == now[1])


_ALLOWED: dict[str, Callable[[_Tag, _Tag], bool]] = {
    IOB1: _follows_iob1,
    IOB2: _follows_iob2,
    IOBES: _follows_iobes,
}


def find_entities(tags: Sequence[str]) -> list[Entity]:
    """Return the entities of a sentence, whatever scheme it follows or breaks.

    An entity ends where its type changes, before ``B``, ``S`` and ``O``, and after ``E`` and ``S``,
    as in CoNLL's evaluation program.
    """
    entities, begin = [], None
    before: _Tag = (OUTSIDE, "")
    for number, tag in enumerate([*tags, OUTSIDE]):
        now = split_tag(tag)
        parts = now[0] in ("B", "S", OUTSIDE) or before[0] in ("E", "S", OUTSIDE)
        if parts or now[1] != before[1]:
            if begin is not None:
                entities.append(Entity(before[1], begin, number))
            begin = None if now[0] == OUTSIDE else number
        before = now
    return entities


def find_strict_entities(tags: Sequence[str], scheme: str) -> list[Entity]:
    """Return the entities of a sentence that are complete in ``scheme``; all else is no entity.

    Raises:
        ConfigError: an unknown scheme.
    """
    if scheme not in SCHEMES:
        raise ConfigError(f"tag scheme {scheme!r} is not one of {', '.join(SCHEMES)}")
    parsed = [split_tag(tag) for tag in [*tags, OUTSIDE]]
    entities, number = [], 0
    while number < len(tags):
        before = parsed[number - 1] if number else (OUTSIDE, "")
        if not _begins(before, parsed[number], scheme):
            number += 1
            continue
        begin, number = number, number + 1
        while _continues(parsed[number - 1], parsed[number], scheme):
            number += 1
        if _is_complete(parsed[number - 1], parsed[number], scheme):
            entities.append(Entity(parsed[begin][1], begin, number))
    return entities


def _begins(before: _Tag, now: _Tag, scheme: str) -> bool:
    if scheme != IOB1:
        return now[0] == "B" or (now[0] == "S" and scheme == IOBES)
    is_same = before[1] == now[1]
    if now[0] == "B":
        return before[0] in ("B", "I") and is_same
    return now[0] == "I" and (before[0] != "I" or not is_same)


def _continues(before: _Tag, now: _Tag, scheme: str) -> bool:
    letters = ("I", "E") if scheme == IOBES else ("I",)
    return before[0] in ("B", "I") and now[0] in letters and before[1] == now[1]


def _is_complete(last: _Tag, after: _Tag, scheme: str) -> bool:
    if scheme == IOBES:
        return last[0] in ("E", "S")
    # In IOB1, B separates entities of one type, so it says nothing before another type.
    return scheme == IOB2 or not (last[0] == after[0] == "B" and last[1] != after[1])
