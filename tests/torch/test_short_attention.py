"""Attention over few keys on a CPU: either implementation, by choice, with the same values."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from funnel import ModelConfig
from funnel_torch import FunnelForSequenceClassification
from funnel_torch.kernels import choices as choices_module
from funnel_torch.kernels import short_attention
from funnel_torch.kernels.attention import attention
from funnel_torch.kernels.choices import choices
from funnel_torch.kernels.config import KernelSettings
from funnel_torch.models import attention_inputs
from funnel_torch.models.modeling import FunnelEncoder

CONFIG = ModelConfig(
    block_size="2_1_1", decoder_size="0", d_model=16, d_embed=16, n_head=2, d_head=8, d_inner=32,
    vocab_size=50, dropout=0.0, dropatt=0.0, init_std=0.3,
)  # fmt: skip
VARIANTS = {
    "default": {},
    "no separate [CLS]": {"separate_cls": False},
    "keys pooled": {"pool_q_only": False},
    "factorized": {"rel_attn_type": "factorized"},
    "absolute": {"rel_attn_type": "null"},
}


def build(**changes) -> FunnelEncoder:
    torch.manual_seed(0)
    model = FunnelEncoder(CONFIG.replace(**changes)).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return model


def batches() -> list[dict[str, torch.Tensor]]:
    """Return a pair of texts, single texts, texts without segments, and all without a mask."""
    ids = torch.randint(5, 50, (3, 20))
    mask = (torch.arange(20) < torch.tensor([17, 12, 4])[:, None]).long()
    pairs = (torch.arange(20) >= 7).long().repeat(3, 1)
    pairs[:, 0] = 2
    one = torch.zeros_like(ids)
    one[:, 0] = 2
    with_mask = [{"input_ids": ids, "attention_mask": mask}]
    with_mask += [{**with_mask[0], "token_type_ids": segments} for segments in (pairs, one)]
    without = [{k: v for k, v in x.items() if k != "attention_mask"} for x in with_mask]
    return with_mask + without


@pytest.mark.parametrize("kind", ["parts", "sdpa"])
@pytest.mark.parametrize("name", VARIANTS)
def test_same_states_as_in_training(name, kind):
    choices.configure(KernelSettings("mkl", short_attention=kind))
    model = build(**VARIANTS[name])
    for inputs in batches():
        expected = model(**inputs).last_hidden_state.detach()
        for mode in (torch.no_grad(), torch.inference_mode()):
            with mode:
                found = model(**inputs).last_hidden_state
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_kept_table_follows_its_weights():
    model, inputs = build(), batches()[2]
    for name in ("r_w_bias", "r_r_bias", "r_s_bias", "seg_embed", "r_kernel"):
        with torch.no_grad():
            model(**inputs)
            for layer in model.encoder.layers:
                getattr(layer.attention, name).add_(0.3)
            found = model(**inputs).last_hidden_state
        expected = model(**inputs).last_hidden_state.detach()
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shift", [0.0, 1e3, -1e3])
def test_scores_without_a_common_maximum(shift):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, 5, 8)
    scores = 20 * torch.randn(2, 3, 5, 5) + shift
    scores[..., -1] = -1e6
    expected = torch.softmax(0.3 * q @ k.transpose(-1, -2) + scores, -1) @ v
    found = short_attention.attend_in_parts(q, k, v, scores.clone(), 0.3)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    # What is not a number stays so, in its row alone.
    scores[0, 0, 2, 1] = float("nan")
    found = short_attention.attend_in_parts(q, k, v, scores, 0.3)
    assert found[0, 0, 2].isnan().all() and found.isnan().sum() == 8


def test_the_bias_of_a_caller_stays():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, 5, 8)
    bias = torch.randn(2, 3, 5, 5)
    before = bias.clone()
    with torch.no_grad():
        found = attention(q, k, v, bias, 0.3, 0.0)
        assert torch.equal(bias, before)
        assert torch.equal(attention(q, k, v, bias, 0.3, 0.0, owns_bias=True), found)
    assert not torch.equal(bias, before)


@pytest.mark.parametrize(("seconds", "is_faster"), [((1.0, 0.5), True), ((1.0, 0.99), False)])
def test_the_faster_one_computes(seconds, is_faster, monkeypatch):
    choices.configure(KernelSettings())
    monkeypatch.setattr(choices_module, "_time", lambda runs: list(seconds))
    called = []
    original = short_attention.attend_in_parts
    monkeypatch.setattr(
        "funnel_torch.kernels.attention.attend_in_parts",
        lambda *inputs: called.append(1) or original(*inputs),
    )
    q, k, v = torch.randn(3, 2, 5, 21, 8)
    with torch.no_grad():
        for _ in range(2):
            attention(q, k, v, torch.zeros(2, 5, 21, 21), 0.3, 0.0)
    assert bool(called) == is_faster
    threads = torch.get_num_threads()
    found = {"sdpa", "parts"}.intersection(choices.made().values())
    assert list(choices.made()) == [f"8 x 32 keys, 2 heads of 8, {threads} thread(s)"]
    assert found == {"parts" if is_faster else "sdpa"}


def test_long_rows_and_empty_batches_are_not_measured(monkeypatch):
    choices.configure(KernelSettings())
    monkeypatch.setattr(choices_module, "_time", lambda runs: [2.0, 1.0])
    long = torch.empty(2, 5, 257, 8)
    assert not short_attention.prefers_parts(long, long)
    assert not short_attention.prefers_parts(long[:, :0], long[:, :0])
    assert not choices.made()
    assert short_attention.prefers_parts(long, long[:, :, :256])


def test_samples_are_equal_and_short(monkeypatch):
    runs = short_attention._samples(2, 3, 13, 8)
    torch.testing.assert_close(*(run() for run in runs))
    asked, q = [], torch.empty(4, 512, 25, 32)
    choices.configure(KernelSettings())
    monkeypatch.setattr(short_attention, "_samples", lambda *x: asked.append(x) or [bool, bool])
    short_attention.prefers_parts(q, q)
    ((heads, batch, length, size),) = asked
    assert heads * batch * length**2 * size <= short_attention._SAMPLE_MULTIPLY_ADDS


def test_a_classifier_of_single_texts_needs_no_segment_matrix(monkeypatch):
    model = FunnelForSequenceClassification(CONFIG, num_labels=2).eval()
    pairs, one = batches()[1:3]
    built = []
    original = attention_inputs._same_segment
    monkeypatch.setattr(
        attention_inputs, "_same_segment", lambda *ids: built.append(1) or original(*ids)
    )
    with torch.no_grad():
        model(**one)
        assert not built
        model(**pairs)
        assert built
