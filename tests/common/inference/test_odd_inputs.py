"""Odd files of inputs to predict: names, columns, ids and outputs that would mislead silently."""

import json

import numpy as np
import pytest

from funnel.cli.predict import PredictFiles, PredictSettings
from funnel.config.predictions import InputFileSettings
from funnel.inference.input_files import InputFile
from funnel.inference.inputs import check_iterable, make_input
from funnel.inference.rows import RowFormat
from funnel.tasks.tables import Source, read_records
from funnel.utils.errors import ConfigError, DataError
from funnel.utils.text_files import read_lines


def read(path, problem_type="single_label_classification", **settings):
    return list(InputFile(str(path), InputFileSettings(**settings), problem_type))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_an_id_that_json_cannot_hold(tmp_path, number):
    path = tmp_path / "in.jsonl"
    path.write_text(f'{{"text": "a", "id": 1.5}}\n{{"text": "b", "id": {number}}}\n')
    with pytest.raises(DataError, match=r"in\.jsonl:2: 'id' is missing, or no string or number"):
        read(path, id_column="id")


def test_a_text_that_is_not_utf_8(tmp_path):
    path = tmp_path / "in.txt"
    path.write_bytes(b"good\ncaf\xe9\n")
    with pytest.raises(DataError, match=r":2: not UTF-8 at byte 4 .*name the --encoding"):
        read(path)
    assert read(path, encoding="cp1252")[1].text == "caf\u00e9"


def test_two_columns_of_a_name(tmp_path):
    path = tmp_path / "in.csv"
    path.write_text("text,label,text,label\ngood,x,bad,y\n")
    with pytest.raises(DataError, match=r"in\.csv:1: 2 columns 'text' for the text; name it by"):
        read(path)
    assert read(path, text_column="2")[0].text == "bad"
    source = Source(("in.csv",), 0, label="label", format="csv", delimiter=",", label_optional=True)
    with pytest.raises(DataError, match="2 columns 'label' for the label"):
        list(read_records(path, source, ()))


def test_words_of_a_csv_cell(tmp_path):
    """predict.py writes the words of its rows as JSON, and reads them so."""
    words = ["New York", "a,b", '"', "["]
    path = tmp_path / "in.csv"
    cell = json.dumps(words).replace('"', '""')
    path.write_text(f'text\n"{cell}"\n[1] see below\n[1]\n')
    found = [item.words for item in read(path, "token_classification")]
    assert found == [tuple(words), ("[1]", "see", "below"), ("[1]",)]
    (tmp_path / "in.jsonl").write_text('{"tokens": ["a"]}\n')
    with pytest.raises(DataError, match="'text' is missing"):
        read(tmp_path / "in.jsonl", "token_classification")


def test_an_output_that_is_the_input(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("good\n")
    (tmp_path / "link").symlink_to("a.txt")
    for target in ("a.txt", "./a.txt", "link", str(tmp_path / "a.txt")):
        with pytest.raises(ConfigError, match="is the input"):
            PredictSettings(files=PredictFiles("m", "a.txt", target)).check()
    with pytest.raises(ConfigError, match="is a directory"):
        PredictSettings(files=PredictFiles("m", "-", str(tmp_path))).check()
    PredictSettings(files=PredictFiles("m", "-", "-")).check()


def test_several_labels_of_outputs_that_are_no_numbers():
    """No label holds at NaN, which must not read as a text without labels."""
    form = RowFormat("multi_label_classification", ("x", "y"), write_logits=True)
    lost, certain = form.rows(np.array([[np.nan, 9.0], [50.0, -2.0]]))
    assert (lost["label"], lost["probability"]) == (None, None)
    assert lost["logits"] == {"x": None, "y": 9.0}
    assert certain["label"] == ["x"]


def test_a_closed_standard_input(monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(DataError, match="standard input is closed"):
        list(read_lines("/dev/stdin"))


@pytest.mark.parametrize("value", [None, 3, {"words": ["a"]}, {"a", "b"}, [1, 2], ["a", None]])
def test_values_that_are_no_words(value):
    """They must not read as a sentence without words."""
    with pytest.raises(DataError, match="is no input of this model; it takes a text, or a list"):
        make_input(value, "token_classification")


def test_tables_are_no_series_of_texts():
    """Iterating over them would predict the names of their columns."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": ["good", "bad"]})
    for table in (frame, {"text": ["good"]}):
        with pytest.raises(DataError, match="name the column of texts"):
            check_iterable(table)
    for value in (None, 3, b"good"):
        with pytest.raises(DataError, match="is no series of inputs"):
            check_iterable(value)
    check_iterable(frame["text"])
    check_iterable(text for text in ("good", "bad"))


def test_a_missing_key_names_those_that_are_there(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text('{"review": "a", "stars": 2}\n')
    with pytest.raises(DataError, match=r"in\.jsonl:1: 'text' is missing; the keys are review, st"):
        read(path)
