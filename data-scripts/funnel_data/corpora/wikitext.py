"""Wikitext to paragraphs of plain text.

Running text is kept. Templates (except for a few that show words of a sentence), tables,
references, formulas, pictures, categories, headings and lists are removed. A line in which broken
markup is left is dropped.

Time is linear in the length of the text for any input, since articles come from untrusted authors.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from funnel_data.corpora.templates import template_text

# Namespaces of pictures and categories; a dump adds the names in its own language.
NO_TEXT = frozenset({"file", "image", "media", "category"})
_MAX_DEPTH = 40  # deeper nesting is broken or hostile; each level copies the text once more

# Elements whose content is not prose. Tables can be nested, so _resolve_brackets removes them.
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

_PARAMETER = re.compile(r"\{\{\{[^{}|]*(?:\|([^{}|]*))?\}\}\}")
_EXTERNAL_LINK = re.compile(
    r"\[(?:mailto:|(?:[a-z][a-z+.-]{1,20}:)?//)[^\s\[\]]++[ \t]*+([^\[\]\n]*)\]", re.IGNORECASE
)
_QUOTES = re.compile(r"'{2,}")
_BREAK = re.compile(r"<(?:br|/?p|/?div|/?blockquote|/?center)\b[^<>]*>", re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_SWITCH = re.compile(r"__[A-Z]{3,}__")
_LEFT_OVER = re.compile(r"\{\{|\}\}|\[\[|\]\]|\{\||\|\}|^[|!]|</?(?:ref|math|table)\b")
_INTERWIKI = re.compile(r"[a-z]{2,3}(?:-[a-z-]+)?")
_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")

# Remains of removed templates: "(, born 1900)", "( )", "word ,". Most paragraphs have none, which
# this search for two characters finds out fast.
_SCARS = ("( ", "(,", "(;", "(:", "()", " )", ",)", ";)", "[ ", "[]", " ]", " ,", " .", ",,", ",.")
_LEADING_IN_BRACKETS = re.compile(r"([(\[])[ ,;:–]+")
# Only from the start of a run: from each of its characters, the time would be quadratic.
_TRAILING_IN_BRACKETS = re.compile(r"(?<![ ,;:–])[ ,;:–]+([)\]])")
_EMPTY_BRACKETS = re.compile(r" ?(?:\(\)|\[\])")
_BLANK_BEFORE_STOP = re.compile(r" ([,.])(?= |$)")
_REPEATED_STOP = re.compile(r",(?: ?[,.])+")


@dataclass(frozen=True)
class WikitextOptions:
    """Settings of :func:`clean_wikitext`.

    Attributes:
        keep_lists: keep list items, each as a paragraph.
        no_text: lower-case namespaces of links that show a picture or nothing.
    """

    keep_lists: bool = False
    no_text: Collection[str] = NO_TEXT


def clean_wikitext(text: str, options: WikitextOptions) -> list[str]:
    """Return the paragraphs of an article, each as one stripped line."""
    text = _PARAMETER.sub(r"\1", _remove_elements(text))
    text = _resolve_brackets(text, options.no_text)
    text = _EXTERNAL_LINK.sub(r"\1", text)
    text = _QUOTES.sub("", text)
    text = _TAG.sub("", _BREAK.sub("\n", text))
    text = _SWITCH.sub("", text)
    return [clean for lines in _paragraphs(text, options) if (clean := _tidy(" ".join(lines)))]


def _remove_elements(text: str) -> str:
    """Remove comments and elements that are not prose; of an unclosed one, only the tag."""
    kept: list[str] = []
    unclosed: set[str] = set()  # searching to the end once per name keeps the time linear
    position = 0
    while match := _ELEMENT.search(text, position):
        kept.append(text[position : match.start()])
        position = match.end()
        name = (match[1] or "!--").lower()
        if match[0].endswith("/>") or name in unclosed:
            continue
        closing = _closing_pattern(name).search(text, position)
        if closing is None:
            unclosed.add(name)
            continue
        if name == "nowiki":  # escaped, so that later steps find no markup in it
            kept += [f"&#{ord(char)};" for char in text[position : closing.start()]]
        position = closing.end()
    kept.append(text[position:])
    return "".join(kept)


def _closing_pattern(name: str) -> re.Pattern[str]:
    pattern = "-->" if name == "!--" else rf"</{name}\s*>"
    return re.compile(pattern, re.IGNORECASE)  # re caches compiled patterns


def _resolve_brackets(text: str, no_text: Collection[str]) -> str:
    """Replace templates, links and tables by the text they show, innermost first."""
    render: dict[str, Callable[[str], str]] = {
        "{{": template_text,
        "[[": lambda content: _link_text(content, no_text),
        "{|": lambda _: "\n",
        "<table": lambda _: "\n",
    }
    # A stack of (opening bracket, pieces of text inside it); the bottom entry is the article.
    opened: list[tuple[str, list[str]]] = [("", [])]
    position = 0
    for match in _BRACKET.finditer(text):
        opened[-1][1].append(text[position : match.start()])
        position = match.end()
        token = match[0] if len(match[0]) == 2 else _bracket_name(match[0])
        opening = _CLOSES.get(token)
        if opening is None and len(opened) <= _MAX_DEPTH:
            opened.append((token, []))
        elif opening is not None and any(name == opening for name, _ in opened):
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


def _bracket_name(token: str) -> str:
    """Return a bracket without indentation and attributes."""
    return re.split(r"[\s>]", token.lstrip(" \t:*#;").lower(), maxsplit=1)[0]


def _unwrap(opened: list[tuple[str, list[str]]]) -> None:
    """Turn the innermost bracket, which is never closed, into text."""
    token, pieces = opened.pop()
    opened[-1][1].extend((token, *pieces))


def _link_text(content: str, no_text: Collection[str]) -> str:
    """Return the text a link shows: "hall" for ``[[Town hall (Delft)|hall]]``."""
    target, *shown = content.split("|")
    target = target.strip()
    prefix, colon, _ = target.partition(":")
    prefix = prefix.strip().lower()
    if colon and prefix:
        # A link has one text; several mean a picture whose namespace is in another language.
        if prefix in no_text or len(shown) > 1:
            return ""
        if not shown and _INTERWIKI.fullmatch(prefix):
            return ""
    return (shown[-1] if shown else "") or target.lstrip(":")


def _paragraphs(text: str, options: WikitextOptions) -> list[list[str]]:
    """Return the lines of each paragraph; empty lines, lists and headings separate paragraphs."""
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


def _last_stop(match: re.Match[str]) -> str:
    """Return the last of several stops in front of a blank or the end, and the rest of them."""
    run, text, end = match[0], match.string, match.end()
    if end == len(text) or text[end] == " ":
        return run[-1]
    blank = run.rfind(" ")
    return run[blank - 1 :] if blank > 1 else run


def _tidy(text: str) -> str:
    """Decode entities, tidy blanks and brackets after removed markup; "" if no letter is left."""
    text = " ".join(_INVISIBLE.sub("", html.unescape(text)).split())
    if any(scar in text for scar in _SCARS):
        text = _TRAILING_IN_BRACKETS.sub(r"\1", _LEADING_IN_BRACKETS.sub(r"\1", text))
        text = _EMPTY_BRACKETS.sub("", text)
        text = _BLANK_BEFORE_STOP.sub(r"\1", _REPEATED_STOP.sub(_last_stop, text)).strip()
    return text if any(map(str.isalpha, text)) else ""
