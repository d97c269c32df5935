"""Tables in every form: JSON arrays, parquet, other encodings, labels with commas."""

import bz2
import gzip
import io
import json
import lzma
import sys

import pytest

from funnel.config.inputs import CustomTaskSettings
from funnel.tables.json_records import read_json_records
from funnel.tasks import Example, get_task
from funnel.tasks.custom import custom_task_config, split_labels
from funnel.tasks.tables import Source, read_records
from funnel.utils.compressed import STANDARD_INPUT
from funnel.utils.errors import ConfigError, DataError
from funnel.utils.text_files import check_encoding, read_lines
from task_files import write

ROWS = [
    {"text": "good, [film]", "label": "yes", "key": 7},
    {"text": 'a "bad" plot é\u2028x', "label": "no", "key": "b"},
]
EXAMPLES = [Example(ROWS[0]["text"], None, 1), Example(ROWS[1]["text"], None, 0)]


def load(folder, kind, split="dev", **settings):
    config = custom_task_config(kind, CustomTaskSettings(labels="no,yes", **settings))
    return list(get_task(kind, custom=config).load(folder, split))


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_an_array_of_objects(tmp_path, kind, indent):
    write(tmp_path / f"dev.{kind}", "\ufeff\n" + json.dumps(ROWS, indent=indent) + "\n")
    assert load(tmp_path, kind) == EXAMPLES


def test_lines_in_a_json_file(tmp_path):
    write(tmp_path / "dev.json", "".join(json.dumps(row) + "\n" for row in ROWS))
    assert load(tmp_path, "json") == EXAMPLES


@pytest.mark.parametrize(
    ("suffix", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]
)
def test_a_compressed_array(tmp_path, suffix, pack):
    write(tmp_path / f"dev.json{suffix}", pack(json.dumps(ROWS).encode()))
    assert load(tmp_path, "json") == EXAMPLES


def test_an_array_is_read_as_a_stream(tmp_path):
    """Longer than what is read at a time, objects across its edges; every row has its line."""
    rows = [{"text": "x" * (i % 977), "n": [i, {"m": str(i)}]} for i in range(2000)]
    path = write(tmp_path / "a.json", json.dumps(rows, indent=1))
    found = list(read_json_records(path, "utf-8"))
    assert [line.cells for line in found] == rows
    lines = path.read_text().split("\n")
    assert all(lines[line.number - 1].lstrip().startswith("{") for line in found)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[{"text": "a"}', "a.json:1: not valid JSON: the end of the file instead of ']'"),
        ('[{"text": "a"},\n {"text": }]', "a.json:2: not valid JSON: Expecting value"),
        ('[{"text": "a"}] x', "a.json:1: not valid JSON: more text after the array"),
        ('[{"text": "a"},]', "a.json:1: not valid JSON: Expecting value"),
        ('[{"text": ' + "[" * 100_000, "a.json:1: not valid JSON"),
        ('[{"n": ' + "1" * 5000 + "}]", "a.json:1: not valid JSON"),
    ],
)
def test_an_invalid_array(tmp_path, text, problem):
    path = write(tmp_path / "a.json", text)
    with pytest.raises(DataError, match=problem):
        list(read_json_records(path, "utf-8"))


