"""Files of tagged sentences: CoNLL and JSON lines, with faults named by line, and predictions."""

import gzip
import json
from collections import Counter

import numpy as np
import pytest

import tagging_cases
from funnel.config.heads import SavedHead
from funnel.config.predictions import PredictionSettings
from funnel.config.tagging import TaggingFiles
from funnel.inference.tagging_files import write_tags
from funnel.tasks.tagging.files import read_conll, read_jsonl
from funnel.tasks.tagging.saved import take_tags
from funnel.tasks.tagging.task import TaggingTask, tagging_task
from funnel.utils.errors import CheckpointError, ConfigError, DataError
from task_files import write


def _words(path, **columns):
    return [(list(s.words), s.tags and list(s.tags)) for s in read_conll(path, **columns)]


@pytest.mark.parametrize("separator", ["\t", " ", "   "])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_conll_with_any_separator(tmp_path, separator, end):
    rows = ["-DOCSTART- -X- O", "", "# NN O", "EU NNP B-ORG", " ", "", "a DT O"]
    path = write(tmp_path / "a.txt", end.join(row.replace(" ", separator) for row in rows))
    skipped = Counter()
    found = [(list(s.words), list(s.tags), s.lines) for s in read_conll(path, skipped=skipped)]
    assert found == [(["#", "EU"], ["O", "B-ORG"], (3, 4)), (["a"], ["O"], (7,))]
    assert skipped == {"the mark -DOCSTART-": 1}
    assert _words(path, label_column=1)[0][1] == ["NN", "NNP"]


@pytest.mark.parametrize("separator", ["\t", " "])
def test_blanks_within_words(tmp_path, separator):
    """Only ASCII blanks are columns' ends: a word may hold a no-break space, or begin with one."""
    words = ["10\u00a0000", "a\u3000b", "c\u2028d"]
    path = write(tmp_path / "a.txt", "".join(f"{word}{separator}X\n" for word in words))
    assert _words(path) == [(words, ["X"] * 3)]
    path = write(tmp_path / "b.txt", f"\u3000{separator}X\n")
    with pytest.raises(DataError, match=r"b\.txt:1: the word is empty"):
        _words(path)


def test_conllu_and_words_with_blanks(tmp_path):
    text = "# sent_id = 1\n# text = vámonos al\n1-2\tvámonos\t_\n1\tvamos\tVERB\n2\tnos\tPRON\n"
    text += "3.1\tnada\tX\n3\ta cá\tADP\n"
    path = write(tmp_path / "a.conllu", text)
    skipped = Counter()
    (found,) = read_conll(path, 1, 2, skipped)
    assert found.words == ("vamos", "nos", "a cá") and found.tags == ("VERB", "PRON", "ADP")
    assert skipped == {"a comment": 2, "several words, or none": 2}


def test_files_without_tags(tmp_path):
    path = write(tmp_path / "test.txt", "EU\nrejects\n\nPeter\n")
    assert _words(path, label_optional=True) == [(["EU", "rejects"], None), (["Peter"], None)]
    with pytest.raises(DataError, match=r"test.txt:1: has 1 columns, so there is no column -1"):
        _words(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a O\nb X O\n", r":2: has 3 columns, the lines before it have 2: 'b X O'"),
        ("a O\nb\n", r":2: has 1 columns"),
        ("a\tO\n\tO\n", r":2: the word is empty"),
        ("a\tO\nb\t\n", r":2: the tag is empty"),
        ("\n\n", "holds no words"),
        (b"a O\n\xff O\n", r":2: not UTF-8 at byte 1 of the line; save it as UTF-8.*iconv"),
    ],
)
def test_faults_of_conll(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        _words(write(tmp_path / "a.txt", text))


def test_jsonl_with_names_or_numbers(tmp_path):
    rows = [{"tokens": ["a b", "c"], "ner_tags": [0, 1]}, {"words": ["d"], "tags": ["O"]}]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    found = list(read_jsonl(path, labels=("O", "B-X")))
    assert [(s.words, s.tags) for s in found] == [(("a b", "c"), ("O", "B-X")), (("d",), ("O",))]
    with pytest.raises(DataError, match=r"a.jsonl:1: tags are integers: --labels"):
        list(read_jsonl(path))
    with pytest.raises(DataError, match=r"a.jsonl:1: tag 1 is none of the 1 labels"):
        list(read_jsonl(path, labels=("O",)))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("[1]", "should be a JSON object"),
        ('{"tokens": "a b"}', "'tokens' should be a list of words"),
        ('{"tokens": ["a", " "], "tags": ["O", "O"]}', "none of them empty"),
        ('{"tokens": ["a"]}', "has no tags"),
        ('{"tokens": ["a"], "tags": ["O", "O"]}', "has 1 words and 2 tags"),
        ('{"tokens": ["a"], "tags": "O"}', "1 words and no list of tags"),
        ('{"tokens": ["a"], "tags": [true]}', "tag true is no name"),
        ("{", "is not JSON"),
        ("[" * 100000, "is not JSON"),
    ],
    ids=range(9),
)
def test_faults_of_jsonl(tmp_path, row, message):
    path = write(tmp_path / "a.jsonl", row + "\n")
    with pytest.raises(DataError, match=f"a.jsonl:1: .*{message}"):
        list(read_jsonl(path))


