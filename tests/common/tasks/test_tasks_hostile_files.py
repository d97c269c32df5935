"""Corrupt files and files of the wrong kind: each is refused in one clear line."""

import csv
import random
import re
from pathlib import Path

import pytest

from funnel.tasks import CustomTaskConfig, get_task
from funnel.utils.errors import DataError
from task_files import RTE_HEADER, rte_rows, table, write

RTE = get_task("rte")
UNREADABLE = Path("/proc/self/mem")  # opens, but its first page cannot be read, even by root


CSV_LINES = [f'"1","t{i}","d{i}"' for i in range(199)]
JSON_LINES = ['{"text": "x", "label": "a"}', '{"text": "y", "label": 1}'] * 100


def load(tmp_path, content, split="train", task=RTE, name=None):
    write(tmp_path / (name or f"{split}.tsv"), content)
    return task.resolve_labels(tmp_path).load(tmp_path, split)


def refused(tmp_path, content, message, *where, **more):
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path, content, *where, **more)
    assert "\n" not in str(caught.value)


class TestMissing:
    def test_directory(self, tmp_path):
        with pytest.raises(DataError, match="nowhere: no such directory"):
            RTE.load(tmp_path / "nowhere", "train")

    def test_file(self, tmp_path):
        with pytest.raises(DataError, match=r"no dev\.tsv, which task rte needs as dev data"):
            RTE.load(tmp_path, "dev")

    def test_either_of_two_names(self, tmp_path):
        with pytest.raises(DataError, match=r"no dev\.detok\.tsv or dev\.tsv"):
            get_task("sst-2").load(tmp_path, "dev")

    @pytest.mark.parametrize("content", ["", "\n", table(RTE_HEADER), "\r\n\r\n"])
    def test_no_data(self, tmp_path, content):
        refused(tmp_path, content, r"train\.tsv(:1)?: (empty|no header)")

    @pytest.mark.parametrize("content", ["", "\n\n"])
    def test_no_data_without_header(self, tmp_path, content):
        refused(tmp_path, content, r"train\.tsv: empty", task=get_task("cola"))
        refused(tmp_path, content, r"test\.csv: empty", "dev", get_task("ag"), "test.csv")

    def test_folders(self, tmp_path):
        write(tmp_path / "train/neg/0_1.txt", "bad")
        with pytest.raises(DataError, match=r"train/pos: no \*\.txt files"):
            get_task("imdb").load(tmp_path, "train")

    def test_only_lines_to_skip(self, tmp_path):
        content = "sentence1\tsentence2\tgold_label\na\tb\t-\n"
        refused(tmp_path, content, "no line with a label", task=get_task("snli"))

    def test_folder_in_the_place_of_a_file(self, tmp_path):
        (tmp_path / "train.tsv").mkdir()
        with pytest.raises(DataError, match=r"no train\.tsv"):
            RTE.load(tmp_path, "train")

    @pytest.mark.skipif(not UNREADABLE.exists(), reason="no /proc/self/mem on this system")
    def test_unreadable(self, tmp_path):
        (tmp_path / "train.tsv").symlink_to(UNREADABLE)
        with pytest.raises(DataError, match=r"train\.tsv: cannot be read: Input/output error"):
            RTE.load(tmp_path, "train")

    def test_header(self, tmp_path):
        refused(tmp_path, table(*rte_rows(3)), r"train\.tsv:1: holds data, but .* expects a header")
        sts = table("0 1 2 3 4 5 6 a b 2.5", "1 1 2 3 4 5 6 a b 2.5")
        refused(tmp_path, sts, "expects a header", task=get_task("sts-b"))


