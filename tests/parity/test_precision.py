"""Half precision: bf16 and autocast are close to fp32, and padding gives no NaN."""

import copy

import pytest

torch = pytest.importorskip("torch")

from funnel.config.model import ModelConfig
from funnel_torch import FunnelForSequenceClassification, FunnelModel
from parity_cases import random_tensors
from parity_models import filled
from reference_funnel import parameter_shapes

# Relative to the norm of the output; rounding one element near 4 to bf16 costs up to 0.016.
BF16_TOLERANCE = 2e-2
FORMS = ["rel_shift", "factorized", "null"]
VARIANTS = {
    "as released": {},
    "pooled keys": {"pool_q_only": False, "pooling_type": "max"},
    "joint cls": {"separate_cls": False},
}


def build_config(**changes):
    settings = {
        "vocab_size": 50, "d_model": 64, "d_embed": 64, "n_head": 4, "d_head": 16, "d_inner": 256,
        "block_size": "2_1x2_2", "decoder_size": "1", "dropout": 0.0, "dropatt": 0.0,
    }  # fmt: skip
    return ModelConfig(**(settings | changes))


def build_batch():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(50, (3, 33), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 20:], mask[2, :30] = 0, 0
    segments = torch.randint(2, ids.shape, generator=generator)
    segments[:, 0] = 2
    return ids, mask, segments


def relative_error(actual, expected):
    assert torch.isfinite(actual).all()
    return ((actual.float() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("keep_graph", [True, False], ids=["graph", "no graph"])
def test_bf16_is_near_fp32(form, variant, keep_graph):
    config = build_config(rel_attn_type=form, **VARIANTS[variant])
    model = filled(FunnelModel(config), random_tensors(parameter_shapes(config)))
    half = copy.deepcopy(model).bfloat16()
    with torch.set_grad_enabled(keep_graph):
        expected = model(*build_batch()).last_hidden_state
        output = half(*build_batch()).last_hidden_state
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(*build_batch()).last_hidden_state
    assert output.dtype == torch.bfloat16
    assert relative_error(output, expected) < BF16_TOLERANCE
    assert relative_error(mixed, expected) < BF16_TOLERANCE / 2


@pytest.mark.parametrize("form", FORMS)
def test_autocast_of_a_new_model_is_near_fp32_everywhere(form):
    """With initial weights even the worst element is close."""
    torch.manual_seed(0)
    model = FunnelModel(build_config(rel_attn_type=form)).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        mixed = model(*build_batch()).last_hidden_state
    with torch.no_grad():
        expected = model(*build_batch()).last_hidden_state
    assert (mixed.float() - expected).abs().max().item() < 2e-2


@pytest.mark.parametrize("form", FORMS)
def test_fp16_padding_is_finite(form):
    """The score of padding, -1e6, is out of fp16's range: it must not become -inf and then NaN."""
    config = build_config(rel_attn_type=form)
    model = filled(FunnelModel(config), random_tensors(parameter_shapes(config)))
    expected = model(*build_batch()).last_hidden_state
    output = copy.deepcopy(model).half()(*build_batch()).last_hidden_state
    assert relative_error(output, expected) < BF16_TOLERANCE / 4


@pytest.mark.parametrize("form", FORMS)
def test_autocast_gradients(form):
    torch.manual_seed(0)
    model = FunnelForSequenceClassification(build_config(rel_attn_type=form), num_labels=3)
    labels = torch.tensor([0, 1, 2])

    def all_gradients(enabled):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = model(*build_batch(), labels=labels).loss
        assert loss.dtype == torch.float32
        loss.backward()
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    expected = all_gradients(enabled=False)
    assert relative_error(all_gradients(enabled=True), expected) < 2 * BF16_TOLERANCE


def test_projections_cached_in_one_precision_are_not_used_in_another():
    config = build_config()
    model = filled(FunnelModel(config), random_tensors(parameter_shapes(config)))
    with torch.no_grad():
        before = model(*build_batch()).last_hidden_state
        with torch.autocast("cpu", torch.bfloat16):
            model(*build_batch())
        after = model(*build_batch()).last_hidden_state
    assert torch.equal(before, after)
