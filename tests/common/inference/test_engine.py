"""Prediction in parts without a framework: order, batches, memory, arrays on disk."""

import tracemalloc

import numpy as np
import pytest

from funnel.config.model import ModelConfig
from funnel.inference.collect import AppendedArrays, OutputArrays
from funnel.inference.encoding import EncodingConfig
from funnel.inference.engine import Engine
from funnel.inference.inputs import Input, make_input
from funnel.inference.rows import RowFormat
from funnel.tokenization import get_tokenizer
from funnel.utils.errors import DataError

CONFIG = ModelConfig(vocab_size=9, d_model=8, n_head=2, d_head=4, d_inner=8, block_size="1_1")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("<unk>\n<s>\n</s>\n<cls>\n<sep>\n<pad>\n<mask>\na\nb\n")
    return get_tokenizer("word_piece", path)


def make_engine(tokenizer, shapes=None, **settings):
    """The logits of a text are its numbers of a and of b."""

    def compute(arrays):
        ids = arrays["input_ids"]
        if shapes is not None:
            shapes.append((*ids.shape, int(arrays["attention_mask"].sum(axis=1).min())))
        counts = [(ids == tokenizer.encode(letter)[0]).sum(axis=1) for letter in "ab"]
        return {"logits": np.stack(counts, axis=1).astype(np.float32)}

    form = RowFormat("single_label_classification", ("a", "b"), write_logits=True)
    return Engine(compute, CONFIG, form, EncodingConfig(tokenizer, 64), **settings)


def texts(count):
    draw = np.random.default_rng(0)
    return (
        " ".join("ab"[i] for i in draw.integers(0, 2, draw.integers(0, 40))) for _ in range(count)
    )


def test_order_and_batches(tokenizer):
    shapes, values = [], list(texts(300))
    engine = make_engine(tokenizer, shapes, window=100, positions=256)
    rows = list(engine.rows(Input(text, id=f"n{i}") for i, text in enumerate(values)))
    assert [row["id"] for row in rows] == [f"n{i}" for i in range(300)]
    for text, row in zip(values, rows, strict=True):
        assert row["logits"] == {"a": text.count("a"), "b": text.count("b")}
    assert all(batch * length <= 256 for batch, length, _ in shapes)
    assert max(batch for batch, _, _ in shapes) > 2 * min(batch for batch, _, _ in shapes[:-1])
    # Texts of a batch are equally long, so little is padding.
    assert np.mean([length - shortest for _, length, shortest in shapes]) < 12
    assert engine.counts.texts == 300 and engine.counts.longest <= 42


def test_steps_and_shortest_lengths(tokenizer):
    shapes = []
    engine = make_engine(tokenizer, shapes, batch_size=7, length_step=16, shortest=20)
    assert len(list(engine.rows(texts(50)))) == 50
    assert {length for _, length, _ in shapes} <= {32, 48} and shapes[0][0] == 7


def test_few_shapes(tokenizer):
    shapes, values = [], list(texts(1200))
    engine = make_engine(tokenizer, shapes, window=400, positions=256)
    for text, row in zip(values, engine.rows(values), strict=True):
        assert row["logits"] == {"a": text.count("a"), "b": text.count("b")}
    by_length = {}
    for batch, length, _ in shapes:
        by_length.setdefault(length, set()).add(batch)
    # The last batches of the parts are as large as all others of their length.
    assert len(shapes) > 90 and all(len(sizes) == 1 for sizes in by_length.values())
    assert {engine._padded(longest) for longest in range(2, 65)} == {
        *range(4, 19, 2), *range(22, 35, 4), *range(42, 64, 8), 64
    }  # fmt: skip


def _peak(engine, count):
    tracemalloc.start()
    for _ in engine.rows(texts(count)):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_input(tokenizer):
    engine = make_engine(tokenizer, window=256)
    list(engine.rows(texts(500)))  # fills the tokenizer's cache
    assert _peak(engine, 3000) < 1.2 * _peak(engine, 600)


def test_python_values():
    assert make_input(("a", "b"), "regression") == Input("a", "b")
    assert make_input(["a", "b"], "token_classification").words == ("a", "b")
    assert make_input("a  b", "token_classification").words == ("a", "b")
    choice = make_input(("q", "c", ["x", "y"]), "multiple_choice")
    assert (choice.text, choice.other, choice.choices) == ("q", "c", ("x", "y"))
    wrong = [(3, "regression"), (("a", 1), "regression"), ("q", "question_answering")]
    wrong += [(("q", "c", []), "multiple_choice"), (("a", "b", "c"), "regression")]
    for value, kind in wrong:
        with pytest.raises(DataError, match="is no input of this model; it takes"):
            make_input(value, kind)


def test_arrays_larger_than_memory_holds(monkeypatch):
    monkeypatch.setattr("funnel.utils.scratch._HELD_BYTES", 1000)
    draw = np.random.default_rng(0)
    values = {"x": draw.normal(size=(500, 3)).astype(np.float32), "y": draw.integers(0, 9, 500)}
    found, order = OutputArrays(500), draw.permutation(500)
    for start in range(0, 500, 32):
        rows = order[start : start + 32]
        found.put(rows, {name: array[rows] for name, array in values.items()})
    appended = AppendedArrays()
    for start in range(0, 500, 32):
        appended.append({name: array[start : start + 32] for name, array in values.items()})
    for arrays in (found.arrays(), appended.arrays()):
        for name, array in values.items():
            np.testing.assert_array_equal(arrays[name], array)
            assert arrays[name].dtype == array.dtype