class TestLabels:
    def test_unknown(self, tmp_path):
        content = table("0 a b entailment", "1 a b maybe", header=RTE_HEADER)
        message = r"train\.tsv:3: unknown label 'maybe'; allowed: entailment, not_entailment"
        refused(tmp_path, content, message)

    def test_unknown_in_csv_counts_physical_lines(self, tmp_path):
        content = '"1","two\nlines"\n"3","x"\n'
        csv_file = ("dev", get_task("yelp2"), "test.csv")
        refused(tmp_path, content, r"test\.csv:3: unknown label '3'", *csv_file)

    @pytest.mark.parametrize("label", ["5.01", "-0.1", "nan", "inf", "high", ""])
    def test_not_a_number_of_the_range(self, tmp_path, label):
        header = table("i g f y o s t a b score")
        content = header + f"0\t1\t2\t3\t4\t5\t6\ta\tb\t{label}\n"
        message = rf"train\.tsv:2: label '{label}' is not a number from 0 to 5"
        refused(tmp_path, content, message, task=get_task("sts-b"))

    def test_long_lists_are_cut(self, tmp_path):
        labels = tuple(f"l{i}" for i in range(50))
        task = get_task("tsv", custom=CustomTaskConfig(labels=labels))
        refused(tmp_path, "text\tlabel\na\tb\n", "l19 and 30 more", task=task)


class TestColumns:
    def test_wrong_in_every_line(self, tmp_path):
        content = table("0 a entailment", "1 b entailment", header=RTE_HEADER)
        refused(tmp_path, content, r"2 of 2 lines are broken.*train\.tsv:2: 3 columns instead of 4")

    def test_header_too_narrow(self, tmp_path):
        message = r"train\.tsv:1: no column 4 for the label; the line has 3 columns: i, s, label$"
        refused(tmp_path, table("0 a entailment", header="i s label"), message)

    def test_commas_instead_of_tabs(self, tmp_path):
        refused(tmp_path, "index,a,b,label\n1,x,y,entailment\n", "the line has 1 columns")

    def test_without_header(self, tmp_path):
        refused(tmp_path, "1\tsome text\n", "2 columns instead of 4", task=get_task("cola"))
        csv_file = ("dev", get_task("ag"), "test.csv")
        refused(tmp_path, '"1","text"\n', "2 columns instead of 3", *csv_file)

    @pytest.mark.parametrize(
        "kind, content, hint",
        [
            ("tsv", "text,label\na,b\n", "it looks like csv"),
            ("csv", "text\tlabel\na\tb\n", "it looks like tsv"),
            ("csv", "text;label\na;b\n", "it looks like csv with --delimiter=';'"),
            ("tsv", "Text\tlabel\na\tb\n", "Text, label; --text_column names another"),
            (
                "jsonl",
                '{"review": "a", "label": "b"}\n',
                "not a string; the keys are review, label",
            ),
            ("jsonl", '{"text": "a", "stars": 1}\n', "or number; the keys are text, stars"),
            ("tsv", b"text\tlabel\n\xe9\tb\n", "name the --encoding of the file, such as cp1252"),
            ("jsonl", b'{"text": "\xe9"}\n', "name the --encoding of the file, such as cp1252"),
        ],
    )
    def test_says_what_would_be_right(self, tmp_path, kind, content, hint):
        task = get_task(kind, custom=CustomTaskConfig(format=kind))
        where = ("train", task, f"train.{kind}")
        refused(tmp_path, content, f"{re.escape(hint)}$", *where)

    def test_missing_name(self, tmp_path):
        message = r"train\.tsv:1: no column 'label' for the label; the header has 2 columns: t, te"
        refused(tmp_path, "t\ttext\na\tb\n", message, task=get_task("tsv"))


