"""Task files that are fine but unusual: compressed, CR line ends, blank lines between CSV rows."""

import bz2
import gzip
import json
import lzma

import pytest

from funnel.tasks import CustomTaskConfig, get_task
from funnel.tasks.race import read_race
from funnel.tasks.squad import read_squad
from funnel.tasks.submission import find_companion
from funnel.utils.errors import DataError
from task_files import RTE_HEADER, rte_rows, table, write

PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
FILES = {
    "tsv": "text\tlabel\none\ta\ntwo\tb\n",
    "csv": 'text,label\n"one",a\ntwo,b\n',
    "jsonl": '{"text": "one", "label": "a"}\n{"text": "two", "label": "b"}\n',
}


def load(folder, kind, split="train", **config):
    task = get_task(kind, custom=CustomTaskConfig(kind, **config)).resolve_labels(folder)
    return [(e.text_a, e.label) for e in task.load(folder, split)]


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_tables(tmp_path, kind, packer, end, caplog):
    content = ("\ufeff" + FILES[kind].replace("\n", end)).encode()
    expected = [("one", 0), ("two", 1)]
    write(tmp_path / f"train.{kind}", content)
    assert load(tmp_path, kind) == expected
    (tmp_path / f"train.{kind}").unlink()
    write(tmp_path / f"train.{kind}{packer}", PACKERS[packer](content))
    assert load(tmp_path, kind) == expected
    assert load(tmp_path, kind, train_file=f"train.{kind}{packer}") == expected
    write(tmp_path / "renamed", PACKERS[packer](content))
    assert load(tmp_path, kind, train_file="renamed") == expected
    assert not caplog.records


def test_a_plain_file_comes_before_a_compressed_one(tmp_path):
    write(tmp_path / "train.tsv", FILES["tsv"])
    write(tmp_path / "train.tsv.gz", b"corrupt")
    assert len(load(tmp_path, "tsv")) == 2
    (tmp_path / "train.tsv").unlink()
    with pytest.raises(DataError, match=r"train\.tsv\.gz: corrupt file: "):
        load(tmp_path, "tsv")


def test_published_tasks_and_folders(tmp_path):
    rows = table(*rte_rows(3), header=RTE_HEADER)
    write(tmp_path / "train.tsv.gz", gzip.compress(rows.encode()))
    assert len(get_task("rte").load(tmp_path, "train")) == 3
    write(tmp_path / "train/neg/1.txt", "bad")
    write(tmp_path / "train/neg/0.txt.gz", gzip.compress(b"worse"))
    write(tmp_path / "train/pos/0.txt.xz", lzma.compress(b"good"))
    found = get_task("imdb").load(tmp_path, "train")
    assert [(e.text_a, e.label) for e in found] == [("worse", 0), ("bad", 0), ("good", 1)]


def test_an_undecodable_text_of_a_folder_is_named_with_its_line(tmp_path, caplog):
    for number in range(100):
        write(tmp_path / f"train/neg/{number}.txt", "bad")
    write(tmp_path / "train/pos/0.txt", b"good\n\xff")
    assert len(get_task("imdb").load(tmp_path, "train")) == 100
    assert "pos/0.txt: broken line: not UTF-8 at byte 1 of line 2" in caplog.text


def test_squad_and_race(tmp_path):
    answer = {"text": "c", "answer_start": 0}
    question = {"id": "1", "question": "q", "answers": [answer]}
    squad = {"data": [{"paragraphs": [{"context": "c d", "qas": [question]}]}]}
    for packer, pack in PACKERS.items():
        path = tmp_path / f"squad.json{packer}"
        path.write_bytes(pack(json.dumps(squad).encode("utf-8-sig")))
        assert len(read_squad(path).questions) == 1
    race = {"article": "a", "questions": ["q"], "options": [list("wxyz")], "answers": ["B"]}
    for level in ("middle", "high"):
        folder = tmp_path / "train" / level
        write(folder / "1.txt", json.dumps(race))
        write(folder / "2.txt.gz", gzip.compress(json.dumps(race).encode()))
    assert len(read_race(tmp_path, "train").questions) == 4


@pytest.mark.parametrize("split", ["train", "test"])
def test_blank_lines_between_rows_of_csv_are_skipped_and_counted(tmp_path, split, caplog):
    content = '\ntext,label\n\none,a\n\n\n"t\n\nwo",b\r\n\r\n3,a\n\n'
    write(tmp_path / "train.csv", content)
    write(tmp_path / "test.csv", content)
    assert load(tmp_path, "csv", split) == [("one", 0), ("t\n\nwo", 1), ("3", 0)]
    assert f"{split}.csv: 5 blank lines skipped" in caplog.text


def test_rows_with_an_empty_text_are_no_blank_lines(tmp_path):
    write(tmp_path / "train.csv", 'text,label\n"",a\none,b\n')
    write(tmp_path / "test.csv", 'text\n""\none\n')
    assert load(tmp_path, "csv") == [("", 0), ("one", 1)]
    assert load(tmp_path, "csv", "test") == [("", None), ("one", None)]


def test_lines_keep_their_numbers(tmp_path):
    rows = "\n".join(["text,label", *[f"t{n},a\n" for n in range(5)], "x,b", "broken"])
    write(tmp_path / "train.csv", rows)
    with pytest.raises(DataError, match=r"train\.csv:13: 1 columns instead of 2"):
        load(tmp_path, "csv")
    write(tmp_path / "train.csv", rows.replace("\n", "\r"))
    with pytest.raises(DataError, match=r"train\.csv:13: 1 columns instead of 2"):
        load(tmp_path, "csv")


def test_an_empty_object_is_no_blank_line(tmp_path):
    write(tmp_path / "train.jsonl", FILES["jsonl"] + "{}\n" + FILES["jsonl"])
    with pytest.raises(DataError, match=r"train\.jsonl:3: 'text' is missing"):
        load(tmp_path, "jsonl")


def test_race_files_without_a_question(tmp_path):
    race = {"article": "a", "questions": [], "options": [], "answers": []}
    for level in ("middle", "high"):
        write(tmp_path / "dev" / level / "1.txt", json.dumps(race))
    with pytest.raises(DataError, match="dev: its files hold no question"):
        read_race(tmp_path, "dev")


def test_a_compressed_companion_is_found(tmp_path):
    (tmp_path / "MNLI").mkdir()
    write(tmp_path / "AX/diagnostic.tsv.gz", gzip.compress(b"index\tsentence1\tsentence2\n"))
    found = find_companion(get_task("mnli_matched"), tmp_path / "MNLI")
    assert found is not None and found[1].name == "AX"
