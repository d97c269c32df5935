"""Names in messages; cleaning, punctuation and truncation against step-by-step descriptions."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnel.utils.text import (
    clean_classification_text,
    is_punctuation,
    join_names,
    truncate_pair,
)


def truncate_step_by_step(length_a, length_b, limit):
    while length_a + length_b > limit:
        if length_a > length_b:
            length_a -= 1
        else:
            length_b -= 1
    return length_a, length_b


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 100))
def test_truncation_equals_removing_one_token_at_a_time(length_a, length_b, limit):
    expected = truncate_step_by_step(length_a, length_b, limit)
    assert truncate_pair(length_a, length_b, limit) == expected


@pytest.mark.parametrize(
    ("lengths", "limit", "expected"),
    [((5, 5), 9, (5, 4)), ((9, 2), 6, (4, 2)), ((2, 9), 6, (2, 4)), ((0, 7), 3, (0, 3))],
)
def test_truncation_of_known_pairs(lengths, limit, expected):
    assert truncate_pair(*lengths, limit) == expected


@pytest.mark.parametrize("wrong", [(-1, 2, 3), (1, -2, 3), (1, 2, -3)])
def test_negative_lengths_are_refused(wrong):
    with pytest.raises(ValueError, match="negative length"):
        truncate_pair(*wrong)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one<br />two<p>three", "one two three"),
        ("&quot;Quoted&quot;", '"Quoted"'),
        ('see <a href="x.html" class="y">this</a> page', "see this page"),
        ("first\\nsecond \\n third", "first second third"),
        ("back\\slash\\\\ twice", "back slash twice"),
        ("  many    blanks  ", "many blanks"),
        ("AG's #39;s &lt;b&gt; &amp; stay", "AG's #39;s &lt;b&gt; &amp; stay"),
        ("<abbr>no link</abbr> <b>", "<abbr>no link</abbr> <b>"),
        ("a <a href=unfinished", "a <a href=unfinished"),
        ("", ""),
    ],
)
def test_cleaning_of_classification_text(text, expected):
    assert clean_classification_text(text) == expected


@given(st.text(st.sampled_from('ab \\n<>p/"&;quotbr'), max_size=40))
def test_cleaned_text_has_no_backslash_and_no_double_blank(text):
    cleaned = clean_classification_text(text)
    assert "\\" not in cleaned and "  " not in cleaned and cleaned == cleaned.strip()


def test_punctuation_is_visible_ascii_marks_and_unicode_p():
    marks = "".join(chr(code) for code in range(128) if is_punctuation(chr(code)))
    assert marks == "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
    assert all(is_punctuation(char) for char in "«»“”…—、。¿")
    assert not any(is_punctuation(char) for char in "€½é中\u0301\xa0\u200b")
    assert all(unicodedata.category(char)[0] == "P" for char in "«»“”…—、。¿")


def test_long_lists_of_names_are_cut():
    assert join_names([]) == ""
    assert join_names(["a", "b"], 2) == "a, b"
    assert join_names(["a", "b", "c", "d"], 2, separator="; ") == "a; b and 2 more"
