"""What became of the data: counts of rows, labels, truncated texts and unknown tokens."""

import json
import logging

import pytest

from answering_runs import write_race, write_squad
from classifier_runs import write_files
from funnel.config.inputs import RaceConfig
from funnel.config.squad import WindowConfig
from funnel.config.training.optimizer import ScheduleConfig
from funnel.features.classification import load_or_build
from funnel.features.squad_cache import SquadSource, load_or_build_windows
from funnel.features.squad_tfrecords import squad_train_records
from funnel.features.tfrecords import classifier_records, race_records
from funnel.tasks import CustomTaskConfig, get_task
from funnel.tokenization import get_tokenizer
from funnel.utils.split_report import SplitReport, TextCounts
from task_files import write

GOOD, BAD = "the good film", "the bad film"


@pytest.fixture
def tokenizer(tmp_path):
    write_files(tmp_path)
    return get_tokenizer("word_piece", str(tmp_path / "vocab.txt"))


@pytest.fixture
def messages(caplog):
    caplog.set_level(logging.INFO, "funnel")
    return caplog


def write_rows(folder):
    """200 rows: 5 of them long, one broken, one disagreement; 2 of about 600 tokens unknown."""
    rows = [f"{GOOD if i % 2 else BAD}\t{'yes' if i % 2 else 'no'}" for i in range(193)]
    rows += [f"{' '.join([GOOD] * 4)}\tyes"] * 5 + ["a zebra crossing\tno", "broken"]
    return write(folder / "train.tsv", "\n".join(["text\tlabel", *rows]) + "\n")


def read_messages(caplog):
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("kind", ["npz", "tfrecord"])
def test_a_split_is_described_whether_it_is_read_or_cached(
    tmp_path, tokenizer, messages, cached, kind
):
    path = write_rows(tmp_path)
    task = get_task("tsv").resolve_labels(tmp_path)
    vocabulary = tmp_path / "vocab.txt"

    def load():
        if kind == "npz":
            load_or_build(tmp_path / "cache", task, "train", tmp_path, tokenizer, 10)
        else:
            classifier_records(tmp_path / "records", task, "train", tmp_path, tokenizer, 10)

    if cached:
        load()
    messages.clear()
    load()
    lines = read_messages(messages)
    assert f"train ({path}): 199 rows; not used: broken 1; labels: no 98, yes 101" in lines
    assert "train: 5 of 199 texts (2.5 %) cut to 10 tokens; the longest has 14" in lines
    assert f"train: 0.31 % of the 642 tokens are unknown to {vocabulary}" in lines
    assert not [r for r in messages.records if r.levelno > logging.INFO and "broken" not in r.msg]


def test_a_vocabulary_that_does_not_fit_is_loud(tmp_path, tokenizer, messages):
    rows = [f"{GOOD} zebra\tyes", f"{BAD} zebra\tno"] * 4
    write(tmp_path / "train.tsv", "\n".join(["text\tlabel", *rows]) + "\n")
    task = get_task("tsv").resolve_labels(tmp_path)
    load_or_build(None, task, "train", tmp_path, tokenizer, 10)
    (loud,) = [r.getMessage() for r in messages.records if r.levelno == logging.WARNING]
    assert loud.startswith("WARNING: train: 25.00 % of the 32 tokens are unknown to ")


def test_pairs_numbers_and_unlabelled_rows(tmp_path, tokenizer, messages):
    config = CustomTaskConfig("tsv", "text", "b", regression=True)
    rows = [f"{GOOD}\t{BAD}\t{i / 4}" for i in range(4)]
    write(tmp_path / "train.tsv", "\n".join(["text\tb\tlabel", *rows]) + "\n")
    write(tmp_path / "test.tsv", "\n".join(["text\tb\tlabel", *rows[:3], f"{GOOD}\t{BAD}\t"]))
    task = get_task("tsv", custom=config)
    for split in ("train", "test"):
        load_or_build(None, task, split, tmp_path, tokenizer, 8)
    lines = "\n".join(read_messages(messages))
    assert "4 rows; labels from 0 to 0.75, mean 0.375" in lines
    assert "4 of 4 texts (100.0 %) cut to 8 tokens; the longest has 9" in lines
    assert "; 1 without label" in lines
    assert "1 of 4 rows have no label, so the split is not scored" in lines


