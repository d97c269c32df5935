"""Wikitext to plain text: kept text, removed markup, and linear time."""

import time

import pytest

from funnel_data.corpora.sentences import split_sentences
from funnel_data.corpora.wikitext import NO_TEXT, WikitextOptions, clean_wikitext
from wiki_dumps import CLEAN, UGLY

OPTIONS = WikitextOptions(no_text=NO_TEXT | {"datei", "kategorie"})


def clean(text):
    return clean_wikitext(text, OPTIONS)


def test_an_ugly_article():
    assert [s for p in clean(UGLY) for s in split_sentences(p)] == CLEAN


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{convert|5|km}}, {{frac|2|1|3}}, {{circa|1900}}, {{USS|Iowa|BB-61}}",
         "5 km, 2 1/3, c. 1900, USS Iowa (BB-61)"),
        ("a{{snd}}b {{lang-fr|oui}} {{abbr|1=Mr|2=mister}} {{unknown|gone}}.", "a – b oui Mr."),
        ("a (born {{birth|1}}), ({{x}}) b {{x}} , {{x}}, c {{x}}.", "a (born), b, c."),
        ("[[A#b|c]] [[:Category:D]] [[E: F]] [[de:G]] [[H|]] [[Bild:a|mini|b]]",
         "c Category:D E: F H"),
        ("a <REF>x</REF> <ref/>b <ref name=x>c", "a b c"),
        ("it&#39;s &lt;b&gt; &mdash; a\u00adb\u200bc", "it's <b> — abc"),
        ("'''''both''''' ''' bold'' {{{1|kept}}} __TOC__", "both bold kept"),
        ("before {{a|{{b|[[c|}}]]}} after", "before after"),
        ("soft\nwrap", "soft wrap"),
        ("''a'' [mailto:x@y.z mail] [//a.b c] [http://only.one] [sic]", "a mail c [sic]"),
    ],
)  # fmt: skip
def test_one_line(text, expected):
    assert clean(text) == [expected]


BARE = ["", "{{a}}", "1 2 3", "a ]] b", "== H ==", "|cell", "[[File:a|b]]", "* a list"]


@pytest.mark.parametrize("text", BARE)
def test_nothing_is_left(text):
    assert clean(text) == []


def test_lists_on_demand():
    options = WikitextOptions(keep_lists=True)
    assert clean_wikitext("a\n* b [[c]]\n** d\n{{x}}\n*\n", options) == ["a", "b c", "d"]


OPENINGS = ["{{", "[[a|", "<ref>", "<!--", "<table>", "{|\n", "{{a|{{{", "[//", " ,", "<nowiki>"]


@pytest.mark.parametrize("piece", OPENINGS)
def test_time_grows_in_proportion(piece):
    """A page of opening brackets only, where a search to the end for each would take hours."""
    text = piece * (200_000 // len(piece))
    begin = time.process_time()
    clean(text + "}}" * 1000 + "]]" * 1000)
    assert time.process_time() - begin < 10


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("One. Two! Three? Four… Five.", ["One.", "Two!", "Three?", "Four…", "Five."]),
        ('He said "Stop." Then (why?) he left. "Go!" she said.',
         ['He said "Stop."', "Then (why?) he left.", '"Go!" she said.']),
        ("Dr. A. B. Smith vs. Mr. X of Acme Inc. Texas. End.",
         ["Dr. A. B. Smith vs. Mr. X of Acme Inc. Texas.", "End."]),
        ("The U.S. Army. The U.S. It is.", ["The U.S. Army.", "The U.S.", "It is."]),
        ("See no. 5 and Fig. 2, on Jan. 3. Pi is 3.14. Version 2.0 works.",
         ["See no. 5 and Fig. 2, on Jan. 3.", "Pi is 3.14.", "Version 2.0 works."]),
        ("Yahoo! is one. iPhone", ["Yahoo! is one. iPhone"]),
        ("東京は首都。「はい。」京都！大阪", ["東京は首都。", "「はい。」", "京都！", "大阪"]),
        ("यह एक है। वह दो। هل هذا؟ نعم.", ["यह एक है।", "वह दो।", "هل هذا؟", "نعم."]),
        ("  ", []),
        ("No end", ["No end"]),
    ],
)  # fmt: skip
def test_sentences(text, ends):
    assert split_sentences(text) == ends
