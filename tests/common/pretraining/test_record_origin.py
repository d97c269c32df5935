"""Pretraining records are read with the tokenizer they were made with, or not at all."""

import json

import pytest

from funnel.config.inputs import SegmentIds
from funnel.config.pretraining import CorpusConfig
from funnel.pretraining.create_records import create_records, read_documents
from funnel.pretraining.record_index import find_records
from funnel.tokenization import get_tokenizer
from funnel.utils.errors import DataError

SPECIAL = ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"]
WORDS = ["red", "green", "blue", "warm", "cold", "Red"]


def make_tokenizer(path, words=WORDS, uncased=True, end="\n"):
    path.write_bytes("".join(f"{word}{end}" for word in [*SPECIAL, *words]).encode())
    return get_tokenizer("word_piece", path, uncased)


@pytest.fixture
def records(tmp_path):
    (tmp_path / "text.txt").write_text("red green blue warm cold\n" * 40)
    config = CorpusConfig(str(tmp_path / "text.txt"), str(tmp_path / "out"), seq_len=16)
    create_records(config, 0, make_tokenizer(tmp_path / "v.txt"), show_progress=False)
    return str(tmp_path / "out")


def test_another_vocabulary_of_the_same_size_is_refused(tmp_path, records):
    other = make_tokenizer(tmp_path / "reversed.txt", WORDS[::-1])
    with pytest.raises(DataError, match=r"with another tokenizer, v\.txt: .*SHA-256 is .* there"):
        find_records(records, "train", 16, True, tokenizer=other)
    longer = make_tokenizer(tmp_path / "longer.txt", [*WORDS, "x"])
    with pytest.raises(DataError, match=r"number of tokens is 15 there and 16 in .*longer.txt"):
        find_records(records, "train", 16, True, tokenizer=longer)


def test_the_same_entries_in_another_file_are_accepted(tmp_path, records, caplog):
    same = make_tokenizer(tmp_path / "renamed.txt", end="\r\n")
    assert find_records(records, "train", 16, True, tokenizer=same).num_examples
    assert not caplog.records


def test_records_without_an_origin_are_accepted_with_a_notice(tmp_path, records, caplog):
    (meta,) = (tmp_path / "out").glob("meta.*")
    content = json.loads(meta.read_text())
    kept = {key: content[key] for key in ("filenames", "num_example")}
    meta.write_text(json.dumps(kept))
    other = make_tokenizer(tmp_path / "reversed.txt", WORDS[::-1])
    assert find_records(records, "train", 16, True, tokenizer=other).num_examples
    assert "1 metadata files name no tokenizer" in caplog.text


def test_segment_ids_of_the_records_are_those_of_the_model(tmp_path, caplog):
    (tmp_path / "text.txt").write_text("red green blue warm cold\n" * 40)
    segments = SegmentIds(cls=0)
    place = (str(tmp_path / "text.txt"), str(tmp_path / "out"))
    tokenizer = make_tokenizer(tmp_path / "v.txt")
    config = CorpusConfig(*place, seq_len=16, segments=segments)
    create_records(config, 0, tokenizer, show_progress=False)
    assert tokenizer.segments == SegmentIds()
    find_records(place[1], "train", 16, True, tokenizer=tokenizer)
    assert tokenizer.segments == segments
    assert "the segment ids of the records" in caplog.text


@pytest.mark.parametrize("blank", ["\u3000", "\u00a0", "\u2028"])
def test_only_an_empty_line_ends_a_document(tmp_path, blank):
    (tmp_path / "text.txt").write_text(f"red\n{blank}\ngreen{blank}blue\n\nwarm\n", "utf-8")
    found = list(read_documents(tmp_path / "text.txt"))
    assert [[s for s in document if s] for document in found] == [
        ["red", f"green{blank}blue"],
        ["warm"],
    ]
