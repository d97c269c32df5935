"""Small Wikipedia dumps in the real format, with markup as irregular as the real one."""

from __future__ import annotations

import bz2
import hashlib
from xml.sax.saxutils import escape

HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="de">
  <siteinfo>
    <sitename>Wikipedia</sitename>
    <namespaces>
      <namespace key="-2" case="first-letter">Medium</namespace>
      <namespace key="0" case="first-letter" />
      <namespace key="6" case="first-letter">Datei</namespace>
      <namespace key="14" case="first-letter">Kategorie</namespace>
    </namespaces>
  </siteinfo>
"""
PAGE = """  <page>
    <title>{title}</title>
    <ns>{ns}</ns>
    <id>{id}</id>{redirect}
    <revision>
      <id>{id}</id>
      <format>text/x-wiki</format>
      <text bytes="1" xml:space="preserve">{text}</text>
    </revision>
  </page>
"""
UGLY = """{{Infobox bridge
| name = {{lang|nl|Brug}} | image = [[File:Bridge.jpg|thumb|The [[bridge]] of {{convert|3|km}}]]
| notes = {|
| nested || table
|}
}}
<!-- {{ a comment [[with brackets -->'''Delft Bridge''' ({{IPA|dɛlft}}; Dutch: \
{{lang|nl|Delftse brug}}) is a [[bridge (structure)|bridge]]s&nbsp;expert's \
''favourite''<ref name="a>b">{{cite|t=[[x]]}} Sic.</ref><ref name=b />.
It is {{convert|80|to|90|km|mi}} long, says Dr. [[J. K. Visser]] of the U.S. Army.
Caf\u00e9s &amp; \u6771\u4eac are near<math>\\frac{a}{b}</math>.

{| class="wikitable"
! head || cell {{x}}
|-
| {| class="inner"
| deep
|}
|}
== See [[also]] ==
* A list item with a [[link]].
# Another one.
: An indented line.
[[Datei:Karte.png|mini|Eine [[Karte]]]]
Second paragraph, with <span style="x">tags</span>, H<sub>2</sub>O and \
[http://example.org a site].<br/>
<table><tr><td>html <table><tr><td>inner</td></tr></table> table</td></tr></table>
This line is {{broken and goes.

<nowiki>[[Plain]]</nowiki> brackets stay[[Kategorie:Br\u00fccke|D]][[fr:Pont]]__NOTOC__! Done?
"""
CLEAN = [
    "Delft Bridge (Dutch: Delftse brug) is a bridges expert's favourite.",
    "It is 80 to 90 km long, says Dr. J. K. Visser of the U.S. Army.",
    "Caf\u00e9s & \u6771\u4eac are near.",
    "Second paragraph, with tags, H2O and a site.",
    "[[Plain]] brackets stay!",
    "Done?",
]
REPEATED = 20


def page(title: str, text: str, number: int = 1, ns: int = 0, redirect: str = "") -> str:
    link = f'\n    <redirect title="{redirect}" />' if redirect else ""
    return PAGE.format(title=escape(title), text=escape(text), id=number, ns=ns, redirect=link)


def dump(articles: int) -> bytes:
    """Return a dump of an irregular article, pages that are not articles, and plain articles."""
    pages = [
        page("Delft Bridge", UGLY),
        page("Old name", "#REDIRECT [[Delft Bridge]]", redirect="Delft Bridge"),
        page("Talk:Delft Bridge", "Who wrote this? I did. " * 20, ns=1),
        page("List", "It may be:\n* [[One]]\n* [[Two]]\n" + "* [[Three]]\n" * 30),
        *(page(f"Article {n}", _plain_article(n), n) for n in range(articles)),
    ]
    return (HEAD + "".join(pages) + "</mediawiki>\n").encode()


def _plain_article(number: int) -> str:
    first = f"'''Article {number}''' counts {{{{nowrap|to {number}}}}}. "
    return first + "".join(f"It goes on, [[b|in words]] {w}. " for w in _words(number))


def plain_sentences(number: int) -> list[str]:
    """Return the expected sentences of a plain article."""
    repeated = [f"It goes on, in words {word}." for word in _words(number)]
    return [f"Article {number} counts to {number}.", *repeated]


def _words(number: int) -> list[str]:
    """Return words unique to the article, so random that a dump does not compress to nothing."""
    return [hashlib.md5(f"{number} {n}".encode()).hexdigest() for n in range(REPEATED)]


def compressed(data: bytes, streams: int = 1) -> bytes:
    """Return a bzip2 file with small blocks, in one or several streams ("multistream" dumps)."""
    size = -(-len(data) // streams)
    parts = [data[start : start + size] for start in range(0, len(data), size)]
    return b"".join(bz2.compress(part, 1) for part in parts)