def test_elements_that_are_no_objects(tmp_path):
    path = write(tmp_path / "a.json", '[{"text": "a"}, "b", [1], 12, null]')
    problems = [line.problem for line in read_json_records(path, "utf-8")]
    assert problems[0] is None and problems[1] == "not a JSON object but str"
    assert all(problems[1:]) and len(problems) == 5


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"text": row["text"], "label": row["label"]} for row in ROWS]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "dev.parquet")
    assert load(tmp_path, "parquet") == EXAMPLES
    scores = pyarrow.table({"text": ["a", "b"], "label": [1.5, 2.0]})
    parquet.write_table(scores, tmp_path / "train.parquet")
    config = custom_task_config("parquet", CustomTaskSettings(regression=True))
    task = get_task("parquet", custom=config)
    assert [e.label for e in task.load(tmp_path, "train")] == [1.5, 2.0]
    write(tmp_path / "dev.parquet", b"PAR1 no parquet")
    with pytest.raises(DataError, match=r"dev\.parquet: no readable parquet file"):
        load(tmp_path, "parquet")
    with pytest.raises(DataError, match="'text' is missing"):
        parquet.write_table(pyarrow.table({"x": ["a"]}), tmp_path / "dev.parquet")
        load(tmp_path, "parquet")


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    write(tmp_path / "dev.parquet", b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match="pip install pyarrow"):
        load(tmp_path, "parquet")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json"])
def test_encodings(tmp_path, encoding, kind):
    text, labels = "café ñ, a\u00a0b", ("yes", "no")
    tables = {
        "csv": 'text,label\r\n"{0}",yes\r\n"{0}",no\r\n',
        "tsv": "text\tlabel\n{0}\tyes\n{0}\tno\n",
        "jsonl": '{{"text": "{0}", "label": "yes"}}\n{{"text": "{0}", "label": "no"}}\n',
        "json": '[{{"text": "{0}", "label": "yes"}},\n{{"text": "{0}", "label": "no"}}]',
    }
    write(tmp_path / f"dev.{kind}", tables[kind].format(text).encode(encoding))
    found = load(tmp_path, kind, encoding=encoding)
    assert found == [Example(text, None, ("no", "yes").index(label)) for label in labels]


def test_the_wrong_encoding(tmp_path):
    write(tmp_path / "dev.csv", "text,label\ncafé,yes\n".encode("utf-16"))
    with pytest.raises(DataError, match=r"dev\.csv:1: is UTF-16 .* name its --encoding"):
        load(tmp_path, "csv")
    write(tmp_path / "dev.csv", "text,label\ncafé,yes\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"dev\.csv: not ascii after line 0: ordinal not in range"):
        load(tmp_path, "csv", encoding="ascii")
    for name in ("klingon", "base64", "rot13"):
        with pytest.raises(ConfigError, match=f"encoding '{name}' is unknown"):
            load(tmp_path, "csv", encoding=name)
    assert check_encoding("Latin-1") == check_encoding("iso8859-1")


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("no,yes", ["no", "yes"]),
        ('"yes, sir",no', ["yes, sir", "no"]),
        ('no, "yes, ""sir"""', ["no", 'yes, "sir"']),
        ('["yes, sir", "no"]', ["yes, sir", "no"]),
        ("[a],[b]", ["[a]", "[b]"]),
        ('5" pipe,6" pipe', ['5" pipe', '6" pipe']),
        ('"open,no', ['"open', "no"]),
        ("[1, 2]", ["1", "2"]),
        ("[1, {}]", ["[1", "{}]"]),
    ],
)
def test_labels_with_commas(text, labels):
    assert [label.strip() for label in split_labels(text)] == [label.strip() for label in labels]


def test_ids_of_the_rows(tmp_path):
    path = write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS))
    source = Source(("a.jsonl",), "text", format="jsonl", id="key")
    assert [record.id for record in read_records(path, source, ())] == ["7", "b"]
    path = write(tmp_path / "a.csv", "key,text\nx,a\ny,b\n")
    source = Source(("a.csv",), "text", format="csv", delimiter=",", id="key")
    assert [record.id for record in read_records(path, source, ())] == ["x", "y"]
    with pytest.raises(DataError, match="no column 'name' for the id"):
        list(read_records(path, Source(("",), "text", format="csv", delimiter=",", id="name"), ()))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_the_standard_input_is_read_once(monkeypatch, pack):
    stream = io.BufferedReader(io.BytesIO(pack("a\r\né\n".encode())))
    monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": stream}))
    assert [line.text for line in read_lines(STANDARD_INPUT)] == ["a", "é"]
