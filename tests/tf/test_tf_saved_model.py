"""Export to a SavedModel: signatures, outputs equal to PyTorch's, files for clients, errors."""

import importlib.util
import json
import sys

import numpy as np
import pytest

import readme_commands
from checkpoint_cases import random_checkpoint
from funnel.checkpoints import load_checkpoint, save_checkpoint
from funnel.config.model import ModelConfig
from funnel.utils.errors import CheckpointError, ConfigError, ExportError
from repo_layout import ROOT
from support_tf import import_tensorflow

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
tf = import_tensorflow()

from funnel_tf.models.saved_model import export_saved_model
from funnel_torch import FunnelForSequenceClassification, FunnelModel

pytestmark = pytest.mark.slow

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"]
CONFIG = ModelConfig(
    vocab_size=8, d_model=8, d_embed=8, n_head=2, d_head=4, d_inner=16, block_size="1_1",
    decoder_size="1", rel_attn_type="factorized", init_std=0.3,
)  # fmt: skip


def _load_program():
    path = ROOT / "tensorflow" / "export_savedmodel.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    sys.modules[path.stem] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a classifier of PyTorch and what the program made of it."""
    top = tmp_path_factory.mktemp("saved")
    (top / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    torch.manual_seed(0)
    model = FunnelForSequenceClassification(CONFIG.replace(rel_attn_type="rel_shift"), 3).eval()
    model.save_pretrained(top / "model", vocab_path=top / "vocab.txt", labels=["x", "y", "z"])
    program = _load_program()
    flags = [
        f"--model={top / 'model'}",
        f"--output={top / 'serving' / 'mine' / '1'}",
        "--lengths=6,11",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["export_savedmodel.py", *flags])
        program.main()
    return model, top / "serving" / "mine" / "1"


def _inputs(length, batch=3):
    ids = np.random.default_rng(0).integers(0, 8, (batch, length))
    mask = np.ones_like(ids)
    mask[-1, -2:] = 0
    segments = np.where(np.arange(length) == 0, 2, np.arange(length) > 3).astype(np.int64)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments + 0 * ids}


def test_a_loaded_file_computes_the_logits_of_pytorch(saved):
    model, directory = saved
    signatures = tf.saved_model.load(str(directory)).signatures
    assert set(signatures) == {"length_6", "length_11", "serving_default"}
    for key, length in (("length_6", 6), ("length_11", 11), ("serving_default", 11)):
        for batch in (1, 4):
            values = _inputs(length, batch)
            given = {name: tf.constant(value, tf.int64) for name, value in values.items()}
            found = signatures[key](**given)
            assert set(found) == {"logits"} and found["logits"].shape == (batch, 3)
            with torch.inference_mode():
                tensors = {name: torch.from_numpy(value) for name, value in values.items()}
                expected = model(**tensors).logits.numpy()
            np.testing.assert_allclose(found["logits"].numpy(), expected, atol=1e-5)


def test_the_file_says_what_a_client_needs(saved):
    extra = saved[1] / "assets.extra"
    information = json.loads((extra / "funnel.json").read_text())
    assert information["task"] == "classification" and information["lengths"] == [6, 11]
    assert information["labels"] == ["x", "y", "z"]
    assert ModelConfig.from_dict(information["config"]) == saved[0].config
    assert (extra / "vocab.txt").read_text().split() == WORDS
    assert (extra / "tokenizer_config.json").is_file()


def test_hidden_states_of_encoder_and_decoder(tmp_path):
    torch.manual_seed(1)
    model = FunnelModel(CONFIG).eval()
    model.save_pretrained(tmp_path / "model")
    checkpoint = load_checkpoint(tmp_path / "model")
    report = export_saved_model(checkpoint, tmp_path / "out", [7])
    assert report.task == "model" and report.difference < 1e-5
    signature = tf.saved_model.load(str(tmp_path / "out")).signatures["length_7"]
    values = _inputs(7)
    found = signature(**{name: tf.constant(value, tf.int64) for name, value in values.items()})
    with torch.inference_mode():
        expected = model(**{name: torch.from_numpy(value) for name, value in values.items()})
    for name in ("last_hidden_state", "encoder_last_hidden_state"):
        np.testing.assert_allclose(found[name].numpy(), getattr(expected, name), atol=1e-5)


def test_what_cannot_be_exported_is_named(saved, tmp_path):
    checkpoint = random_checkpoint(CONFIG)
    checkpoint.metadata["path"] = "here"
    with pytest.raises(ExportError, match="exists; give the name of a new directory"):
        export_saved_model(checkpoint, saved[1], [8])
    with pytest.raises(ExportError, match="here: has no classification head"):
        export_saved_model(checkpoint, tmp_path / "x", [8], "classification")
    with pytest.raises(ConfigError, match="pool 2 tokens to one"):
        export_saved_model(checkpoint, tmp_path / "x", [1])
    classifier = load_checkpoint(saved[1].parents[2] / "model")
    with pytest.raises(ExportError, match="its head is a classification, no regression"):
        export_saved_model(classifier, tmp_path / "x", [8], "regression")
    classifier.tensors.pop("model/sequnece_summary/summary/bias")
    with pytest.raises(CheckpointError, match="cannot be exported: missing .*summary/bias"):
        export_saved_model(classifier, tmp_path / "x", [8])
    assert not (tmp_path / "x").exists()


def test_a_tensorflow_checkpoint_is_exported_too(saved, tmp_path):
    source = load_checkpoint(saved[1].parents[2] / "model")
    save_checkpoint(source, tmp_path / "tf" / "model.ckpt", "tf")
    report = export_saved_model(load_checkpoint(tmp_path / "tf"), tmp_path / "out", [6])
    assert report.task == "classification"
    labels = json.loads((tmp_path / "out" / "assets.extra" / "funnel.json").read_text())["labels"]
    assert labels == ["x", "y", "z"]


def test_the_documented_client_runs(saved, monkeypatch, capsys):
    model, directory = saved
    monkeypatch.chdir(directory.parents[2])
    (directory.parents[2] / "texts.txt").write_text("a b\nb c a c b a\n")
    (code,) = readme_commands.blocks(ROOT / "docs" / "serving.md", "python")
    exec(compile(code, "serving.md", "exec"), {})
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [text for _, text in lines] == ["a b", "b c a c b a"]
    ids = torch.tensor([[2, 6, 7, 5, 7, 6, 5, 3]])
    segments = torch.tensor([[2, 0, 0, 0, 0, 0, 0, 0]])
    with torch.inference_mode():
        best = model(ids, token_type_ids=segments).logits.argmax().item()
    assert lines[1][0] == ["x", "y", "z"][best]
