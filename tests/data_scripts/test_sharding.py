"""Dumps and text files split at any byte: every document once, in order; and one-line errors."""

import bz2
import gzip
import json
import lzma
import random
from pathlib import Path

import pytest

from funnel.utils.errors import ConfigError, DataError
from funnel_data.corpora.bz2_blocks import check_end, read_blocks
from funnel_data.corpora.sharding import (
    ByteRange,
    OutputConfig,
    ShardStats,
    check_manifest,
    plan_shards,
    select_task_shards,
    write_shards,
)
from funnel_data.corpora.text_files import TextOptions, TextReader, find_text_files
from funnel_data.corpora.wikipedia import WikipediaReader, check_dump, read_articles
from funnel_data.corpora.wikitext import NO_TEXT, WikitextOptions
from wiki_dumps import CLEAN, HEAD, compressed, dump, page, plain_sentences

DUMP = dump(40)
TEXT = "One. Two.\nThree\n\n\n \nFour\n\nFive\r\nSix\n\n"


def split(path, count):
    size = path.stat().st_size
    bounds = [size * n // count for n in range(count + 1)]
    return [ByteRange(str(path), *bounds[n : n + 2]) for n in range(count)]


def documents(reader, ranges):
    return [document for source in ranges for document in reader.read_documents(source)]


@pytest.mark.parametrize("streams", [1, 5])
def test_blocks_are_found_at_any_byte(tmp_path, streams):
    data = random.Random(1).randbytes(350_000) + b"a" * 99_000
    path = tmp_path / "a.bz2"
    path.write_bytes(compressed(data, streams))
    check_end(path)
    blocks = list(read_blocks(path))
    assert b"".join(block for _, block in blocks) == data and len(blocks) >= 4
    for position, _ in blocks:
        assert list(read_blocks(path, position)) == [b for b in blocks if b[0] >= position]
        assert list(read_blocks(path, position + 1)) == [b for b in blocks if b[0] > position]


@pytest.mark.parametrize("form", ["xml", "one stream", "five streams"])
@pytest.mark.parametrize("count", [1, 2, 7, 1500])
def test_ranges_of_a_dump_have_every_article_once(tmp_path, form, count):
    path = tmp_path / "dump"
    path.write_bytes({"xml": DUMP, "one stream": compressed(DUMP)}.get(form) or compressed(DUMP, 5))
    names = check_dump(path)
    assert names == NO_TEXT | {"medium", "datei", "kategorie"}
    found = documents(WikipediaReader(WikitextOptions(no_text=names)), split(path, count))
    assert found == [CLEAN, ["It may be:"], *map(plain_sentences, range(40))]


def test_an_article_longer_than_a_range(tmp_path):
    path = tmp_path / "dump"
    text = "".join(f"{n} is a number.\n" for n in range(200_000))
    path.write_bytes(
        compressed((HEAD + page("A", text) + page("B", "B.") + "</mediawiki>").encode())
    )
    titles = [[a.title for a in read_articles(path, r.start, r.end)] for r in split(path, 4)]
    assert [title for found in titles for title in found] == ["A", "B"] and [] in titles


BROKEN = {
    "empty": (b"", "the file is empty"),
    "not a dump": (b"<html></html>", "not a Wikipedia dump"),
    "a compressed letter": (bz2.compress(b"Dear reader"), "not a Wikipedia dump"),
    "truncated": (DUMP[:30_000], "no </mediawiki> at the end"),
    "truncated bz2": (compressed(DUMP)[:-2000], "the file is truncated"),
    "truncated by a byte": (compressed(DUMP)[:-1], "the file is truncated"),
    "corrupt": (compressed(DUMP)[:100] + b"\0" * 9 + compressed(DUMP)[109:], "corrupt block"),
    "broken XML": (DUMP.replace(b"<ns>1</ns>", b"<ns>1"), "broken XML in the page 'Talk:Delft"),
    "an endless page": (DUMP.replace(b"</page>", b""), "truncated within a page"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_errors_name_corrupt_dumps(tmp_path, name):
    path = tmp_path / "dump"
    data, message = BROKEN[name]
    path.write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        check_dump(path)
        list(read_articles(path, 0, len(data)))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [["One.", "Two.", "Three"], ["Four"], ["Five", "Six"]]),
        ({"documents": "line"}, [["One.", "Two."], ["Three"], ["Four"], ["Five"], ["Six"]]),
        ({"documents": "file", "lines": "wrapped"},
         [["One.", "Two.", "Three", "Four", "Five Six"]]),
        ({"lines": "sentence"}, [["One. Two.", "Three"], ["Four"], ["Five", "Six"]]),
    ],
)  # fmt: skip
def test_plain_text_in_ranges(tmp_path, options, expected):
    path = tmp_path / "a.txt"
    path.write_bytes(TEXT.encode())
    reader = TextReader(TextOptions(**options))
    for count in (1, 2, 3, 5, len(TEXT)) if reader.options.is_splittable(str(path)) else (1,):
        assert documents(reader, split(path, count)) == expected, count


