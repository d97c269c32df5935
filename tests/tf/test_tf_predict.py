"""tensorflow/predict.py: the rows of pytorch/predict.py, for every head that it has."""

import json

import numpy as np
import pytest

from support_tf import import_tensorflow

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
import_tensorflow()

import funnel_torch
from classifier_runs import flag_list, invoke, refuse
from funnel.checkpoints import load_checkpoint, save_checkpoint
from funnel.config.model import ModelConfig
from tf_program_runs import load_tf_program

pytestmark = pytest.mark.slow

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "##d", "."]
CONFIG = ModelConfig(
    vocab_size=10, d_model=16, d_embed=16, n_head=2, d_head=8, d_inner=32, block_size="1_1",
    decoder_size="1", init_std=0.3,
)  # fmt: skip
TEXTS = ["a b c", "cd . a a a a a b", "", "b\tc a"]
QUESTION = {"question": "a b", "context": "c cd . a b cd c a . b", "options": ["a", "cd", ". b"]}


@pytest.fixture(scope="module")
def program():
    return load_tf_program("predict")


def _save(folder, head, labels=None, **arguments):
    words = folder / "words.txt"
    words.write_text("".join(f"{word}\n" for word in WORDS))
    torch.manual_seed(0)
    model = getattr(funnel_torch, head)(CONFIG, **arguments)
    model.save_pretrained(folder / "model", vocab_path=words, labels=labels)
    return folder / "model"


def _rows(program, folder, model, name, content):
    (folder / name).write_text(content)
    values = {"model": model, "input": folder / name, "output": folder / "out.jsonl"}
    flags = {"write_logits": True, "max_length": 64, "device_id": -1}
    assert invoke(program, flag_list(values | flags)) == 0
    return [json.loads(line) for line in (folder / "out.jsonl").open(encoding="utf-8")]


def _predictor(model):
    return funnel_torch.Predictor.from_pretrained(model, write_logits=True, max_length=64)


def test_classification_from_either_layout(program, tmp_path):
    model = _save(tmp_path, "FunnelForSequenceClassification", ["x", "y", "z"], num_labels=3)
    expected = _predictor(model)([tuple(text.split("\t")) for text in TEXTS])
    save_checkpoint(load_checkpoint(model), tmp_path / "tf", "tf")
    for path in (model, tmp_path / "tf"):
        rows = _rows(program, tmp_path, path, "in.txt", "\n".join(TEXTS) + "\n")
        for row, other in zip(rows, expected, strict=True):
            assert row["label"] == other["label"] and row["index"] == other["index"]
            assert row["logits"] == pytest.approx(other["logits"], abs=1e-4)


def test_answers_choices_and_numbers(program, tmp_path):
    content = json.dumps(QUESTION) + "\n"
    for head, value in (
        ("FunnelForQuestionAnswering", ("question", "context")),
        ("FunnelForMultipleChoice", ("question", "context", "options")),
    ):
        model = _save(tmp_path, head)
        (row,) = _rows(program, tmp_path, model, "in.jsonl", content)
        other = _predictor(model)(tuple(QUESTION[name] for name in value))
        assert row["label"] == other["label"]
        assert row["probability"] == pytest.approx(other["probability"], abs=1e-4)
    arguments = {"num_labels": 1, "regression": True}
    model = _save(tmp_path, "FunnelForSequenceClassification", **arguments)
    rows = _rows(program, tmp_path, model, "in.txt", "a b\n")
    assert np.abs(rows[0]["label"] - _predictor(model)("a b")["label"]) < 1e-4


def test_a_head_without_graph(program, tmp_path, capsys):
    model = _save(tmp_path, "FunnelForTokenClassification", num_labels=3)
    (tmp_path / "in.txt").write_text("a\n")
    values = {"model": model, "input": tmp_path / "in.txt", "output": "-"}
    refuse(program, capsys, flag_list(values), "pytorch/predict.py")
