"""Optimizer updates, schedules, layer decay and decay exclusion against plain numpy in float64."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from funnel.config.model import ModelConfig
from funnel.utils.errors import ConfigError
from funnel_torch.models.heads import FunnelForSequenceClassification, FunnelForTokenClassification
from funnel_torch.training import optimizer as optim
from funnel_torch.training.optimizer import FunnelAdamW, OptimizerConfig, ScheduleConfig

TINY = ModelConfig(
    vocab_size=40,
    d_model=16,
    d_embed=12,
    n_head=2,
    d_head=8,
    d_inner=32,
    block_size="1_2x2",
    decoder_size="1",
    separate_cls=True,
)


class PlainAdamW:
    """The published update rule, one float64 array at a time."""

    def __init__(self, value, beta1, beta2, epsilon, decay, correct):
        self.p, self.m, self.v, self.t = value.astype(np.float64), 0.0, 0.0, 0
        self.settings = beta1, beta2, epsilon, decay, correct

    def step(self, g, lr):
        beta1, beta2, epsilon, decay, correct = self.settings
        self.t += 1
        self.m = beta1 * self.m + (1 - beta1) * g
        self.v = beta2 * self.v + (1 - beta2) * g**2
        u = self.m / (np.sqrt(self.v) + epsilon) + decay * self.p
        factor = math.sqrt(1 - beta2**self.t) / (1 - beta1**self.t) if correct else 1.0
        self.p = self.p - lr * factor * u


@pytest.mark.parametrize("correct", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_funnel_adamw_follows_the_rule(correct, decay):
    random = np.random.default_rng(0)
    shapes = [(3, 4), (5,), (1,)]
    values = [random.normal(size=shape) for shape in shapes]
    params = [torch.nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in values]
    plain = [PlainAdamW(v, 0.9, 0.99, 1e-6, decay, correct) for v in values]
    optimizer = FunnelAdamW(params, weight_decay=decay, correct_bias=correct)
    for step in range(30):
        lr = 1e-2 * step / 10
        optim.set_learning_rate(optimizer, lr)
        for param, reference in zip(params, plain, strict=True):
            # Gradients of very different sizes: where epsilon matters and where it does not.
            gradient = random.normal(size=param.shape) * 10.0 ** random.integers(-8, 2)
            param.grad = torch.tensor(gradient)
            reference.step(gradient, lr)
        optimizer.step()
    for param, reference in zip(params, plain, strict=True):
        np.testing.assert_allclose(param.detach().numpy(), reference.p, rtol=1e-12, atol=1e-12)


def test_funnel_adamw_in_fp32_stays_within_1e_6():
    random = np.random.default_rng(1)
    value = random.normal(size=(20, 7))
    param = torch.nn.Parameter(torch.tensor(value, dtype=torch.float32))
    plain = PlainAdamW(param.detach().numpy(), 0.9, 0.99, 1e-6, 0.01, True)
    optimizer = FunnelAdamW([param], weight_decay=0.01, lr=1e-3)
    for _ in range(50):
        gradient = random.normal(size=value.shape).astype(np.float32)
        param.grad = torch.from_numpy(gradient)
        optimizer.step()
        plain.step(gradient.astype(np.float64), 1e-3)
    np.testing.assert_allclose(param.detach().numpy(), plain.p, rtol=0, atol=1e-6)


def test_funnel_adamw_differs_from_torch_adamw_where_it_should():
    """Epsilon before the bias correction, and the correction on the decay."""
    moved = []
    for kind in (FunnelAdamW, torch.optim.AdamW):
        param = torch.nn.Parameter(torch.ones(1))
        optimizer = kind([param], lr=0.1, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.1)
        param.grad = torch.full((1,), 1e-6)
        optimizer.step()
        moved.append(1 - param.item())
    # First step: m = 0.1 g, v = 0.01 g^2, correction sqrt(0.01) / 0.1 = 1.
    ours = 0.1 * (0.1 * 1e-6 / (0.1 * 1e-6 + 1e-6) + 0.1)
    assert moved[0] == pytest.approx(ours, rel=1e-5)
    assert moved[1] == pytest.approx(0.1 * 0.1 + 0.1 * 0.5, rel=1e-2)


def test_state_survives_a_round_trip_bit_for_bit():
    def run(restart):
        torch.manual_seed(0)
        layer = torch.nn.Linear(4, 3)
        optimizer = FunnelAdamW(layer.parameters(), lr=1e-2, weight_decay=0.1)
        for step in range(6):
            if step == 3 and restart:
                weights, state = layer.state_dict(), optimizer.state_dict()
                layer = torch.nn.Linear(4, 3)
                layer.load_state_dict(weights)
                optimizer = FunnelAdamW(layer.parameters(), lr=1e-2, weight_decay=0.1)
                optimizer.load_state_dict(state)
            layer(torch.full((2, 4), step + 1.0)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        return layer.weight.detach()

    assert torch.equal(run(True), run(False))


@pytest.mark.parametrize("method", ["poly", "cos"])
@pytest.mark.parametrize(("warmup", "ratio"), [(0, 0.0), (4, 0.0), (4, 0.2), (10, 0.1)])
def test_schedule(method, warmup, ratio):
    lr, total = 2e-4, 10
    schedule = ScheduleConfig(lr, total, warmup, min_lr=ratio * lr, decay_method=method)
    for k in range(total):
        if k < warmup:
            expected = lr * (ratio + (1 - ratio) * k / warmup)
        else:
            x = (k - warmup) / (total - warmup)
            share = 1 - x if method == "poly" else 0.5 * (1 + math.cos(math.pi * x))
            expected = lr * (ratio + (1 - ratio) * share)
        assert schedule.lr_at(k) == pytest.approx(expected, rel=1e-12, abs=1e-20)
    assert schedule.lr_at(total + 5) == pytest.approx(ratio * lr)


def test_first_update_of_a_warm_up_changes_nothing():
    assert ScheduleConfig(1e-3, 10, 5).lr_at(0) == 0.0
    assert ScheduleConfig(1e-3, 10, 0).lr_at(0) == 1e-3


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: ScheduleConfig(1e-3, 10, decay_method="step"),
        lambda: ScheduleConfig(1e-3, 10, min_lr=1e-2),
        lambda: ScheduleConfig(1e-3, 10, warmup_steps=-1),
        lambda: OptimizerConfig(name="sgd"),
        lambda: OptimizerConfig(beta2=1.0),
        lambda: ScheduleConfig(math.inf, 10),
        lambda: OptimizerConfig(layer_decay_rate=0.0),
        lambda: OptimizerConfig(layer_decay_rate=math.nan),
        lambda: OptimizerConfig(epsilon=-1e-6),
        lambda: OptimizerConfig(epsilon=math.nan),
        lambda: OptimizerConfig(weight_decay=-0.01),
        lambda: OptimizerConfig(weight_decay=math.inf),
        lambda: OptimizerConfig(clip=math.nan),
        lambda: OptimizerConfig(layer_decay="both"),
        lambda: OptimizerConfig(name="adamw", adam_correction=False),
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ConfigError):
        wrong()


def test_layers_of_a_classifier():
    """`1_2x2` has three parameter layers, so the input, 1, 2 and 3; L = 4. No decoder is built."""
    names = [name for name, _ in FunnelForSequenceClassification(TINY).named_parameters()]
    layers = optim.parameter_layers(names)
    assert layers["funnel.embeddings.word_embeddings.weight"] == 0
    assert layers["funnel.embeddings.layer_norm.weight"] == 0
    assert layers["funnel.encoder.layers.0.ffn.linear_1.weight"] == 1
    assert layers["funnel.encoder.layers.2.attention.r_kernel"] == 3
    unscaled = {name for name, layer in layers.items() if layer is None}
    assert unscaled == {
        "funnel.encoder.input_projection.weight",
        "funnel.encoder.input_projection.bias",
        *(name for name in names if name.startswith("classifier.")),
    }
    assert max(layer for layer in layers.values() if layer is not None) == 3


def test_decoder_layers_count_on():
    names = [name for name, _ in FunnelForTokenClassification(TINY).named_parameters()]
    layers = optim.parameter_layers(names)
    assert layers["funnel.decoder.layers.0.attention.r_kernel"] == 4
    assert optim.parameter_layers(["generator.encoder.layers.0.w"]) == {
        "generator.encoder.layers.0.w": None
    }


def test_weight_decay_exclusion_goes_by_canonical_names():
    model = FunnelForSequenceClassification(TINY)
    config = OptimizerConfig(weight_decay=0.1, use_wd_exclusion=True)
    names = {id(p): name for name, p in model.named_parameters()}
    excluded = set()
    for group in optim.parameter_groups(model, config):
        if group["weight_decay"] == 0.0:
            excluded |= {names[id(p)] for p in group["params"]}
    layer = "funnel.encoder.layers.0."
    assert f"{layer}attention.k_bias" in excluded
    assert f"{layer}attention.v_bias" in excluded
    assert f"{layer}attention.out_proj.bias" in excluded
    assert f"{layer}ffn.layer_norm.weight" in excluded
    assert "classifier.linear_out.bias" in excluded
    decayed = set(names.values()) - excluded
    assert f"{layer}attention.r_w_bias" in decayed
    assert f"{layer}attention.r_s_bias" in decayed
    assert f"{layer}attention.seg_embed" in decayed
    assert "funnel.embeddings.word_embeddings.weight" in decayed
    everything = optim.parameter_groups(model, OptimizerConfig(weight_decay=0.1))
    assert [group["weight_decay"] for group in everything] == [0.1]


def test_every_parameter_is_in_one_group():
    model = FunnelForSequenceClassification(TINY)
    config = OptimizerConfig(use_wd_exclusion=True, layer_decay_rate=0.75)
    groups = optim.parameter_groups(model, config)
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize("kind", ["gradient", "lr"])
def test_layer_decay_factor(kind):
    """Layer l of L is scaled by q^(L-1-l), the head is not."""
    model = FunnelForSequenceClassification(TINY)
    config = OptimizerConfig(layer_decay_rate=0.5, layer_decay=kind)
    optimizer = optim.build_optimizer(model, config)
    optim.set_learning_rate(optimizer, 1.0)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optim.scale_gradients(optimizer)
    found = {}
    names = {id(p): name for name, p in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            gradient = parameter.grad.flatten()[0].item()
            found[names[id(parameter)]] = gradient * group["lr"]
            assert (group["lr"] if kind == "gradient" else gradient) == 1.0
    assert found["funnel.embeddings.word_embeddings.weight"] == 0.125
    assert found["funnel.encoder.layers.0.attention.r_w_bias"] == 0.25
    assert found["funnel.encoder.layers.2.attention.r_w_bias"] == 1.0
    assert found["funnel.encoder.input_projection.weight"] == 1.0
    assert found["classifier.linear_out.weight"] == 1.0


def test_clip_takes_the_global_norm():
    params = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1))]
    for clip, factor in ((1.0, 1 / 13), (26.0, 1.0), (0.0, 1.0), (-1.0, 1.0)):
        params[0].grad, params[1].grad = torch.tensor([3.0, 4.0]), torch.tensor([12.0])
        assert optim.clip_gradients(params, clip).item() == pytest.approx(13.0)
        assert params[0].grad.tolist() == pytest.approx([3 * factor, 4 * factor])
        assert params[1].grad.tolist() == pytest.approx([12 * factor])


def test_norm_sums_duplicate_rows_of_an_embedding_gradient():
    """A token that occurs twice has one gradient row, the sum: norm 2, not sqrt(2)."""
    table = torch.nn.Embedding(5, 1)
    table(torch.tensor([3, 3])).sum().backward()
    assert optim.clip_gradients(table.parameters(), 0.0).item() == pytest.approx(2.0)


def test_nan_gradients_show_in_the_norm():
    param = torch.nn.Parameter(torch.zeros(2))
    param.grad = torch.tensor([math.nan, 1.0])
    assert math.isnan(optim.clip_gradients([param], 1.0).item())
