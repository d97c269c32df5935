"""int8 linear layers: close to float32 in every head, refused where they cannot work."""

import copy
import json
import re

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from classifier_runs import arguments, invoke, load_program, refuse, write_files
from funnel.config.model import ModelConfig
from funnel.utils.errors import CheckpointError, ConfigError, RunError
from funnel_torch import (
    FunnelEncoder,
    FunnelForMaskedLM,
    FunnelForMultipleChoice,
    FunnelForPreTraining,
    FunnelForQuestionAnswering,
    FunnelForSequenceClassification,
    FunnelForTokenClassification,
    FunnelModel,
)
from funnel_torch.kernels.quantization import Int8Linear, quantize, quantize_int8

torch.set_num_threads(1)

VOCAB = 40
FIELDS = {
    FunnelEncoder: "last_hidden_state",
    FunnelModel: "last_hidden_state",
    FunnelForSequenceClassification: "logits",
    FunnelForMultipleChoice: "logits",
    FunnelForTokenClassification: "logits",
    FunnelForMaskedLM: "logits",
    FunnelForPreTraining: "logits",
    FunnelForQuestionAnswering: "cls_logits",
}
# Models whose layers differ for the quantizer.
CONFIGS = {
    "plain": {},
    "shared layers": {"block_size": "1_1x2_1x2"},
    "keys pooled, too": {"pool_q_only": False},
    "no relative positions": {"rel_attn_type": "null", "block_size": "3", "decoder_size": "0"},
    "relu": {"ff_activation": "relu"},
    "factorized": {"rel_attn_type": "factorized"},
    "narrow embeddings": {"d_embed": 20},
}


def build(head=FunnelModel, **changes):
    settings = {
        "vocab_size": VOCAB, "d_model": 32, "d_embed": 32, "n_head": 2, "d_head": 16,
        "d_inner": 64, "block_size": "1_1_1", "decoder_size": "1", "init_std": 0.1,
    }  # fmt: skip
    torch.manual_seed(0)
    return head(ModelConfig(**(settings | changes))).eval()


def inputs(*shape):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(VOCAB, shape, generator=generator)
    mask = torch.ones_like(ids)
    mask[-1, ..., -3:] = 0
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}


def relative_error(found, wanted):
    return ((found - wanted).norm() / wanted.norm()).item()


@torch.inference_mode()
def check_close(model, field, batch):
    wanted = getattr(model(**batch), field)
    found = getattr(quantize_int8(model)(**batch), field)
    assert 0 < relative_error(found, wanted) < 0.05


@pytest.mark.parametrize("head", FIELDS, ids=lambda head: head.__name__)
def test_heads(head):
    shape = (2, 4, 17) if head is FunnelForMultipleChoice else (3, 17)
    check_close(build(head), FIELDS[head], inputs(*shape))


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_configs(changes):
    check_close(build(**changes), "last_hidden_state", inputs(3, 17))


@pytest.mark.parametrize(
    "x",
    [
        torch.tensor([-1.0, 0.0, 0.5, 3.0]),
        torch.tensor([2.0, 3.0]),
        torch.tensor([-3.0, -2.0]),
        torch.tensor([-0.5, 254.0]),
        torch.zeros(5),
        torch.full((4,), 1e-42),
        torch.randn(10_000, generator=torch.Generator().manual_seed(2)),
    ],
    ids=["mixed", "positive", "negative", "half a step", "zeros", "denormal", "many"],
)
@pytest.mark.parametrize("levels", [255, 127])
def test_activations_are_rounded_to_the_nearest_step(x, levels):
    values, scale, zero_point = quantize(x, levels)
    assert values.dtype == torch.uint8
    assert 0 <= zero_point <= levels and values.max() <= levels
    back = scale * (values.double() - zero_point)
    assert (back - x).abs().max() <= scale * 0.5001
    assert scale <= 1.01 * max(x.max(), 0, x.max() - x.min(), -x.min()) / (levels - 1) + 1e-37


def test_layer_computes_with_the_rounded_numbers():
    generator = torch.Generator().manual_seed(3)
    weight, bias = torch.randn(6, 32, generator=generator), torch.randn(6, generator=generator)
    weight[2] = 0
    x = torch.randn(2, 5, 32, generator=generator)
    layer = Int8Linear(weight, bias)
    values, scale, zero_point = quantize(x, layer.levels)
    row_scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-30) / 127
    rounded = (weight / row_scale).round() * row_scale
    wanted = scale * (values.float() - zero_point) @ rounded.t() + bias
    torch.testing.assert_close(layer(x), wanted, rtol=1e-4, atol=1e-4)
    gelu = torch.nn.functional.gelu(wanted, approximate="tanh")
    torch.testing.assert_close(layer(x, gelu=True), gelu, rtol=1e-4, atol=1e-4)
    assert layer(x[:0]).shape == (0, 5, 6)


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda model: model.train(), "call model.eval() first"),
        (lambda model: model.double(), "this one is on cpu, torch.float64"),
        (lambda model: model.to("meta"), "this one is on meta"),
        (quantize_int8, "int8 already"),
        (lambda model: model.embeddings, "Embeddings has no Funnel-Transformer layers"),
    ],
)
def test_models_that_cannot_be_quantized(prepare, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        quantize_int8(prepare(build()))


def test_an_int8_model_is_for_inference(tmp_path):
    model = quantize_int8(build())
    with pytest.raises(RunError, match="cannot be trained"):
        model.train()
    with pytest.raises(CheckpointError, match="an int8 model cannot be saved"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    with torch.no_grad():
        model.embeddings.layer_norm.bias[0] = float("nan")
    with torch.inference_mode(), pytest.raises(RunError, match="infinite or not a number"):
        model(**inputs(1, 9))


def test_the_float_model_is_unchanged():
    model, batch = build(), inputs(2, 9)
    before = copy.deepcopy(model.state_dict())
    quantize_int8(copy.deepcopy(model))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    floats = sum(parameter.numel() for parameter in model.parameters())
    kept = sum(parameter.numel() for parameter in quantize_int8(model).parameters())
    assert kept < floats / 2
    with torch.inference_mode(), pytest.raises(RunError, match="computes on a CPU"):
        model.encoder.layers[0].ffn(torch.zeros(1, 2, 32, dtype=torch.bfloat16))
    assert torch.isfinite(model(**batch).last_hidden_state).all()


def test_programs_evaluate_in_int8(tmp_path, capsys):
    program = load_program("classifier")
    write_files(tmp_path, train=8, dev=12)
    torch.manual_seed(0)
    config = ModelConfig.load(tmp_path / "net_config.json")
    model = FunnelForSequenceClassification(config, cls_scope="cola").eval()
    model.save_pretrained(tmp_path / "m", vocab_path=tmp_path / "vocab.txt", labels=("0", "1"))
    scores = []
    for int8 in (None, True):
        flags = {"test_only": True, "init_ckpt": tmp_path / "m", "int8": int8}
        assert invoke(program, arguments(tmp_path, init_ckpt_config=None, **flags)) == 0
        scores.append(json.loads((tmp_path / "run" / "final_scores.json").read_text())["dev"])
    assert scores[1]["loss"] != scores[0]["loss"]
    assert scores[1]["loss"] == pytest.approx(scores[0]["loss"], abs=0.02)
    refuse(program, capsys, arguments(tmp_path, int8=True), "--int8 goes with --test_only")
