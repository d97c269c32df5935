"""RACE: files, sequences, accuracy."""

import json

import numpy as np
import pytest

from funnel.features.race import RaceConfig, encode_race
from funnel.tasks.race import insert_option, race_accuracy, read_race
from funnel.utils.errors import ConfigError, DataError
from squad_cases import CLS, PAD, SEP, WordTokenizer
from task_files import DATA, needs_real_data, write


def _file(**changes):
    content = {
        "article": "one two three four five",
        "questions": ["Which is _ ?", "Who"],
        "options": [["a", "b", "c", "d"], ["e f", "g", "h", "i"]],
        "answers": ["B", "D"],
        "id": "middle1.txt",
    }
    return json.dumps(content | changes)


def _folder(tmp_path, middle=None, high=None):
    write(tmp_path / "train/middle/10.txt", middle or _file())
    write(tmp_path / "train/high/2.txt", high or _file(article="six", answers=["A", "C"]))
    return tmp_path


def test_files_of_both_levels(tmp_path):
    folder = _folder(tmp_path)
    unasked = _file(article="first", questions=[], options=[], answers=[])
    write(folder / "train/middle/1.txt", unasked)
    data = read_race(folder, "train")
    assert data.articles == ("first", "one two three four five", "six")
    assert [q.article for q in data.questions] == [1, 1, 2, 2]
    assert [q.label for q in data.questions] == [1, 3, 0, 2]
    assert [q.is_high for q in data.questions] == [False, False, True, True]
    assert data.questions[1].text == "Who"
    assert data.questions[1].options == ("e f", "g", "h", "i")


BROKEN = [
    ("{", "not valid JSON"),
    (_file(article=None), "article is null, a string is expected"),
    (_file(answers=["B"]), "has 2 questions, 2 lists of options and 1 answers"),
    (_file(answers=["B", "E"]), "answers[1] is 'E', one of A, B, C, D is expected"),
    (_file(answers=["B", "AB"]), "answers[1] is 'AB'"),
    (_file(answers=["B", ""]), "answers[1] is ''"),
    (_file(options=[["a", "b", "c"], ["d"] * 4]), "options[0] has 3 options, 4 are expected"),
    (_file(options=[["a", "b", "c", 4], ["d"] * 4]), "options[0][3] is 4, a string is expected"),
    (_file(options=["abcd", "efgh"]), 'options[0] is "abcd", a list is expected'),
]


@pytest.mark.parametrize("content, message", BROKEN, ids=[case[1][:30] for case in BROKEN])
def test_broken_files_are_named_with_the_place(content, message, tmp_path):
    with pytest.raises(DataError) as caught:
        read_race(_folder(tmp_path, high=content), "train")
    assert "2.txt" in str(caught.value)
    assert message in str(caught.value)


def test_missing_level(tmp_path):
    write(tmp_path / "dev/middle/1.txt", _file())
    with pytest.raises(DataError, match="high: no \\*.txt files; RACE has them in middle and high"):
        read_race(tmp_path, "dev")


def test_options_stand_in_every_blank_or_at_the_end():
    assert insert_option("_ and _ are", "x") == "x and x are"
    assert insert_option("Who ?", "x y") == "Who ? x y"


def test_sequences_by_hand(tmp_path):
    tokenizer = WordTokenizer()
    features = encode_race(read_race(_folder(tmp_path), "train"), tokenizer, RaceConfig(8, 3))
    words = ["is", "b", "?", "Who", "e", "f", "one", "two", "three"]
    ids = {word: tokenizer.encode_batch([word])[0][0] for word in words}
    batch = features.pad([1, 0], 8, PAD)
    assert batch["input_ids"].shape == (2, 4, 8)
    # "Who e f" fills its three places; of "Which is b ?" the last three tokens stay.
    who = [CLS, ids["Who"], ids["e"], ids["f"], SEP, ids["one"], ids["two"], SEP]
    assert batch["input_ids"][0, 0].tolist() == who
    which = [CLS, ids["is"], ids["b"], ids["?"], SEP, ids["one"], ids["two"], SEP]
    assert batch["input_ids"][1, 1].tolist() == which
    assert batch["token_type_ids"][0, 0].tolist() == [2, 0, 0, 0, 0, 1, 1, 1]
    # "Who g" is shorter: a third word of the article fits.
    assert batch["input_ids"][0, 1, 4:].tolist() == [ids["one"], ids["two"], ids["three"], SEP]
    assert batch["labels"].tolist() == [3, 1]
    assert features.is_high.tolist() == [False, False, True, True]
    assert (len(features), features.lengths.tolist()) == (4, [8, 8, 7, 7])
    short = features.pad([2], 9, PAD)
    assert short["attention_mask"].sum(axis=2).tolist() == [[7, 7, 7, 7]]
    assert (short["input_ids"][:, :, 7:] == PAD).all()


def test_an_article_is_tokenized_once(tmp_path):
    tokenizer = WordTokenizer()
    encode_race(read_race(_folder(tmp_path), "train"), tokenizer)
    assert tokenizer.encoded.count("one two three four five") == 1


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="max_seq_length=131: at least 133"):
        RaceConfig(max_seq_length=131, max_qa_length=129)
    with pytest.raises(ConfigError, match="max_qa_length=0"):
        RaceConfig(max_qa_length=0)


def test_accuracy_by_level():
    labels, is_high = np.array([0, 1, 2, 3, 0]), np.array([0, 0, 1, 1, 1], bool)
    metrics = race_accuracy(np.array([0, 0, 2, 3, 1]), labels, is_high)
    assert list(metrics) == ["accuracy", "accuracy_middle", "accuracy_high"]
    assert list(metrics.values()) == pytest.approx([3 / 5, 1 / 2, 2 / 3])
    assert race_accuracy(labels, labels, np.ones(5)) == {"accuracy": 1.0, "accuracy_high": 1.0}
    with pytest.raises(ValueError, match="1 predictions, 5 labels"):
        race_accuracy(np.array([0]), labels, is_high)
    with pytest.raises(ValueError, match="at least 1"):
        race_accuracy(np.array([]), np.array([]), np.array([]))


QUESTIONS = {"train": (3926, 6723), "dev": (716, 1743), "test": (706, 1742)}
FILES = {"train": 3000, "dev": 694, "test": 703}


@needs_real_data
@pytest.mark.parametrize("split", QUESTIONS)
def test_every_real_file_is_read(split):
    data = read_race(DATA / "race", split)
    levels = [question.is_high for question in data.questions]
    assert (levels.count(False), levels.count(True)) == QUESTIONS[split]
    assert len(data.articles) == FILES[split]
    assert {question.label for question in data.questions} == {0, 1, 2, 3}
