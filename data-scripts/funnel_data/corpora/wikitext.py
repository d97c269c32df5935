"""Wikitext -> paragraphs of plain text.

What a reader sees as running text stays. Templates, tables, references, formulas, pictures,
categories, headings and lists go; a few templates that stand for words within a sentence leave
those. Where markup is broken, the line it is left over in goes too, so that none gets through.

Time grows in proportion to the text, whatever is in it: articles are written by strangers.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from funnel_data.corpora.templates import template_text

# Namespaces of pictures and categories; a dump has names for them in its language beside these.
NO_TEXT = frozenset({"file", "image", "media", "category"})
_DEEPEST = 40  # what is nested deeper is broken or hostile; each level costs a copy of the text

# Elements whose content is no prose. Tables may be nested and are left to the scanner of brackets.
_REMOVED = (
    "ref|references|math|chem|ce|gallery|timeline|score|syntaxhighlight|source|pre|imagemap|"
    "hiero|graph|mapframe|maplink|inputbox|templatestyles|section|indicator|categorytree|style"
)
_ELEMENT = re.compile(rf"<!--|<(nowiki|{_REMOVED})\b[^<>]*>", re.IGNORECASE)
_BRACKET = re.compile(
    r"\{\{|\}\}|\[\[|\]\]|^[ \t:*#;]*\{\||^[ \t]*\|\}(?!\})|<table\b[^<>]*>|</table\s*>",
    re.MULTILINE | re.IGNORECASE,
)
_CLOSES = {"}}": "{{", "]]": "[[", "|}": "{|", "</table": "<table"}

_PARAMETER = re.compile(r"\{\{\{[^{}|]*\|?([^{}|]*)\}\}\}")
_EXTERNAL_LINK = re.compile(
    r"\[(?:mailto:|(?:[a-z][a-z+.-]{1,20}:)?//)[^\s\[\]]+[ \t]*([^\[\]\n]*)\]", re.IGNORECASE
)
_QUOTES = re.compile(r"'{2,}")
_BREAK = re.compile(r"<(?:br|/?p|/?div|/?blockquote|/?center)\b[^<>]*>", re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_SWITCH = re.compile(r"__[A-Z]{3,}__")
_LEFT_OVER = re.compile(r"\{\{|\}\}|\[\[|\]\]|\{\||\|\}|^[|!]|</?(?:ref|math|table)\b")
_INTERWIKI = re.compile(r"[a-z]{2,3}(?:-[a-z-]+)?")
_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")

# What removed templates leave behind: "(, born 1900)", "( )", "word ,". Looking for two characters
# is fast, and most paragraphs have no such place.
_SCARS = ("( ", "(,", "(;", "(:", "()", " )", ",)", ";)", "[ ", "[]", " ]", " ,", " .", ",,", ",.")
_LEADING_IN_BRACKETS = re.compile(r"([(\[])[ ,;:–]+")
_TRAILING_IN_BRACKETS = re.compile(r"[ ,;:–]+([)\]])")
_EMPTY_BRACKETS = re.compile(r" ?(?:\(\)|\[\])")
_BLANK_BEFORE_STOP = re.compile(r" ([,.])(?= |$)")
_REPEATED_STOP = re.compile(r",(?: ?([,.]))+(?= |$)")


@dataclass(frozen=True)
class WikitextOptions:
    """What to keep.

    Attributes:
        keep_lists: list items too, each as a paragraph.
        no_text: lower-case names before the colon of links that show a picture or nothing.
    """

    keep_lists: bool = False
    no_text: Collection[str] = NO_TEXT


def clean_wikitext(text: str, options: WikitextOptions) -> list[str]:
    """Return the paragraphs of an article, each on one line, without blanks around them."""
    text = _PARAMETER.sub(r"\1", _remove_elements(text))
    text = _resolve_brackets(text, options.no_text)
    text = _EXTERNAL_LINK.sub(r"\1", text)
    text = _QUOTES.sub("", text)
    text = _TAG.sub("", _BREAK.sub("\n", text))
    text = _SWITCH.sub("", text)
    return [clean for lines in _paragraphs(text, options) if (clean := _tidy(" ".join(lines)))]


def _remove_elements(text: str) -> str:
    """Remove comments and elements that are no prose; one without an end loses its tag only."""
    kept: list[str] = []
    endless: set[str] = set()  # a search to the end of the text is made once per name
    position = 0
    while match := _ELEMENT.search(text, position):
        kept.append(text[position : match.start()])
        position = match.end()
        name = (match[1] or "!--").lower()
        if match[0].endswith("/>") or name in endless:
            continue
        closing = _closing_of(name).search(text, position)
        if closing is None:
            endless.add(name)
            continue
        if name == "nowiki":  # shown as it stands: nothing in it is markup
            kept += [f"&#{ord(char)};" for char in text[position : closing.start()]]
        position = closing.end()
    kept.append(text[position:])
    return "".join(kept)


def _closing_of(name: str) -> re.Pattern[str]:
    pattern = "-->" if name == "!--" else rf"</{name}\s*>"
    return re.compile(pattern, re.IGNORECASE)  # compiled once: re keeps what it has seen


def _resolve_brackets(text: str, no_text: Collection[str]) -> str:
    """Replace templates, links and tables, innermost first, by the text they stand for."""
    render: dict[str, Callable[[str], str]] = {
        "{{": template_text,
        "[[": lambda content: _link_text(content, no_text),
        "{|": lambda _: "\n",
        "<table": lambda _: "\n",
    }
    # What is open, innermost last, each with its bracket and the pieces of text in it.
    opened: list[tuple[str, list[str]]] = [("", [])]
    position = 0
    for match in _BRACKET.finditer(text):
        opened[-1][1].append(text[position : match.start()])
        position = match.end()
        token = match[0] if len(match[0]) == 2 else _bare(match[0])
        opening = _CLOSES.get(token)
        if opening is None and len(opened) <= _DEEPEST:
            opened.append((token, []))
        elif opening in (name for name, _ in opened):
            while opened[-1][0] != opening:
                _unwrap(opened)
            content = "".join(opened.pop()[1])
            opened[-1][1].append(render[opening](content))
        else:
            opened[-1][1].append(match[0])
    opened[-1][1].append(text[position:])
    while len(opened) > 1:
        _unwrap(opened)
    return "".join(opened[0][1])


def _bare(token: str) -> str:
    """A bracket without what indents it and without attributes."""
    return re.split(r"[\s>]", token.lstrip(" \t:*#;").lower(), maxsplit=1)[0]


def _unwrap(opened: list[tuple[str, list[str]]]) -> None:
    """Take the innermost bracket, which is never closed, for text."""
    token, pieces = opened.pop()
    opened[-1][1].extend((token, *pieces))


def _link_text(content: str, no_text: Collection[str]) -> str:
    """The text a link shows: ``[[Town hall (Delft)|hall]]`` is "hall"."""
    target, *shown = content.split("|")
    target = target.strip()
    prefix, colon, _ = target.partition(":")
    prefix = prefix.strip().lower()
    if colon and prefix:
        # A link has one text; what has several parts is a picture in a language we do not know.
        if prefix in no_text or len(shown) > 1:
            return ""
        if not shown and _INTERWIKI.fullmatch(prefix):
            return ""
    return (shown[-1] if shown else "") or target.lstrip(":")


def _paragraphs(text: str, options: WikitextOptions) -> list[list[str]]:
    """The lines of each paragraph; lines without one between them belong together."""
    paragraphs: list[list[str]] = [[]]
    for raw in text.split("\n"):
        line = raw.strip()
        is_list = line[:1] in ("*", "#", ":", ";")
        if is_list:
            line = line.lstrip("*#:; ")
        is_heading = line.startswith("=") and line.endswith("=")
        if is_list and options.keep_lists and line and not _LEFT_OVER.search(line):
            paragraphs += [[line], []]
        elif not line or is_list or is_heading or line.startswith("----"):
            paragraphs.append([])
        elif not _LEFT_OVER.search(line):
            paragraphs[-1].append(line)
    return paragraphs


def _tidy(text: str) -> str:
    """Decode entities, and mend blanks and brackets that removed markup left; "" if no letters."""
    text = " ".join(_INVISIBLE.sub("", html.unescape(text)).split())
    if any(scar in text for scar in _SCARS):
        text = _TRAILING_IN_BRACKETS.sub(r"\1", _LEADING_IN_BRACKETS.sub(r"\1", text))
        text = _EMPTY_BRACKETS.sub("", text)
        text = _BLANK_BEFORE_STOP.sub(r"\1", _REPEATED_STOP.sub(r"\1", text)).strip()
    return text if any(map(str.isalpha, text)) else ""
