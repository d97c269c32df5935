"""Evaluation on a CPU computes the first position alone, with the same result."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from funnel.config.geometry import bucket_length
from funnel.config.model import ModelConfig
from funnel_torch.kernels.attention import attention
from funnel_torch.models import modeling
from funnel_torch.models.attention_inputs import pool_hidden
from funnel_torch.models.first_position import needed_length
from funnel_torch.models.heads import FunnelForMultipleChoice, FunnelForSequenceClassification

CONFIG = ModelConfig.from_dict(
    {
        "block_size": "1_1_1", "decoder_size": "0", "d_model": 16, "d_embed": 8, "n_head": 2,
        "d_head": 8, "d_inner": 32, "vocab_size": 50, "dropout": 0.1, "dropatt": 0.1,
        "dropact": 0.0, "ff_activation": "gelu", "pooling_type": "mean", "pooling_size": 2,
        "pool_q_only": True, "separate_cls": True, "truncate_seq": True,
        "rel_attn_type": "rel_shift", "init": "normal", "init_std": 0.2, "init_range": 0.1,
    }
)  # fmt: skip
VARIANTS = {
    "default": {},
    "factorized": {"rel_attn_type": "factorized"},
    "absolute": {"rel_attn_type": "null"},
    "max": {"pooling_type": "max"},
    "windows of 3": {"pooling_size": 3},
    "no separate [CLS]": {"separate_cls": False},
    "no truncation": {"truncate_seq": False},
    "shared layers": {"block_size": "1x3_1x2"},
    "one block": {"block_size": "2"},
    "keys pooled": {"pool_q_only": False},
}


def batch(longest: int, length: int) -> dict[str, torch.Tensor]:
    """Return pairs of texts padded to ``length``, the longest of ``longest`` tokens."""
    lengths = torch.tensor([longest, max(1, longest - 3), max(1, longest // 2)])
    segments = (torch.arange(length) >= longest // 2).long().repeat(3, 1)
    segments[:, 0] = 2
    return {
        "input_ids": torch.randint(5, 50, (3, length)),
        "attention_mask": (torch.arange(length) < lengths[:, None]).long(),
        "token_type_ids": segments,
    }


@pytest.mark.parametrize("name", VARIANTS)
def test_same_logits(name: str) -> None:
    torch.manual_seed(0)
    config = CONFIG.replace(**VARIANTS[name])
    model = FunnelForSequenceClassification(config, num_labels=3).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    for longest in (2, 3, 5, 6, 9, 13, 18, 31, 32):
        inputs = batch(longest, bucket_length(longest, 32, config))
        expected = model(**inputs).logits.detach()
        with torch.inference_mode():
            assert torch.allclose(model(**inputs).logits, expected, atol=1e-5), longest
            del inputs["token_type_ids"]
            found = model(**inputs).logits
        assert torch.allclose(found, model(**inputs).logits, atol=1e-5), longest


def test_needed_length() -> None:
    mask = torch.ones(2, 20)
    assert needed_length(CONFIG, 20, None) is None
    assert needed_length(CONFIG, 20, mask) is None  # pooling drops real tokens
    mask[:, 17:] = 0
    assert needed_length(CONFIG, 20, mask) == 17
    mask[1, 17] = 1
    assert needed_length(CONFIG, 20, mask) is None
    assert needed_length(CONFIG.replace(truncate_seq=False), 20, mask) == 20
    assert needed_length(CONFIG.replace(block_size="2"), 20, mask) == 20


def test_last_layer_computes_one_query(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    model = FunnelForMultipleChoice(CONFIG).eval()
    for layer in model.funnel.encoder.layers:
        layer.register_forward_hook(
            lambda _, inputs, output: seen.append((inputs[1].shape[1], output.shape[1]))
        )
    inputs = {name: value[:, None] for name, value in batch(14, 20).items()}
    with torch.no_grad():
        first = model(**inputs).logits
        assert seen == [(17, 17), (17, 9), (9, 1)]
        monkeypatch.setattr(modeling, "reads_no_gradient", lambda x: False)
        assert torch.allclose(model(**inputs).logits, first, atol=1e-5)
    assert seen[3:] == [(20, 20), (20, 10), (10, 5)]


def test_hidden_states_are_complete() -> None:
    model = modeling.FunnelEncoder(CONFIG).eval()
    with torch.no_grad():
        output = model(**batch(14, 20), output_hidden_states=True, first_only=True)
    assert [state.shape[1] for state in output.hidden_states] == [20, 20, 10, 5]
    assert output.last_hidden_state.shape[1] == 5


@pytest.mark.parametrize("shape", [(2, 3, 5, 8), (1, 1, 1, 8), (2, 1, 7, 8)])
def test_short_attention(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    keys = (*shape[:2], 9, shape[3])
    q, k, v = torch.randn(shape), torch.randn(keys), torch.randn(keys)
    for bias in (torch.randn(*shape[:3], 9), torch.randn(shape[1], 1, 9)):
        bias[..., -1] = -1e6
        expected = torch.softmax(0.3 * q @ k.transpose(-1, -2) + bias, -1) @ v
        with torch.no_grad():
            assert torch.allclose(attention(q, k, v, bias, 0.3, 0.0), expected, atol=1e-5)


def test_pooling_of_an_even_length() -> None:
    hidden = torch.randn(2, 10, 4)  # [CLS], 8 positions in windows, one that is dropped
    with torch.no_grad():
        found = pool_hidden(hidden, CONFIG, "mean")
    assert torch.equal(found, pool_hidden(hidden, CONFIG, "mean"))
