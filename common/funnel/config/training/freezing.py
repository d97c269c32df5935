"""Which parameters ``--freeze`` means, by the part of the model that they belong to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from funnel.config.limits import describe
from funnel.utils.errors import ConfigError

EMBEDDINGS = ("embeddings", 0)

# Name and number of a part: ("embeddings", 0), ("encoder", k), ("decoder", k).
Part = tuple[str, int]

_TERM = re.compile(r"(\w+)(?:\.(\d{1,4})(?:-(\d{1,4}))?)?")


def frozen_names(freeze: str, parts: Mapping[str, Part | None]) -> list[str]:
    """Return the names of the parameters to freeze, in the order of ``parts``.

    Args:
        freeze: comma list of ``embeddings``, ``encoder``, ``decoder`` and parameter layers of the
            latter two: ``encoder.3``, ``encoder.0-5`` (both included).
        parts: part by name of the parameter; None for those of heads, which are always trained.

    Raises:
        ConfigError: a term names no part of the model; the message lists those there are.
    """
    known = {part for part in parts.values() if part is not None}
    chosen: set[Part] = set()
    for term in (item.strip() for item in freeze.split(",")):
        if term:
            chosen |= _parse_term(term, known)
    return [name for name, part in parts.items() if part in chosen]


def _parse_term(term: str, known: Iterable[Part]) -> set[Part]:
    match = _TERM.fullmatch(term)
    numbers = {number for name, number in known if match and name == match[1]}
    if match and match[2] is not None and match[1] != EMBEDDINGS[0]:
        first, last = int(match[2]), int(match[3] or match[2])
        wanted = set(range(first, last + 1))
        numbers = wanted if wanted <= numbers else set()
    elif match and match[2] is not None:
        numbers = set()
    if match is None or not numbers:
        raise ConfigError(
            f"--freeze: {describe(term)} is no part of this model; it has {_list_parts(known)}"
        )
    return {(match[1], number) for number in numbers}


def _list_parts(known: Iterable[Part]) -> str:
    last: dict[str, int] = {}
    for name, number in sorted(known):
        last[name] = number
    names = [name for name in last if name == EMBEDDINGS[0]]
    names += [f"{name}, {name}.0-{last[name]}" for name in last if name != EMBEDDINGS[0]]
    return ", ".join(names)
