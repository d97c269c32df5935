"""Examples of large files: texts in a temporary file, the behaviour of a list."""

import random
import tracemalloc

import pytest

from funnel.features import classification
from funnel.tasks import Example, get_task
from funnel.tasks.custom import CustomTaskConfig
from funnel.tasks.example_list import ExampleList
from funnel.utils import scratch, text_files

TEXTS = ["", "a", "b c", "é中\U0001f600", "\ud800 x", "x" * 300, "\u2028"]


def _examples(count):
    rng = random.Random(0)
    labels = [None, 0, 3, 2.5]
    return [
        Example(rng.choice(TEXTS), rng.choice([None, *TEXTS]), rng.choice(labels))
        for _ in range(count)
    ]


@pytest.mark.parametrize("held", [1, 100, 1 << 20])
def test_it_is_a_list(monkeypatch, held):
    monkeypatch.setattr(scratch, "_HELD_BYTES", held)
    expected, found = _examples(3000), ExampleList(Example)
    for example in expected:
        found.append(example)
    assert len(found) == 3000 and list(found) == expected
    assert found == expected and expected == found and found != expected[:-1]
    assert found != [*expected[:-1], Example("other")]
    assert found[0] == expected[0] and found[-1] == expected[-1]
    assert found[7:5000:3] == expected[7:5000:3] and isinstance(found[:2], list)
    with pytest.raises(IndexError):
        found[3000]


def test_none_is_false_and_the_texts_are_shown():
    assert not ExampleList(Example)
    found = ExampleList(Example)
    found.append(Example("some text"))
    assert "some text" in repr(found)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path, monkeypatch):
    """Reading and encoding 20,000 rows needs the memory of 1,000, apart from 40 bytes each."""
    from corpus_cases import tiny_tokenizer

    monkeypatch.setattr(scratch, "_HELD_BYTES", 1 << 14)
    monkeypatch.setattr(text_files, "_READ_BYTES", 1 << 12)
    tokenizer, text = tiny_tokenizer(tmp_path), "a b c d e f g h . " * 10

    def peak(rows):
        (tmp_path / "train.tsv").write_text(
            "text\tlabel\n" + f"{text}\tx\n{text}\ty\n" * (rows // 2)
        )
        task = get_task("tsv", custom=CustomTaskConfig(labels=("x", "y")))
        tracemalloc.start()
        try:
            examples = task.load(tmp_path, "train")
            features = classification.encode_examples(examples, tokenizer, 128)
            for start in range(0, rows, 64):
                classification.pad_batch(features, range(start, min(start + 64, rows)), 128, 0)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(500)
    small, large = peak(1000), peak(20000)
    assert large - small < 60 * 19000
