"""Wikipedia templates that are replaced by words of a sentence.

A few of some ten thousand templates are common in running text and are rendered here. All others,
mostly boxes, notes and tables, are removed.
"""

from __future__ import annotations

import re
from collections.abc import Callable

Arguments = list[str]

_RANGES = {"to": " to ", "-": "–", "–": "–", "and": " and ", "or": " or ", "x": " × ", "by": " by "}
_MAX_DIGITS = 9  # of the number of an argument
_NAME = re.compile(r"[\w -]+")


def template_text(content: str) -> str:
    """Return the text shown for a template, given without its braces; empty for most."""
    name, *given = content.split("|")
    name = name.strip().lower().replace("_", " ")
    if name.startswith("lang-"):
        name = "lang-"
    show = _SHOWN.get(name)
    return show(_positional(given)) if show else ""


def _positional(given: list[str]) -> Arguments:
    """Return the arguments without a name or with a number as name, in order."""
    numbered: dict[int, str] = {}
    unnamed = 0
    for argument in given:
        before, equals, value = argument.partition("=")
        name = before.strip()
        has_name = _NAME.fullmatch(name) if name else " " in before
        if not (equals and has_name):
            unnamed += 1
            numbered[unnamed] = argument.strip()
        elif name.isdecimal() and len(name) <= _MAX_DIGITS:
            numbered[int(name)] = value.strip()
    return [numbered[key] for key in sorted(numbered)]


def _nth(index: int, prefix: str = "") -> Callable[[Arguments], str]:
    """Return a renderer of one argument, if it is given, with a prefix."""

    def show(arguments: Arguments) -> str:
        is_given = len(arguments) > index or (index < 0 and arguments)
        return prefix + arguments[index] if is_given else ""

    return show


def _constant(text: str) -> Callable[[Arguments], str]:
    return lambda _: text


def _convert(arguments: Arguments) -> str:
    """``{{convert|5|to|10|km|mi}}``: the numbers and the first unit, without the conversion."""
    if len(arguments) < 2:
        return ""
    if arguments[1] in _RANGES and len(arguments) >= 4:
        return f"{arguments[0]}{_RANGES[arguments[1]]}{arguments[2]} {arguments[3]}"
    return f"{arguments[0]} {arguments[1]}"


def _fraction(arguments: Arguments) -> str:
    """``{{frac|2|1|3}}``: 2 1/3."""
    if len(arguments) == 1:
        return f"1/{arguments[0]}"
    integer, fraction = arguments[:-2], "/".join(arguments[-2:])
    return " ".join([*integer[-1:], fraction])


def _ship(prefix: str) -> Callable[[Arguments], str]:
    """``{{USS|Enterprise|CV-6}}``: USS Enterprise (CV-6)."""

    def show(arguments: Arguments) -> str:
        hull = f" ({arguments[1]})" if len(arguments) > 1 and arguments[1] else ""
        return f"{prefix} {arguments[0]}{hull}" if arguments else ""

    return show


_FIRST = (
    "nowrap, nobr, nobreak, j, small, big, nobold, noitalic, em, strong, abbr, tooltip, vanchor, "
    "visible anchor, sic, not a typo, typo, ill, interlanguage link, iast, val, nts, num, math, "
    "mvar, smallcaps, sc, keyboard, key press, mono, code, script, sup, sub, unicode, nihongo"
)
_SECOND = "lang, font color, text color, color, colour"
_LAST = "lang-, langx, transl, transliteration, translit, zh"
_SHIPS = "USS, HMS, SS, RMS, HMCS, HMAS, USNS, MS, MV"

_SHOWN: dict[str, Callable[[Arguments], str]] = {
    **dict.fromkeys(_FIRST.split(", "), _nth(0)),
    **dict.fromkeys(_SECOND.split(", "), _nth(1)),
    **dict.fromkeys(_LAST.split(", "), _nth(-1)),
    **dict.fromkeys(("convert", "cvt"), _convert),
    **dict.fromkeys(("frac", "fraction", "sfrac"), _fraction),
    **dict.fromkeys(("circa", "c.", "ca"), _nth(0, "c. ")),
    **{ship.lower(): _ship(ship) for ship in _SHIPS.split(", ")},
    "as of": _nth(0, "As of "),
    **dict.fromkeys(("nbsp", "space", "spaces", "thinsp"), _constant(" ")),
    **dict.fromkeys(("ndash", "spaced ndash", "snd", "spnd"), _constant(" – ")),
    **dict.fromkeys(("mdash", "em dash"), _constant("—")),
    **{marks: _constant(marks) for marks in ("'", '"', "'\"", "\"'", "'s")},
}
