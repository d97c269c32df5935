"""The model beyond parity: caches, copies, initial weights, several models in one process."""

import copy
import io
import pickle

import pytest

from funnel.config.model import ModelConfig
from funnel.utils.errors import DataError

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import torch.nn.functional as F
from torch.nn.utils import prune

from funnel.config.training.losses import LabelLoss
from funnel_torch import (
    FunnelEncoder,
    FunnelForMaskedLM,
    FunnelForMultipleChoice,
    FunnelForSequenceClassification,
    FunnelForTokenClassification,
    FunnelModel,
)
from funnel_torch.models.layers import FeedForward
from funnel_torch.models.projection_cache import ProjectionCache

CONFIG = ModelConfig(
    vocab_size=40, d_model=16, d_embed=16, n_head=2, d_head=8, d_inner=32,
    block_size="1_1", decoder_size="1", init_std=0.3,
)  # fmt: skip


def make_ids(batch, length):
    return torch.arange(batch * length).remainder(39).view(batch, length)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return FunnelModel(CONFIG).eval()


def test_evaluation_sees_every_change_of_a_weight(model):
    """Projected relative embeddings are cached between calls; no change may be missed."""
    ids = make_ids(2, 12)
    with torch.no_grad():
        before = model(ids)[0]
        for layer in model.encoder.layers:
            layer.attention.r_kernel.mul_(2)
        in_place = model(ids)[0]
        state = {name: value.clone() for name, value in model.state_dict().items()}
        for name in state:
            if name.startswith("encoder") and name.endswith("r_kernel"):
                state[name] = state[name] / 2
        model.load_state_dict(state)
        restored = model(ids)[0]
    assert (before - in_place).abs().max() > 1e-3
    torch.testing.assert_close(before, restored)


def test_weights_in_memory_of_former_weights_are_seen():
    """``functional_call`` brings weights for one call; the next ones may get their memory."""
    cache = ProjectionCache()
    for value in range(20):
        weight = torch.full((16, 16), float(value))
        assert cache.get((), [weight], weight.amax) == value
        del weight


@pytest.mark.parametrize("is_layer_in_training", [True, False])
def test_positions_are_dropped_anew_without_gradients(is_layer_in_training):
    """Projections of dropped embeddings must not be kept for the next call."""
    torch.manual_seed(0)
    model = FunnelEncoder(CONFIG.replace(dropout=0.5, dropatt=0.0, dropact=0.0)).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # only the embeddings of distances are dropped
    model.encoder.layers.train(is_layer_in_training)
    ids = make_ids(2, 12)
    with torch.no_grad():
        one, other = model(ids)[0], model(ids)[0]
        model.encoder.training = False
        assert (one - other).abs().max() > 1e-3
        torch.testing.assert_close(model(ids)[0], copy.deepcopy(model)(ids)[0])


def test_lengths_may_come_in_any_order(model):
    """Cached relative embeddings grow with the longest input and are sliced for the others."""
    lengths = (5, 17, 8, 40, 1, 16)
    with torch.no_grad():
        mixed = [model(make_ids(1, length))[0] for length in lengths]
        fresh = [copy.deepcopy(model)(make_ids(1, length))[0] for length in lengths]
    for one, other in zip(mixed, fresh, strict=True):
        torch.testing.assert_close(one, other)


def test_training_after_inference_mode(model):
    """Relative embeddings cached in inference mode must not get into a graph with gradients."""
    with torch.inference_mode():
        model(make_ids(1, 9))
    model(make_ids(1, 9))[0].sum().backward()
    assert all(
        p.grad is not None
        for p in model.encoder.parameters()
        if p.requires_grad and p.shape != (2, 2, 8) and p.shape != (2, 8)
    )  # no segment ids: no segment gradients


def test_copies_and_pickles_compute_the_same(model):
    ids = make_ids(1, 9)
    with torch.no_grad():
        expected = model(ids)[0]
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            torch.testing.assert_close(other(ids)[0], expected)