class TestBrokenLines:
    def test_one_per_cent_is_reported_and_left_out(self, tmp_path, caplog):
        rows = rte_rows(99)
        rows.insert(50, "too few")
        examples = load(tmp_path, table(*rows, header=RTE_HEADER))
        assert [e.text_a for e in examples] == [f"a{i}" for i in range(99)]
        assert "train.tsv:52: broken line: 2 columns instead of 4" in caplog.text
        assert "1 of 100 lines are broken" in caplog.text

    def test_more_is_an_error(self, tmp_path):
        rows = [*rte_rows(98), "too few", "again"]
        message = r"2 of 100 lines are broken, more than 1%; the first is .*train\.tsv:100: 2 col"
        refused(tmp_path, table(*rows, header=RTE_HEADER), message)

    def test_every_number_is_in_the_log(self, tmp_path, caplog):
        rows = [row for i in range(30) for row in (*rte_rows(100), f"broken {i}")]
        load(tmp_path, table(*rows, header=RTE_HEADER))
        assert all(f"train.tsv:{2 + 100 + 101 * i}" in caplog.text for i in range(30))
        assert "30 of 3030 lines are broken" in caplog.text

    def test_test_lines_keep_their_place(self, tmp_path, caplog):
        rows = [f"{i} a{i} b{i}" for i in range(100)]
        rows[7] = "7 a7"
        examples = load(tmp_path, table(*rows, header="index sentence1 sentence2"), "test")
        assert len(examples) == 100
        assert (examples[7].text_a, examples[7].text_b) == ("", "")
        assert examples[8].text_a == "a8"
        assert "test.tsv:9: broken line" in caplog.text

    def test_blank_lines_count_only_before_others(self, tmp_path, caplog):
        rows = rte_rows(100)
        rows.insert(10, "")
        examples = load(tmp_path, table(*rows, header=RTE_HEADER) + "\n\r\n\n")
        assert len(examples) == 100
        assert "train.tsv:12: broken line: blank" in caplog.text
        assert "1 of 101 lines" in caplog.text

    def test_empty_texts_are_named(self, tmp_path, caplog):
        load(tmp_path, "text\tlabel\n\ta\nx\tb\n \tb\n", task=get_task("tsv"))
        assert "2 of 3 rows have no text" in caplog.text
        assert caplog.text.strip().endswith("train.tsv:2")

    def test_not_utf8(self, tmp_path, caplog):
        content = table(*rte_rows(100), header=RTE_HEADER).encode()
        examples = load(tmp_path, content.replace(b"a42", b"caf\xe9"))
        assert len(examples) == 99
        assert "train.tsv:44: broken line: not UTF-8 at byte 7" in caplog.text

    def test_latin1_file(self, tmp_path):
        content = table(*(row.replace("a", "é") for row in rte_rows(5)), header=RTE_HEADER)
        refused(tmp_path, content.encode("latin-1"), "5 of 5 lines are broken.*not UTF-8")

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
    def test_other_unicode_encodings(self, tmp_path, encoding):
        content = table(*rte_rows(3), header=RTE_HEADER).encode(encoding)
        refused(tmp_path, content, "UTF-16 or UTF-32; save it as UTF-8")

    def test_binary_file(self, tmp_path):
        refused(tmp_path, b"\x89PNG\r\n\x1a\n\x00\xff" * 40, r"train\.tsv")

    def test_empty_file_among_folders(self, tmp_path, caplog):
        for i in range(100):
            write(tmp_path / f"train/neg/{i}.txt", "bad")
        write(tmp_path / "train/pos/0.txt", "")
        assert len(get_task("imdb").load(tmp_path, "train")) == 100
        assert "pos/0.txt: broken line: empty file" in caplog.text
        write(tmp_path / "train/pos/1.txt", b"\xff\xfe")
        with pytest.raises(DataError, match="2 of 102 lines are broken"):
            get_task("imdb").load(tmp_path, "train")


