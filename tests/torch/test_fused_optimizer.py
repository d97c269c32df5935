"""AdamW in one kernel, and in one call per operation, against one parameter at a time."""

import pytest

torch = pytest.importorskip("torch")

from funnel import ModelConfig
from funnel.config.training.optimizer import OptimizerConfig
from funnel_torch import FunnelModel
from funnel_torch.training.optimizer import build_optimizer, scale_gradients, set_learning_rate

CONFIG = ModelConfig(
    block_size="1_1", decoder_size="1", d_model=16, d_embed=16, n_head=2, d_head=8, d_inner=32,
    vocab_size=50,
)  # fmt: skip
SETTINGS = OptimizerConfig(
    weight_decay=0.1, use_wd_exclusion=True, layer_decay_rate=0.8, layer_decay="lr"
)


def train(**how):
    """The parameters after five steps with gradients of a fixed seed, and the optimizer."""
    torch.manual_seed(0)
    model = FunnelModel(CONFIG)
    optimizer = build_optimizer(model, SETTINGS)
    if how:
        free = {"fused": None, "foreach": None, **how}
        groups = [{**group, **free} for group in optimizer.param_groups]
        optimizer = torch.optim.AdamW(groups, **free)
    for _ in range(5):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        scale_gradients(optimizer)
        set_learning_rate(optimizer, 0.01)
        optimizer.step()
    return [p.detach() for p in model.parameters()], optimizer


def test_all_forms_of_the_optimizer_agree():
    expected, plain = train(foreach=False, fused=False)
    assert len({(g["weight_decay"], g["lr"]) for g in plain.param_groups}) > 4
    for how in ({}, {"foreach": True}):
        found, _ = train(**how)
        for ours, reference in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-6)


def test_the_form_depends_on_the_device():
    _, optimizer = train()
    assert optimizer.defaults["fused"] and not optimizer.defaults["foreach"]
    with torch.device("meta"):
        model = FunnelModel(CONFIG)
    elsewhere = build_optimizer(model, SETTINGS)
    assert elsewhere.defaults["foreach"] and not elsewhere.defaults["fused"]