def test_two_sizes_live_in_one_process(model):
    other = FunnelModel(CONFIG.replace(d_model=24, d_embed=24, n_head=3, block_size="1_1_1")).eval()
    with torch.no_grad():
        alone = model(make_ids(1, 9))[0]
        other(make_ids(1, 9))
        torch.testing.assert_close(model(make_ids(1, 9))[0], alone)


def test_half_precision_weights_run(model):
    with torch.no_grad():
        expected = model(make_ids(2, 12))[0]
        found = copy.deepcopy(model).bfloat16()(make_ids(2, 12))[0]
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).abs().mean() < 2e-2


def test_a_batch_without_targets_has_no_loss():
    model = FunnelForMaskedLM(CONFIG)
    ids = make_ids(2, 8)
    loss = model(ids, labels=torch.full_like(ids, -100)).loss
    loss.backward()
    assert loss.item() == 0
    mixed = torch.full_like(ids, -100)
    mixed[0, 3] = 7
    out = model.eval()(ids, labels=mixed)
    expected = -out.logits[0, 3].log_softmax(-1)[7]
    torch.testing.assert_close(out.loss, expected)


def test_training_through_versionless_updates_is_seen(model):
    """Fused optimizers change weights without raising their version; train() clears the cache."""
    ids = make_ids(2, 12)
    with torch.no_grad():
        before = model(ids)[0]
        for layer in model.encoder.layers:
            layer.attention.r_kernel.data.mul_(2)
        assert (model.train().eval()(ids)[0] - before).abs().max() > 1e-3