def test_a_class_without_examples(tmp_path, tokenizer, messages):
    write(tmp_path / "train.tsv", f"text\tlabel\n{GOOD}\tyes\n")
    task = get_task("tsv", custom=CustomTaskConfig("tsv", labels=("no", "yes")))
    load_or_build(None, task, "train", tmp_path, tokenizer, 8)
    assert "none of the rows has the label no" in messages.text


def test_skipped_labels_are_counted(tmp_path, tokenizer, messages):
    header = "gold_label\tsentence1\tsentence2\n"
    write(tmp_path / "dev.tsv", header + f"-\t{GOOD}\t{BAD}\nneutral\t{GOOD}\t{BAD}\n")
    load_or_build(None, get_task("snli"), "dev", tmp_path, tokenizer, 16)
    assert "1 rows; not used: the label '-' 1; labels: contradiction 0, entailment 0" in (
        messages.text
    )


def test_race(tmp_path, messages):
    write_race(tmp_path)
    tokenizer = get_tokenizer("word_piece", str(tmp_path / "vocab.txt"))
    config = RaceConfig(max_seq_length=24, max_qa_length=8)
    for _ in range(2):
        messages.clear()
        file = race_records(tmp_path / "records", tmp_path / "RACE", "dev", tokenizer, config)
        assert f": {file.num_real_examples} questions; labels: A " in messages.text
        assert f"of {4 * file.num_real_examples} texts (" in messages.text


def test_squad(tmp_path, messages):
    write_squad(tmp_path)
    tokenizer = get_tokenizer("word_piece", str(tmp_path / "vocab.txt"))
    windows = WindowConfig(max_seq_length=28, max_query_length=4, doc_stride=8)
    source = SquadSource(str(tmp_path / "dev.json"), windows=windows)
    found = []
    for _ in range(2):
        messages.clear()
        cut = load_or_build_windows(source, tokenizer, tmp_path / "cache")
        found.append((cut.is_cached, "\n".join(read_messages(messages)[-3:])))
    assert [is_cached for is_cached, _ in found] == [False, True]
    assert found[0][1] == found[1][1]
    count = len(cut.data.questions)
    assert f": {count} questions in {len(cut.windows)} windows; labels: answerable" in found[0][1]
    assert f"of {count} questions (" in found[0][1] and "cut to 4 tokens" in found[0][1]
    train = SquadSource(str(tmp_path / "train.json"), windows=windows)
    for _ in range(2):
        messages.clear()
        squad_train_records(tmp_path / "records", train, tokenizer, seed=1)
        assert "train (" in messages.text and "questions in" in messages.text


def test_reports_survive_json():
    report = SplitReport(3, labels={"a": 3}, respelled=(("A", "a", 1),), texts=TextCounts(3, 1))
    assert SplitReport.from_json(report.to_json()) == report
    for broken in (None, [], {}, {"rows": 1}, {"rows": 1, "texts": 2, "respelled": []}):
        with pytest.raises(ValueError, match="no report of a split"):
            SplitReport.from_json(broken)


@pytest.mark.parametrize(
    ("warmup", "total", "is_said"), [(10, 5, True), (5, 5, True), (4, 5, False), (10, 0, False)]
)
def test_a_warm_up_longer_than_the_run_is_said(messages, warmup, total, is_said):
    ScheduleConfig(1e-3, total, warmup).warn_of_warmup()
    assert (f"warmup_steps={warmup}, but the run has {total} steps" in messages.text) == is_said


def test_blanks_and_case_of_race_answers(tmp_path):
    from funnel.tasks.race import read_race

    write_race(tmp_path)
    before = read_race(tmp_path / "RACE", "dev").questions
    for path in (tmp_path / "RACE" / "dev").glob("*/*.txt"):
        article = json.loads(path.read_text())
        article["answers"] = [f" {letter.lower()}" for letter in article["answers"]]
        path.write_text(json.dumps(article))
    assert read_race(tmp_path / "RACE", "dev").questions == before
