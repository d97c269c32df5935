"""``from_pretrained`` and ``save_pretrained``: every head, every format, error messages."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from funnel.checkpoints import load_checkpoint, save_checkpoint
from funnel.config.model import ModelConfig
from funnel.utils.errors import CheckpointError, ConfigError

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from funnel_torch import (
    AnswerConfig,
    FunnelEncoder,
    FunnelForMaskedLM,
    FunnelForMultipleChoice,
    FunnelForPreTraining,
    FunnelForQuestionAnswering,
    FunnelForSequenceClassification,
    FunnelForTokenClassification,
    FunnelModel,
)
from funnel_torch.models.initialization import skip_init
from funnel_torch.models.weight_mapping import export_tensors, import_tensors

CONFIG = ModelConfig(
    vocab_size=30, d_model=16, d_embed=16, n_head=2, d_head=8, d_inner=32,
    block_size="1_2x2", decoder_size="1", init_std=0.3,
)  # fmt: skip
EXTENDED = CONFIG.replace(d_embed=12, rel_attn_type="null", ff_activation="relu", pooling_size=3)
MODELS = {
    "encoder": lambda config: FunnelEncoder(config),
    "model": lambda config: FunnelModel(config),
    "classification": lambda config: FunnelForSequenceClassification(config, 3, cls_scope="rte"),
    "regression": lambda config: FunnelForSequenceClassification(config, 1, regression=True),
    "choice": lambda config: FunnelForMultipleChoice(config),
    "tokens": lambda config: FunnelForTokenClassification(config, 5),
    "mlm": lambda config: FunnelForMaskedLM(config),
    "electra": lambda config: FunnelForPreTraining(config),
    "squad": lambda config: FunnelForQuestionAnswering(config),
    "squad_plain": lambda config: FunnelForQuestionAnswering(
        config, AnswerConfig(conditional_end=False, use_answer_class=False)
    ),
}
IDS = torch.arange(24).view(2, 12)


def outputs(model):
    ids = IDS[:, None].expand(-1, 2, -1) if isinstance(model, FunnelForMultipleChoice) else IDS
    with torch.no_grad():
        found = model(ids)
    return [value for value in found if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("config", [CONFIG, EXTENDED], ids=["plain", "extended"])
@pytest.mark.parametrize("name", MODELS)
def test_saved_models_load_unchanged(tmp_path, name, config):
    torch.manual_seed(0)
    model = MODELS[name](config).eval()
    model.save_pretrained(tmp_path / "out")
    loaded = type(model).from_pretrained(tmp_path / "out")
    assert loaded.config == model.config
    for one, other in zip(outputs(model), outputs(loaded), strict=True):
        assert torch.equal(one, other)
    assert getattr(loaded, "regression", False) == (name == "regression")


@pytest.mark.parametrize("kind", ["hf", "pt", "tf"])
def test_every_format_gives_the_same_encoder(tmp_path, kind):
    torch.manual_seed(0)
    model = FunnelModel(CONFIG).eval()
    model.save_pretrained(tmp_path / "hf0")
    save_checkpoint(load_checkpoint(tmp_path / "hf0"), tmp_path / kind, kind)
    loaded = FunnelEncoder.from_pretrained(tmp_path / kind)
    with torch.no_grad():
        assert torch.equal(loaded(IDS)[0], model(IDS).encoder_last_hidden_state)


def test_export_and_import_are_inverse():
    torch.manual_seed(0)
    one, other = FunnelForMaskedLM(CONFIG), FunnelForMaskedLM(CONFIG)
    report = import_tensors(other, export_tensors(one))
    assert not (report.missing or report.unexpected or report.mismatched)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_new_head_is_initialized_and_named(tmp_path, caplog):
    FunnelModel(CONFIG).save_pretrained(tmp_path / "core")
    with caplog.at_level(logging.WARNING):
        model = FunnelForSequenceClassification.from_pretrained(tmp_path / "core", num_labels=4)
    assert "model/classification/logit/kernel" in caplog.text
    assert model.classifier.linear_out.weight.shape == (4, 16)
    assert model.classifier.linear_out.weight.abs().max() > 0
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("kind", ["hf", "pt", "tf"])
def test_the_model_without_a_head_needs_its_decoder(tmp_path, kind, caplog):
    FunnelForSequenceClassification(CONFIG, 3).save_pretrained(tmp_path / "run")
    save_checkpoint(load_checkpoint(tmp_path / "run"), tmp_path / kind, kind)
    with pytest.raises(CheckpointError, match=r"no decoder.* model/decoder/.*FunnelEncoder loads"):
        FunnelModel.from_pretrained(tmp_path / kind)
    assert FunnelEncoder.from_pretrained(tmp_path / kind)(IDS)[0].isfinite().all()
    # A head on tokens is trained, and so is the decoder below it.
    FunnelForMaskedLM.from_pretrained(tmp_path / kind)
    assert "newly initialized" in caplog.text and "model/decoder/" in caplog.text


def test_a_head_of_another_size_is_refused(tmp_path):
    FunnelForSequenceClassification(CONFIG, 3).save_pretrained(tmp_path / "three")
    with pytest.raises(CheckpointError, match=r"logit/kernel \[16, 3\] instead of \[16, 2\]"):
        FunnelForSequenceClassification.from_pretrained(tmp_path / "three", num_labels=2)


def test_settings_can_be_overridden_at_load(tmp_path):
    FunnelModel(CONFIG).save_pretrained(tmp_path / "m")
    model = FunnelModel.from_pretrained(tmp_path / "m", truncate_seq=False, dropout=0.0)
    assert not model.config.truncate_seq and model.config.dropout == 0
    assert FunnelModel.from_pretrained(tmp_path / "m").config.truncate_seq
    with pytest.raises(ConfigError, match="pooling_type"):
        FunnelModel.from_pretrained(tmp_path / "m", pooling_type="median")


def test_a_factorized_checkpoint_runs_as_rel_shift_unless_asked(tmp_path):
    FunnelModel(CONFIG.replace(rel_attn_type="factorized")).save_pretrained(tmp_path / "m")
    model = FunnelModel.from_pretrained(tmp_path / "m")
    asked = FunnelModel.from_pretrained(tmp_path / "m", rel_attn_type="factorized")
    assert (model.config.rel_attn_type, asked.config.rel_attn_type) == ("rel_shift", "factorized")
    with torch.no_grad():
        torch.testing.assert_close(model(IDS)[0], asked(IDS)[0], atol=1e-5, rtol=1e-5)


def test_labels_and_vocabulary_are_saved_with_the_model(tmp_path):
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]) + "\n")
    model = FunnelForSequenceClassification(CONFIG, 2)
    model.save_pretrained(tmp_path / "m", vocab_path=vocabulary, labels=("no", "yes"))
    metadata = load_checkpoint(tmp_path / "m").metadata
    assert list(metadata["labels"]) == ["no", "yes"]
    assert (tmp_path / "m" / "vocab.txt").read_text() == vocabulary.read_text()


def test_labels_of_one_name_are_not_saved(tmp_path):
    with pytest.raises(ConfigError, match="labels: 'a' is the name of several classes"):
        FunnelForSequenceClassification(CONFIG, 3).save_pretrained(tmp_path, labels="aba")
    assert not any(tmp_path.iterdir())


def test_a_missing_encoder_weight_is_an_error(tmp_path):
    model = FunnelEncoder(CONFIG.replace(decoder_size="0"))
    tensors = export_tensors(model)
    del tensors["model/encoder/layer_1/ff/layer_2/kernel"]
    report = import_tensors(model, tensors)
    assert report.missing == ["model/encoder/layer_1/ff/layer_2/kernel"]
    tensors["model/input/layer_norm/beta"] = np.zeros(3, np.float32)
    report = import_tensors(model, tensors)
    assert report.mismatched == ["model/input/layer_norm/beta [3] instead of [16]"]


def test_loading_draws_no_random_numbers(tmp_path):
    FunnelModel(CONFIG).save_pretrained(tmp_path)
    before = torch.get_rng_state()
    FunnelModel.from_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(TypeError), skip_init():
        FunnelModel(CONFIG, "wrong")
    assert FunnelModel(CONFIG).encoder.layers[0].attention.qkv_weight.std() > 0.01


def run_python(code):
    """Run code in a fresh interpreter that finds the packages; return its output."""
    root = Path(__file__).resolve().parents[2]
    paths = os.pathsep.join([str(root / "pytorch"), str(root / "common")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.slow
def test_importing_the_package_imports_no_torch():
    code = (
        "import sys, funnel_torch\n"
        "import funnel_torch.export.config, funnel_torch.models.initial_model\n"
        "assert 'torch' not in sys.modules\n"
        "assert funnel_torch.__version__\n"
        "for name in funnel_torch.__all__:\n"
        "    getattr(funnel_torch, name)\n"
        "assert not hasattr(funnel_torch, 'FunnelNothing')"
    )
    run_python(code)


@pytest.mark.slow
def test_loading_imports_nothing_slow(tmp_path):
    """torch's symbolic shapes take a second to import."""
    FunnelModel(CONFIG).save_pretrained(tmp_path)
    code = (
        "import sys, torch\n"
        "from funnel_torch import FunnelModel\n"
        "before = set(sys.modules)\n"
        f"FunnelModel.from_pretrained({str(tmp_path)!r})\n"
        "print(len(set(sys.modules) - before))"
    )
    assert int(run_python(code)) < 50