WET = (
    "WARC/1.0\r\nWARC-Type: warcinfo\r\nContent-Length: 4\r\n\r\nNo.\n\r\n\r\n"
    "WARC/1.0\r\nWARC-Type: conversion\r\nContent-Length: 13\r\n\r\nAnn. Bob.\nC\u00e9\r\n\r\n"
)
GIGAWORD = (
    '<DOC id="A_1" type="story" >\n<HEADLINE>\nNo\n</HEADLINE>\n<TEXT>\n<P>\nAnn &AMP;\nbob. Bob.\n'
    "</P>\n<P>\nC\n</P>\n</TEXT>\n</DOC>\n"
    '<DOC id="A_2" type="other" >\n<TEXT>\nD\n</TEXT>\n</DOC>\n'
)
JSON = '{"text": "Ann. Bob.\\n\\nC", "x": 1}\n\n{"text": "\\ud800"}\n{"text": ""}\n'


@pytest.mark.parametrize(
    ("name", "text", "format_", "expected"),
    [
        ("a.warc.wet", WET, "auto", [["Ann.", "Bob.", "C\u00e9"]]),
        ("a.jsonl", JSON, "auto", [["Ann.", "Bob.", "C"], ["\ud800"], []]),
        ("afp_199405", GIGAWORD, "gigaword", [["Ann & bob.", "Bob.", "C"], ["D"]]),
        ("a.txt", "\ufeffAnn. Bob.\n", "auto", [["Ann.", "Bob."]]),
    ],
)
def test_formats_compressed_and_not(tmp_path, name, text, format_, expected):
    reader = TextReader(TextOptions(format=format_))
    for suffix, compress in {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress,
                         ".xz": lzma.compress}.items():  # fmt: skip
        path = tmp_path / (name + suffix)
        path.write_bytes(compress(text.encode()))
        found = documents(reader, split(path, 1))
        assert found == expected, suffix
    assert len(find_text_files([str(tmp_path)], reader.options)) == 4


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b"good\nbad \xff", "a.txt, byte 9: not utf-8 text; see --encoding"),
        ("a.jsonl", b'{"text": 1}', "byte 0: 'text' is not a string"),
        ("a.jsonl", b'\n{"t": ""}', "byte 1: no key 'text'"),
        ("a.jsonl", b"text", "byte 0: not JSON"),
        ("a.wet", b"text", "not a WET file"),
        ("a.wet", WET.encode()[:-8], "truncated"),
        ("a.txt.gz", gzip.compress(b"text" * 99, mtime=0)[:-9], "corrupt or truncated"),
        ("a.txt.bz2", b"text", "corrupt or truncated"),
        ("a.txt.xz", lzma.compress(b"text" * 99)[:-9], "corrupt or truncated"),
    ],
)
def test_errors_name_corrupt_text_files(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        documents(TextReader(TextOptions()), split(tmp_path / name, 1))


def test_shards_split_and_join_files(tmp_path):
    for name, size in {"a": 10, "b": 10, "c": 95, "d": 10, "e": 95}.items():
        (tmp_path / name).write_bytes(b"x" * size)
    files = [str(tmp_path / name) for name in "abcde"]
    shards = plan_shards(files, "t", 30, is_splittable=lambda path: path.endswith("c"))
    assert [[(Path(p.path).name, p.start, p.end) for p in s.ranges] for s in shards] == [
        *([("a", 0, 10), ("b", 0, 10)], [("c", 0, 23)], [("c", 23, 47)], [("c", 47, 71)]),
        *([("c", 71, 95)], [("d", 0, 10)], [("e", 0, 95)]),
    ]
    assert shards[1].name == "t.00001-of-00007.txt"
    assert [s.name[2:7] for s in select_task_shards(shards, 1, 3)] == ["00001", "00004"]
    with pytest.raises(ConfigError, match="--task=3: of 3 tasks"):
        select_task_shards(shards, 3, 3)


def test_a_folder_keeps_its_settings_and_only_missing_files_are_written(tmp_path):
    source = tmp_path / "a.txt"
    source.write_text("Ann.\n\nBob. Ann. Bob.\n\nBob. Cid.\n\n" * 9)
    shards = plan_shards([str(source)], "t", 105, is_splittable=lambda _: True)
    output = OutputConfig(str(tmp_path / "out"), min_characters=5, unique_lines=True)
    reader = TextReader(TextOptions())
    check_manifest(output.folder, {"lines": "x"}, shards)
    first, *others = write_shards(shards, reader, output, 1)
    assert isinstance(first, ShardStats) and len(others) == 2
    written = Path(first.path)
    assert written.read_text() == "Bob.\nAnn.\n\n" and (first.documents, first.left_out) == (1, 9)
    written.unlink()
    check_manifest(output.folder, {"lines": "x"}, shards)
    assert [stats.path for stats in write_shards(shards, reader, output, 1)] == [str(written)]
    with pytest.raises(DataError, match="made with lines 'x', not 'y'"):
        check_manifest(output.folder, {"lines": "y"}, shards)
    with pytest.raises(DataError, match="made with shards 3, not 2"):
        check_manifest(output.folder, {"lines": "x"}, shards[:2])
    settings = json.loads((tmp_path / "out/prepared.json").read_text())
    assert settings["lines"] == "x" and settings["shards"] == 3