class Adapter(torch.nn.Module):
    """What ``peft`` makes of a layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.update = torch.nn.Linear(layer.in_features, layer.out_features)

    def forward(self, x, *args, **options):
        return self.layer(x, *args, **options) + self.update(x)


@pytest.mark.parametrize("dropact", [0.0, 1e-9])
@pytest.mark.parametrize("name", ["linear_1", "linear_2"])
def test_adapters_of_feed_forward_layers(name, dropact):
    """GELU must neither be applied before an adapter adds its part, nor be left to it."""
    torch.manual_seed(0)
    layer = FeedForward(CONFIG.replace(dropout=0.0, dropact=dropact))
    setattr(layer, name, Adapter(getattr(layer, name)))
    hidden = torch.randn(2, 5, CONFIG.d_model)
    inner = F.gelu(layer.linear_1(hidden), approximate="tanh")
    expected = layer.layer_norm(hidden + layer.linear_2(inner))
    torch.testing.assert_close(layer.train()(hidden), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.eval()(hidden), expected)
    with torch.no_grad():
        torch.testing.assert_close(layer(hidden), expected)


def test_pruned_layers_can_be_trained():
    """Pruning computes the weights in a hook before each call."""
    torch.manual_seed(0)
    layer = FeedForward(CONFIG.replace(dropout=0.0, dropact=0.0)).train()
    for linear in (layer.linear_1, layer.linear_2):
        prune.random_unstructured(linear, "weight", amount=0.5)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(2):
        layer(torch.randn(2, 5, CONFIG.d_model)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


class HiddenStates(FunnelEncoder):
    """A trace takes no output that is None."""

    def forward(self, *inputs):
        return super().forward(*inputs).last_hidden_state


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("is_training", [False, True])
def test_a_trace_with_gradients_can_be_saved(is_training):
    """``torch.jit.trace`` outside ``torch.no_grad``, checked by PyTorch without gradients."""
    torch.manual_seed(0)
    model = HiddenStates(CONFIG.replace(dropout=0.2, dropatt=0.2)).train(is_training)
    inputs = (make_ids(2, 12), torch.ones(2, 12), make_ids(2, 12) % 2)
    traced = torch.jit.trace(model, inputs, check_trace=not is_training)
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    loaded = torch.jit.load(file)
    hidden = loaded(*inputs)
    assert hidden.requires_grad
    if is_training:
        assert (hidden - loaded(*inputs)).abs().max() > 1e-3
    else:
        torch.testing.assert_close(hidden, model(*inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("init", ["truncated_normal", "normal", "uniform", "pytorch"])
def test_initial_weights(init):
    torch.manual_seed(0)
    config = CONFIG.replace(init=init, init_std=0.02, init_range=0.1, d_inner=512, vocab_size=4000)
    layer = FunnelForMaskedLM(config).funnel.encoder.layers[0]
    kernel, attention = layer.ffn.linear_1.weight, layer.attention
    for zero in (layer.ffn.linear_1.bias, attention.k_bias, attention.out_proj.bias):
        assert zero.abs().max() == 0
    assert (layer.ffn.layer_norm.weight == 1).all()
    fans = (1 / (config.d_model + config.d_inner)) ** 0.5
    wanted = {"truncated_normal": 0.02 * 0.88, "normal": 0.02, "uniform": 0.2 / 12**0.5}
    assert kernel.std().item() == pytest.approx(wanted.get(init, fans), rel=0.05)
    if init == "truncated_normal":
        assert kernel.abs().max() <= 0.04
    if init == "pytorch":
        assert attention.r_kernel.min() >= 0 and attention.r_kernel.max() <= 0.1
    assert attention.r_w_bias.abs().max() > 0


def test_absolute_positions_end(model):
    baseline = FunnelEncoder(CONFIG.replace(rel_attn_type="null", decoder_size="0"))
    baseline(torch.zeros(1, 512, dtype=torch.long))
    with pytest.raises(DataError, match="513 tokens.*at most 512"):
        baseline(torch.zeros(1, 513, dtype=torch.long))


@pytest.mark.parametrize(("ids", "named"), [([1, 40], "from 1 to 40"), ([-1, 3], "from -1 to 3")])
def test_ids_of_another_vocabulary(model, ids, named):
    message = f"{named}: the model's vocabulary has the ids 0 to 39"
    for network in (model, FunnelEncoder(CONFIG), FunnelForMaskedLM(CONFIG)):
        with pytest.raises(DataError, match=message):
            network(torch.tensor([ids]))


@pytest.mark.parametrize("wrong", [3, -1])
def test_labels_that_are_no_class(wrong):
    ids = make_ids(2, 8)
    weighted = FunnelForSequenceClassification(CONFIG, 3)
    weighted.label_loss = LabelLoss(weights=(1.0, 2.0, 3.0))
    for network in (weighted, FunnelForSequenceClassification(CONFIG, 3)):
        with pytest.raises(DataError, match=rf"labels from {min(wrong, 1)} to {max(wrong, 1)}: .*"):
            network(ids, labels=torch.tensor([1, wrong]))
    labels = torch.tensor([[-100] * 7 + [wrong]] * 2)
    with pytest.raises(DataError, match=f"from {wrong} to {wrong}: the model has the classes 0 to"):
        FunnelForTokenClassification(CONFIG, 3)(ids, labels=labels)
    with pytest.raises(DataError, match="the model has the classes 0 to 2"):
        choices = ids[:, None].expand(-1, 3, -1)
        FunnelForMultipleChoice(CONFIG)(choices, labels=torch.tensor([1, wrong]))


def test_hidden_states_are_the_embedding_and_every_executed_layer():
    model = FunnelModel(CONFIG.replace(block_size="1x2_2")).eval()
    out = model(make_ids(2, 8), output_hidden_states=True)
    lengths = [state.shape[1] for state in out.hidden_states]
    assert lengths == [8, 8, 8, 4, 4]
    torch.testing.assert_close(out.hidden_states[-1], out.encoder_last_hidden_state)
    assert model(make_ids(2, 8)).hidden_states is None
