"""Every real file loads, with as many examples as it has rows."""

from collections import Counter

import pytest

from funnel.tasks import get_task
from task_files import DATA, needs_real_data

pytestmark = needs_real_data

ROWS = [
    ("CoLA", "glue/CoLA", {"train": 8551, "dev": 1043, "test": 1063}),
    ("RTE", "glue/RTE", {"train": 2490, "dev": 277, "test": 3000}),
    ("STS-B", "glue/STS-B", {"train": 5749, "dev": 1500, "test": 1379}),
    ("WNLI", "glue/WNLI", {"train": 635, "dev": 71, "test": 146}),
    ("QQP", "glue/QQP", {"train": 10000, "dev": 2000}),
    ("MNLI", "glue/MNLI", {"train": 8999, "dev": 1000}),
    ("MNLI-mm", "glue/MNLI", {"dev": 1000}),
    ("AG", "text_cls/ag_news", {"train": 14526, "dev": 7600, "test": 7600}),
    ("amazon5", "text_cls/amazon_review_full", {"train": 1000, "dev": 1000}),
]


@pytest.mark.slow
@pytest.mark.parametrize("name, folder, rows", ROWS, ids=[row[0] for row in ROWS])
def test_number_of_examples(name, folder, rows, caplog):
    task = get_task(name)
    for split, count in rows.items():
        examples = task.load(DATA / folder, split)
        assert len(examples) == count
        labelled = "csv" in task.sources[split].format or split != "test"
        assert all((example.label is not None) == labelled for example in examples)
        assert all(example.text_a or example.text_b for example in examples)
    assert not caplog.records, "no line of the real files is broken"


def test_classes_of_ag():
    labels = Counter(e.label for e in get_task("ag").load(DATA / "text_cls/ag_news", "dev"))
    assert labels == {0: 1900, 1: 1900, 2: 1900, 3: 1900}


def test_entities_of_ag_stay_and_backslashes_go():
    examples = get_task("ag").load(DATA / "text_cls/ag_news", "dev")
    assert "A second team of rocketeers competing for the #36;10 million" in examples[1].text_b


def test_original_mnli_rows_with_parses(tmp_path):
    source = DATA / "glue/MNLI/original_rows_sample.tsv"
    (tmp_path / "train.tsv").write_bytes(source.read_bytes())
    examples = get_task("mnli").load(tmp_path, "train")
    assert len(examples) == 480
    assert set(Counter(e.label for e in examples)) == {0, 1, 2}
    assert not any(example.text_a.startswith("(ROOT") for example in examples)
