"""torch.compile makes one graph of the model, torch.export one for any batch size and length."""

import pytest

torch = pytest.importorskip("torch")

from torch.export import Dim

from funnel.config.model import ModelConfig
from funnel_torch import FunnelModel
from parity_models import assert_close, assert_same_tensors, direction


def build_model(**changes):
    settings = {
        "vocab_size": 50, "d_model": 16, "d_embed": 16, "n_head": 2, "d_head": 8, "d_inner": 32,
        "block_size": "1_1", "decoder_size": "1", "dropout": 0.0, "dropatt": 0.0,
    }  # fmt: skip
    torch.manual_seed(0)
    return FunnelModel(ModelConfig(**(settings | changes))).eval()


def build_batch(size, length):
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(50, (size, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[-1, length // 2 :] = 0
    segments = torch.randint(2, ids.shape, generator=generator)
    segments[:, 0] = 2
    return ids, mask, segments


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "changes"),
    [
        ("aot_eager", {}),
        ("eager", {"rel_attn_type": "factorized"}),
        ("eager", {"rel_attn_type": "null", "separate_cls": False, "pool_q_only": False}),
    ],
    ids=["rel_shift", "factorized", "null"],
)
def test_compiles_as_one_graph(backend, changes):
    model = build_model(**changes)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    batch = build_batch(2, 13)
    expected = model(*batch).last_hidden_state
    weighting = direction(expected.shape).float()
    (expected * weighting).sum().backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    output = compiled(*batch).last_hidden_state
    (output * weighting).sum().backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert_close(output, expected)
    assert_same_tensors(found, wanted)


@pytest.mark.slow
def test_export_with_dynamic_batch_and_length():
    """Lengths are multiples of the total stride: other lengths have windows of other shapes."""
    model = build_model()
    sizes = {0: Dim("batch", min=1, max=64), 1: 2 * Dim("half", min=2, max=256)}
    program = torch.export.export(model, build_batch(3, 16), dynamic_shapes=(sizes,) * 3)
    exported = program.module()
    for size, length in ((3, 16), (1, 8), (5, 64), (2, 22)):
        batch = build_batch(size, length)
        assert_close(exported(*batch).last_hidden_state, model(*batch).last_hidden_state)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["rel_shift", "factorized"])
def test_export_of_one_shape_takes_odd_lengths(form):
    model = build_model(rel_attn_type=form)
    batch = build_batch(2, 11)
    exported = torch.export.export(model, batch).module()
    assert_close(exported(*batch).last_hidden_state, model(*batch).last_hidden_state)