def _task(kind="conll", **settings):
    return tagging_task(kind, TaggingFiles(**settings))


def test_a_task_reads_its_labels_its_scheme_and_reports(tmp_path, caplog):
    sentences = tagging_cases.make_sentences(30)
    packed = gzip.compress(tagging_cases.as_conll(sentences).encode())
    write(tmp_path / "train.conll.gz", packed)
    write(tmp_path / "valid.txt", "anna X B-PER\n\nanna X b-per\n")
    task = _task().resolve_labels(tmp_path)
    assert task.labels == ("B-LOC", "B-PER", "I-LOC", "I-PER", "O") and task.scheme == "iob2"
    split = task.read(tmp_path, "train")
    assert split.report.rows == 30 and split.report.skipped == {"lines of the mark -DOCSTART-": 1}
    assert task.name_tags(split.tags)[0] == [tag for _, tag in sentences[0]]
    dev = task.read(tmp_path, "dev")
    assert dev.report.respelled == (("b-per", "B-PER", 1),)
    scores = task.score(dev.tags, [[1], [4]])
    assert list(scores) == ["f1", "precision", "recall", "accuracy", "strict_f1"]
    assert scores["recall"] == 0.5 and scores["strict_f1"] == pytest.approx(2 / 3)
    assert not task.has_split(tmp_path, "test")


def test_broken_schemes(tmp_path, caplog):
    good = "a B-X\nb I-X\n\n" * 250
    write(tmp_path / "train.txt", good + "a I-X\n\n")
    task = _task().resolve_labels(tmp_path)
    task.read(tmp_path, "train")
    assert "train.txt:751: breaks the tag scheme iob2, as do 0 more" in caplog.text
    write(tmp_path / "dev.txt", "a I-X\n\n" * 9)
    with pytest.raises(DataError, match=r"dev.txt:1: breaks .*iob2.* --scheme names another"):
        task.read(tmp_path, "dev")
    plain = _task(scheme="none").resolve_labels(tmp_path)
    assert plain.metrics == ("accuracy",)
    with pytest.raises(ConfigError, match="metric 'f1' is about entities"):
        _ = _task(scheme="none", metric="f1").resolve_labels(tmp_path).metrics


def test_wrong_settings(tmp_path):
    with pytest.raises(ConfigError, match="data set 'csv' is not one of conll, jsonl"):
        _task("csv")
    with pytest.raises(ConfigError, match="two or more different tags"):
        _task(labels="O,O")
    with pytest.raises(ConfigError, match="--text_column=word: in conll a column is a position"):
        _task(text_column="word").sentences(write(tmp_path / "train.txt", "a O").parent, "train")
    with pytest.raises(DataError, match="no train.conll or train.txt"):
        _task().path(tmp_path / "..", "train")


def test_the_tags_of_a_model_decide(tmp_path):
    head = SavedHead("M", 2, ("O", "B-X"))
    assert take_tags(_task(), head).labels == ("O", "B-X")
    assert take_tags(_task(labels="b-x,o"), head).labels == ("o", "b-x")
    with pytest.raises(ConfigError, match="M: the tags of the model are O, B-X.*; do this"):
        take_tags(_task(labels="O,B-Y"), head, remedy="do this")
    with pytest.raises(CheckpointError, match="has 2 outputs, the data has 3 tags"):
        take_tags(_task(labels="O,B-Y,B-X"), head)
    unnamed = SavedHead("M", 2)
    assert take_tags(_task(), unnamed, tmp_path).labels == ("LABEL_0", "LABEL_1")
    write(tmp_path / "train.txt", "a O\nb B-X\n")
    assert take_tags(_task(), unnamed, tmp_path).labels == ("B-X", "O")


def test_predictions_can_be_read_again(tmp_path):
    words, tags = [["a", "b"], ["c"]], [["O", "B-X"], ["O"]]
    logits = np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 0.5]])
    written = PredictionSettings(write_logits=True)
    write_tags(tmp_path / "p", words, ["O", "B-X"], logits, written)
    assert _words(tmp_path / "p.conll") == list(zip(words, tags, strict=True))
    assert [list(s.tags) for s in read_jsonl(tmp_path / "p.jsonl")] == tags
    row = json.loads((tmp_path / "p.jsonl").read_text().splitlines()[1])
    assert row["words"] == ["c"] and row["logits"] == [[1.0, 0.5]] and row["id"] == 1
    write_tags(tmp_path / "p", words, ["O", "B-X"], logits, PredictionSettings("csv"))
    header = (tmp_path / "p.csv").read_text().splitlines()[0]
    assert header == "index,id,words,label,probability"


def test_a_split_that_there_is_not(tmp_path):
    write(tmp_path / "train.conll", "a O\n")
    task = TaggingTask("conll")
    with pytest.raises(DataError, match="no validation split, only train, dev, test"):
        task.path(tmp_path, "validation")
    assert task.has_split(tmp_path, "train") and not task.has_split(tmp_path, "validation")
