"""The FLOPs formula against torch's counter running on the model itself."""

import pytest

torch = pytest.importorskip("torch")

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from funnel.config.model import ModelConfig
from funnel.flops import model_cost
from funnel_torch import FunnelEncoder, FunnelModel


def build_config(**changes):
    settings = {
        "vocab_size": 50, "d_model": 32, "d_embed": 32, "n_head": 4, "d_head": 8, "d_inner": 64,
        "block_size": "2_1x2_1", "decoder_size": "1", "dropout": 0.0, "dropatt": 0.0,
    }  # fmt: skip
    return ModelConfig(**(settings | changes))


def counted(model, batch_size, length, segments):
    ids = torch.zeros(batch_size, length, dtype=torch.long)
    # A training step leaves out the products with the vectors of segments where there is only one.
    pairs = (torch.arange(length) >= length // 2).long().expand_as(ids)
    inputs = (ids, None, pairs if segments else None)
    # In training mode nothing is cached; the counter has no formula for the CPU's fused attention.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.train()(*inputs)
    return counter.get_total_flops()


@pytest.mark.slow
@pytest.mark.parametrize("length", [16, 31, 3])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rel_attn_type": "factorized"},
        {"rel_attn_type": "null"},
        {"pool_q_only": False, "separate_cls": False},
        {"truncate_seq": False, "d_embed": 20, "d_head": 5},
        {"block_size": "2", "decoder_size": "0"},
    ],
    ids=str,
)
@pytest.mark.parametrize("segments", [True, False])
def test_formula_agrees_with_the_counter(length, changes, segments):
    config = build_config(**changes)
    cost = model_cost(config, length, batch_size=3, segments=segments)
    assert counted(FunnelModel(config), 3, length, segments) == pytest.approx(3 * cost.total)
    encoder = counted(FunnelEncoder(config), 3, length, segments)
    assert encoder == pytest.approx(3 * cost.encoder_total)
