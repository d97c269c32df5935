"""Fine-tuning data as TFRecord files: what is in them, and when they are written again."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest

from funnel.features.classification import encode_examples, pad_batch
from funnel.features.race import RaceConfig
from funnel.features.record_schema import classifier_schema
from funnel.features.squad import WindowConfig, build_windows
from funnel.features.squad_cache import SquadSource
from funnel.features.squad_tfrecords import (
    count_recorded_shards,
    squad_eval_records,
    squad_train_records,
)
from funnel.features.tfrecords import (
    RecordOptions,
    classifier_records,
    find_corrupt_record,
    race_records,
)
from funnel.formats.tfrecord import read_examples
from funnel.tasks import get_task
from funnel.tasks.squad import read_squad
from funnel.tokenization import get_tokenizer
from funnel.utils.errors import ConfigError, DataError

WORDS = ("the", "a", "cat", "dog", "sat", "ran", "on", "mat", "and", "not", "?", ".", "1", "2", "3")
SYMBOLS = ("<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>")
LENGTH = 24


@pytest.fixture
def tokenizer(tmp_path):
    path = tmp_path / "v.txt"
    path.write_text("\n".join((*SYMBOLS, *WORDS)) + "\n", encoding="utf-8")
    return get_tokenizer("word_piece", path)


@pytest.fixture
def rte(tmp_path):
    folder = tmp_path / "RTE"
    folder.mkdir()
    rows = [f"{i}\tthe cat sat {i % 3}\ta dog\t{'not_' * (i % 2)}entailment" for i in range(5)]
    header = "index\tsentence1\tsentence2\tlabel\n"
    for split in ("train", "dev"):
        (folder / f"{split}.tsv").write_text(header + "\n".join(rows) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def squad_file(tmp_path):
    context = "the cat sat on the mat . " * 6
    questions = [
        {"id": str(i), "question": "the cat ?", "answers": [{"text": "cat", "answer_start": 4}]}
        for i in range(5)
    ]
    questions.append({"id": "none", "question": "dog ?", "answers": [], "is_impossible": True})
    path = tmp_path / "train.json"
    content = {"data": [{"paragraphs": [{"context": context, "qas": questions}]}]}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def _rows(file):
    assert find_corrupt_record([file.path], file.schema) is None
    return [example for _, example in read_examples(file.path)]


def _column(rows, name):
    return np.stack([row[name] for row in rows])


def test_classification_records_are_the_padded_features_and_fakes(tmp_path, tokenizer, rte):
    task, options = get_task("rte"), RecordOptions(multiple=4)
    file = classifier_records(tmp_path / "out", task, "dev", rte, tokenizer, LENGTH, options)
    assert file.path.name == f"v.txt.len-{LENGTH}.dev.tfrecord"
    assert (file.num_real_examples, file.num_examples) == (5, 8)
    meta = json.loads(file.meta_path.read_text())
    assert (meta["num_real_examples"], meta["num_examples"], meta["task"]) == (5, 8, "rte")
    rows = _rows(file)
    features = encode_examples(task.load(rte, "dev"), tokenizer, LENGTH)
    expected = pad_batch(features, range(5), LENGTH, tokenizer.special.pad_id)
    np.testing.assert_array_equal(_column(rows[:5], "input_ids"), expected["input_ids"])
    np.testing.assert_array_equal(_column(rows[:5], "segment_ids"), expected["token_type_ids"])
    np.testing.assert_array_equal(_column(rows[:5], "input_mask"), 1 - expected["attention_mask"])
    assert _column(rows, "label_ids").ravel().tolist() == [0, 1, 0, 1, 0, 0, 0, 0]
    assert _column(rows, "is_real_example").ravel().tolist() == [1] * 5 + [0] * 3
    assert (_column(rows[5:], "input_mask") == 1).all() and not _column(rows[5:], "input_ids").any()


def test_a_file_is_used_again_only_while_everything_fits(tmp_path, tokenizer, rte, caplog):
    caplog.set_level(logging.INFO, "funnel")
    out, options = tmp_path / "out", RecordOptions(shuffle_seed=1)

    def build(tokenizer=tokenizer, split="train", options=options, task="rte", data=rte):
        caplog.clear()
        classifier_records(out, get_task(task), split, data, tokenizer, LENGTH, options)
        return "wrote" in caplog.text

    assert build() and not build()
    cased = get_tokenizer("word_piece", tokenizer.path, uncased=False)
    assert build(tokenizer=cased) and "uncased" in caplog.text
    assert build() and build(options=replace(options, num_passes=3))
    assert build() and build(options=replace(options, overwrite=True)) and not build()
    path = rte / "train.tsv"
    path.write_text(path.read_text().replace("dog", "mat"), encoding="utf-8")
    assert build() and not build()
    records = out / f"v.txt.len-{LENGTH}.train.tfrecord"
    records.write_bytes(records.read_bytes()[:-1])
    assert build() and not build()
    (out / f"{records.name}.meta.json").write_text("{")
    assert build() and not build()


def test_training_examples_are_shuffled_and_repeated(tmp_path, tokenizer, rte):
    orders = [RecordOptions(shuffle_seed=s, num_passes=2).order(50) for s in (0, 0, 1)]
    np.testing.assert_array_equal(orders[0], orders[1])
    assert (orders[0] != orders[2]).any() and (orders[0][:50] != orders[0][50:]).any()
    assert sorted(orders[0]) == sorted([*range(50)] * 2)
    with pytest.raises(ConfigError, match="num_passes"):
        RecordOptions(num_passes=0)


def test_race_records_hold_four_options(tmp_path, tokenizer):
    for level in ("middle", "high"):
        folder = tmp_path / "race" / "dev" / level
        folder.mkdir(parents=True)
        content = {
            "article": "the cat sat . " * 9,
            "questions": ["the _ ran ?", "not ?"],
            "options": [["cat", "dog", "mat", "1"]] * 2,
            "answers": ["B", "D"],
        }
        (folder / "1.txt").write_text(json.dumps(content), encoding="utf-8")
    config = RaceConfig(LENGTH, 8)
    file = race_records(tmp_path / "out", tmp_path / "race", "dev", tokenizer, config)
    rows = _rows(file)
    assert file.num_examples == 4 and _column(rows, "input_ids").shape == (4, 4 * LENGTH)
    assert _column(rows, "label_ids").ravel().tolist() == [1, 3, 1, 3]
    assert _column(rows, "is_high_example").ravel().tolist() == [0, 0, 1, 1]
    options = rows[0]["input_ids"].reshape(4, LENGTH)
    spelled = [tokenizer.convert_ids_to_tokens(row[1:6]) for row in options]
    assert [words[1] for words in spelled] == ["cat", "dog", "mat", "1"]


def test_squad_shards_hold_all_questions_once(tmp_path, tokenizer, squad_file):
    source = SquadSource(str(squad_file), windows=WindowConfig(LENGTH, 4, 8))
    files = [squad_train_records(tmp_path, source, tokenizer, 3, (i, 2)) for i in range(2)]
    assert files[1].path.name == f"v.txt.1.slen-{LENGTH}.qlen-4.train.tfrecord"
    assert count_recorded_shards(tmp_path, source, tokenizer) == 2
    assert count_recorded_shards(tmp_path, replace(source, version="v1"), tokenizer) is None
    rows = [row for file in files for row in _rows(file)]
    windows = build_windows(source.read(), tokenizer, source.windows, training=True)
    assert len(rows) == len(windows)
    answered = [row for row in rows if row["start_positions"][0]]
    assert len(answered) == 5  # the first window of each answerable question
    for row in answered:
        assert row["is_impossible"][0] == 0 and row["p_mask"][row["start_positions"][0]] == 0
        start, end = row["start_positions"][0], row["end_positions"][0]
        assert tokenizer.convert_ids_to_tokens(row["input_ids"][start : end + 1]) == ["cat"]
    with pytest.raises(ConfigError, match="proc_id=2"):
        squad_train_records(tmp_path, source, tokenizer, 3, (2, 2))


def test_squad_windows_come_back_with_the_records(tmp_path, tokenizer, squad_file, caplog):
    caplog.set_level(logging.INFO, "funnel")
    source = SquadSource(str(squad_file), "v1", WindowConfig(LENGTH, 4, 8))
    file, data, made = squad_eval_records(tmp_path, source, tokenizer, multiple=4)
    assert file.path.name == f"v.txt.slen-{LENGTH}.qlen-4.eval.v1.tfrecord"
    assert len(data.questions) == 5 and file.num_examples % 4 == 0
    rows = _rows(file)[: file.num_real_examples]
    np.testing.assert_array_equal(_column(rows, "unique_ids").ravel(), made.unique_ids)
    caplog.clear()
    again, _, loaded = squad_eval_records(tmp_path, source, tokenizer, multiple=4)
    assert again == file and "wrote" not in caplog.text
    pad = tokenizer.special.pad_id
    for name, values in made.pad(range(len(made)), LENGTH, pad).items():
        np.testing.assert_array_equal(loaded.pad(range(len(made)), LENGTH, pad)[name], values)
    np.testing.assert_array_equal(loaded.paragraphs.starts, made.paragraphs.starts)
    np.testing.assert_array_equal(loaded.context_end, made.context_end)

    arrays = next(tmp_path.glob("*.eval.features.v1.npz"))
    arrays.write_bytes(b"corrupt")
    assert squad_eval_records(tmp_path, source, tokenizer, multiple=4)[0] == file
    assert "corrupt, it is rebuilt" in caplog.text
    other = replace(source, windows=WindowConfig(LENGTH, 4, 6))
    caplog.clear()
    assert len(squad_eval_records(tmp_path, other, tokenizer)[2]) > len(made)
    assert "doc_stride" in caplog.text
    assert len(read_squad(squad_file, "v1").questions) == 5


def test_the_error_names_file_record_and_feature(tmp_path, tokenizer, rte):
    file = classifier_records(tmp_path, get_task("rte"), "dev", rte, tokenizer, LENGTH)
    schema = classifier_schema(2 * LENGTH)
    assert "record 0: feature 'input_ids' holds 24 int64" in str(
        find_corrupt_record([file.path], schema)
    )
    file.path.write_bytes(file.path.read_bytes()[:-2])
    error = find_corrupt_record([file.path], file.schema)
    assert isinstance(error, DataError) and f"{file.path}, record 4" in str(error)
