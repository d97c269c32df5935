"""Corpora with CR line ends, or compressed under another name, in every program that reads text."""

import gzip

import numpy as np
import pytest

from corpus_cases import tiny_tokenizer
from funnel.features.feature_inputs import TextSequences
from funnel.pretraining.create_records import read_documents
from funnel.tokenization.train_vocab import read_lines
from funnel.utils.errors import DataError
from funnel.utils.text import clean_classification_text
from funnel_data.corpora.sentences import split_sentences
from funnel_data.corpora.sharding import ByteRange
from funnel_data.corpora.templates import template_text
from funnel_data.corpora.text_files import TextOptions, TextReader
from funnel_data.corpora.wikitext import WikitextOptions, clean_wikitext

TEXT = "\ufeffOne. Two.\nThree\n\nFour\n"
JSON = '{"text": "One."}\n\n{"text": "Two."}\n'


def documents(path, **options):
    reader = TextReader(TextOptions(**options))
    return list(reader.read_documents(ByteRange(str(path), 0, path.stat().st_size)))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_prepare_text(tmp_path, pack, end):
    path = tmp_path / "a.txt"
    path.write_bytes(pack(TEXT.replace("\n", end).encode()))
    assert documents(path) == [["One.", "Two.", "Three"], ["Four"]]
    assert documents(path, documents="line") == [["One.", "Two."], ["Three"], ["Four"]]
    is_plain = pack is bytes and end != "\r"
    assert TextOptions().is_splittable(str(path)) == is_plain
    path.write_bytes(pack(JSON.replace("\n", end).encode()))
    assert documents(path, format="jsonl") == [["One."], ["Two."]]


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_vocabularies_records_and_features(tmp_path, pack, end):
    path = tmp_path / "a.txt"
    path.write_bytes(pack(TEXT.replace("\n", end).encode()))
    assert list(read_lines([path])) == ["One. Two.", "Three", "", "Four"]
    assert list(read_documents(path)) == [["One. Two.", "Three"], ["Four"]]
    tokenizer = tiny_tokenizer(tmp_path)
    plain = tmp_path / "plain.txt"
    plain.write_text(TEXT, encoding="utf-8")
    found, expected = (
        next(TextSequences(p, tokenizer, 16).batches(9)).to_dict() for p in (path, plain)
    )
    assert len(found["input_ids"]) == 4
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    plain.write_bytes(b"good\n\xff\n")
    with pytest.raises(
        DataError, match=r"plain\.txt:2: not UTF-8 at byte 1 of the line; save it as"
    ):
        TextSequences(plain, tokenizer, 16)


def test_numbers_of_thousands_of_digits(tmp_path):
    number = "9" * 6000
    assert template_text(f"frac|{number}=1|2|3") == template_text("frac|2|3")
    path = tmp_path / "a.wet"
    path.write_text(f"WARC/1.0\nWARC-Type: conversion\nContent-Length: {number}\n\nText")
    with pytest.raises(DataError, match=r"a\.wet: a WARC record of over 100000000 bytes"):
        documents(path)


@pytest.mark.parametrize(
    "token",
    ["{{", "[[", "{|", "<ref>", "<ref", "<!--", "((", "( ", ", ,", " ,", "..", "[http:// a", "''",
     "<nowiki>", "|", "=", "\n", "(;", "{{{a|", "-{", "<table ", " )", "<", ".", ",x,,"],
)  # fmt: skip
def test_hostile_articles_take_linear_time(token):
    """Twenty thousand times the same token: quadratic time would be minutes."""
    for text in (token * 20_000 + "x", "a (" + token * 20_000 + ")", "x" + token * 20_000):
        for paragraph in clean_wikitext(text, WikitextOptions()):
            split_sentences(paragraph)
        split_sentences(text)


@pytest.mark.parametrize(
    "text",
    ["{{{" + "a" * 50_000, "[http://" + "a" * 50_000, "{{frac|" + " " * 50_000 + "}}",
     "<a " * 50_000, "a" * 50_000 + "=", "(" + ", " * 50_000, "." + ")" * 50_000 + "x"],
    ids=lambda text: text[:8],
)  # fmt: skip
def test_marks_without_an_end_take_linear_time(text):
    clean_wikitext(text, WikitextOptions())
    split_sentences(text)
    clean_classification_text(text)


def test_names_of_template_arguments():
    assert template_text("frac| 2 = a |1= b|c=d") == "b/a"
    assert template_text("nowrap| = a") == "" and template_text("nowrap|=a") == "=a"
    assert template_text("nowrap|a?=b") == "a?=b" and template_text("nowrap|\n1 \n= x ") == "x"


def test_stops_after_removed_templates():
    cases = {"a,, b": "a, b", "a , . b": "a. b", "a, , ,x": "a, ,x", "a ( , ; ) b": "a b",
             "a, .": "a.", "a,,x": "a,,x", "a (b ,; ) c": "a (b) c"}  # fmt: skip
    found = {text: clean_wikitext(text, WikitextOptions())[0] for text in cases}
    assert found == cases
    assert split_sentences('Wait... what?! "Yes." No') == ["Wait... what?!", '"Yes."', "No"]