class TestCsvQuotes:
    AG = get_task("ag")

    def test_stray_quotes_cost_only_their_own_line(self, tmp_path, caplog):
        lines = list(CSV_LINES)
        lines.insert(20, '"2","a "quoted" word","d"')
        lines.insert(120, '"2","never closed,d')
        examples = load(tmp_path, "\n".join(lines), "dev", self.AG, "test.csv")
        assert [e.text_a for e in examples] == [f"t{i}" for i in range(199)]
        assert "test.csv:21: broken line: not valid CSV" in caplog.text
        assert "test.csv:121: broken line: not valid CSV" in caplog.text

    def test_never_closed_in_the_last_line(self, tmp_path, caplog):
        content = "\n".join([*CSV_LINES, '"1","t","cut o'])
        assert len(load(tmp_path, content, "dev", self.AG, "test.csv")) == 199
        assert "test.csv:200: broken line: not valid CSV" in caplog.text

    def test_line_end_inside_quotes_is_text(self, tmp_path):
        content = '"1","t","two\r\nlines"\r\n"2","t","x"'
        examples = load(tmp_path, content, "dev", self.AG, "test.csv")
        assert [e.label for e in examples] == [0, 1]
        assert examples[0].text_b.split() == ["two", "lines"]

    def test_fields_of_any_length(self, tmp_path):
        limit = csv.field_size_limit()
        text = "long " * 60_000
        examples = load(tmp_path, f'"1","t","{text}"\n', "dev", self.AG, "test.csv")
        assert len(examples[0].text_b) == len(text.strip())
        assert csv.field_size_limit() == limit

    def test_undecodable_line_inside_a_record(self, tmp_path, caplog):
        content = "\n".join([*CSV_LINES, '"1","t","two\n§lines"', '"1","t","x"']).encode()
        content = content.replace("§".encode(), b"\xff")
        assert len(load(tmp_path, content, "dev", self.AG, "test.csv")) == 200
        assert "test.csv:200: broken line: not UTF-8" in caplog.text


class TestJsonLines:
    @pytest.mark.parametrize(
        "line, problem",
        [
            ("{'text': 1}", "not valid JSON"),
            ("[1, 2]", "not a JSON object but list"),
            ("0", "not a JSON object but int"),
            ('{"label": "a"}', "'text' is missing or not a string"),
            ('{"text": 3, "label": "a"}', "'text' is missing or not a string"),
            ('{"text": "x"}', "'label' is missing"),
            ('{"text": "x", "label": null}', "'label' is missing"),
            ('{"text": "x", "label": ["a"]}', "'label' is missing, or no string or number"),
            ("[" * 100_000, "not valid JSON"),
            ("", "blank"),
        ],
    )
    def test_broken(self, tmp_path, caplog, line, problem):
        content = "\n".join([line, *JSON_LINES])
        examples = load(tmp_path, content, task=get_task("jsonl"), name="train.jsonl")
        assert [e.label for e in examples] == [1, 0] * 100
        assert f"train.jsonl:1: broken line: {problem}" in caplog.text


class TestUnusualButFine:
    CONTENT = table("0 a b entailment", "1 c d not_entailment", header=RTE_HEADER)

    @pytest.mark.parametrize(
        "content",
        [
            CONTENT.rstrip("\n"),
            CONTENT.replace("\n", "\r\n"),
            "\ufeff" + CONTENT,
            CONTENT.replace("a", "a\0"),
            CONTENT + "\n\n",
        ],
        ids=["no last line end", "crlf", "byte order mark", "nul", "blank end"],
    )
    def test_read_the_same(self, tmp_path, content, caplog):
        examples = load(tmp_path, content)
        assert [(e.text_a, e.text_b, e.label) for e in examples] == [("a", "b", 0), ("c", "d", 1)]
        assert not caplog.records

    def test_byte_order_mark_without_header(self, tmp_path):
        task = get_task("yelp2")
        assert load(tmp_path, '\ufeff"1","x"\n', "dev", task, "test.csv")[0].label == 0

    def test_lone_quotes_and_unicode_line_ends_stay_text(self, tmp_path):
        odd = '"He said\u2028 it\x0b and\x85 \r left'
        examples = load(tmp_path, f'h\th\th\th\n0\t{odd}\tb"\tentailment\n')
        assert [(e.text_a, e.text_b) for e in examples] == [(odd, 'b"')]

    def test_rows_equal_lines_for_random_quotes(self, tmp_path):
        rng = random.Random(0)
        rows = ["".join(rng.choices("ab\"' \\", k=12)) for _ in range(500)]
        content = "h\th\th\th\n" + "".join(f"0\t{text}\t_\tentailment\n" for text in rows)
        assert [e.text_a for e in load(tmp_path, content)] == rows
