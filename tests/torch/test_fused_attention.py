"""The fused attention kernels, run by Triton's interpreter on the CPU, against float64.

The interpreter cannot multiply bfloat16, so half precision is tested with float16.
"""

import itertools
import json
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings
from hypothesis import strategies as st

import repo_layout
from funnel.config import ModelConfig
from funnel.utils.errors import ConfigError
from funnel_torch import FunnelModel
from funnel_torch.kernels import fused_attention as fused
from funnel_torch.models import attention
from funnel_torch.models.attention_inputs import MASKED_SCORE

pytestmark = [
    pytest.mark.skipif(not fused.has_triton(), reason="Triton is not installed"),
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") != "1", reason="kernels run on the GPU in this session"
    ),
]
FLOATS = ("q", "k", "v", "position_query", "position_keys", "bonus", "cls_column")


@dataclass(frozen=True)
class Layout:
    """Shape and kind of one call."""

    heads: int = 1
    batch: int = 2
    queries: int = 7
    keys: int = 7
    ratio: int = 1
    has_segments: bool = True
    separate_cls: bool = True
    padding: int = 0
    size: int = 16
    dropout: float = 0.0


def make_inputs(layout: Layout, dtype=torch.float32, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    n, b, tq, tk, d = layout.heads, layout.batch, layout.queries, layout.keys, layout.size
    values = {
        "q": normal(n, b, tq, d),
        "k": normal(n, b, tk, d),
        # Another layout in memory than [N, B, T, d].
        "v": normal(b, tk, n, d).permute(2, 0, 1, 3),
        "position_query": normal(n, b, tq, d),
        "position_keys": normal(n, layout.ratio * tq + tk, d) * 0.3,
    }
    if layout.has_segments:
        values["bonus"] = normal(n, b, tq)
        values["cls_column"] = normal(n, b, tq) if layout.separate_cls else None
        for name, length in (("query_segments", tq), ("key_segments", tk)):
            values[name] = torch.randint(3, (b, length), generator=generator)
    if layout.padding:
        values["key_bias"] = torch.zeros(b, tk)
        values["key_bias"][0, tk - layout.padding :] = MASKED_SCORE
    return values


def make_settings(layout: Layout) -> fused.FusedSettings:
    offset = layout.ratio * (layout.queries - 1)
    scale = layout.size**-0.5
    return fused.FusedSettings(scale, layout.ratio, offset, layout.separate_cls, layout.dropout)


def reference(x: fused.FusedInputs, s: fused.FusedSettings, keep=None):
    """The definition, with every matrix in memory."""
    i = torch.arange(x.q.shape[2])[:, None]
    j = torch.arange(x.k.shape[2])[None]
    t = (j - s.ratio * i + s.offset).expand(*x.q.shape[:2], -1, -1)
    bias = (x.position_query @ x.position_keys[:, None].transpose(-1, -2)).gather(-1, t)
    if x.bonus is not None:
        rows, columns = x.query_segments[:, :, None], x.key_segments[:, None]
        same = (rows == columns) | (rows == 2) | (columns == 2)
        bias = bias + x.bonus[..., None] * same
    if s.separate_cls:
        column = torch.zeros_like(bias[..., 0]) if x.cls_column is None else x.cls_column
        bias = torch.cat([column[..., None], bias[..., 1:]], -1)
    if x.key_bias is not None:
        bias = bias + x.key_bias[:, None]
    weights = torch.softmax(x.q @ x.k.transpose(-1, -2) * s.scale + bias, -1)
    if keep is not None:
        weights = weights * keep / (1 - s.dropout)
    return weights @ x.v


def compare(layout: Layout, dtype=torch.float32, tolerance=2e-5, keep=None, seed=0):
    """Compare the result and every gradient with float64."""
    values = make_inputs(layout, dtype)
    s = make_settings(layout)
    given_values, exact = {}, {}
    for name, value in values.items():
        is_float = name in FLOATS and value is not None
        given_values[name] = value.detach().requires_grad_() if is_float else value
        exact[name] = value.detach().double().requires_grad_() if is_float else value
    torch.manual_seed(seed)
    out = fused.fused_attention(fused.FusedInputs(**given_values), s)
    want = reference(fused.FusedInputs(**exact), s, keep)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    out.backward(grad)
    want.backward(grad.double())
    assert out.dtype == dtype
    torch.testing.assert_close(
        out.double(), want, rtol=0, atol=tolerance * float(want.detach().abs().max())
    )
    for name in FLOATS:
        if values.get(name) is None:
            continue
        expected, found = exact[name].grad, given_values[name].grad
        scale = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(
            found.double(), expected, rtol=0, atol=tolerance * scale, msg=lambda m, n=name: n + m
        )


@pytest.mark.parametrize(
    "layout",
    [
        Layout(heads=2, padding=3),
        Layout(queries=1, keys=1, has_segments=False, separate_cls=False),
        Layout(queries=70, keys=70),
        Layout(queries=33, keys=65, ratio=2, padding=20),
        Layout(batch=1, queries=130, keys=130, has_segments=False, separate_cls=False),
        Layout(batch=1, queries=64, keys=64, separate_cls=False),
        Layout(batch=1, queries=32, keys=64, ratio=2, has_segments=False, size=64),
    ],
    ids=str,
)
def test_values_and_gradients(layout):
    compare(layout)


def test_a_sequence_of_padding():
    """Scores near -1e6 have a resolution of 1 / 16 in single precision, whoever computes them."""
    compare(Layout(queries=5, keys=5, padding=5), tolerance=0.1)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    st.integers(1, 80), st.integers(1, 2), st.booleans(), st.booleans(), st.integers(0, 40),
    st.integers(0, 1),
)  # fmt: skip
@pytest.mark.slow
def test_any_layout(queries, ratio, has_segments, separate_cls, padding, odd):
    keys = max(1, queries * ratio - odd * (ratio - 1))
    layout = Layout(1, 1, queries, keys, ratio, has_segments, separate_cls, min(padding, keys - 1))
    compare(layout)


@pytest.mark.slow
def test_half_precision():
    compare(Layout(queries=70, keys=70, padding=9), torch.float16, 3e-3)


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [1, 2])
def test_dropout(ratio):
    """All passes drop the same weights, at the given rate, and the kept ones are scaled."""
    layout = Layout(2, 2, 40, 40 * ratio, ratio, size=128, dropout=0.25)
    keep = sampled_mask(layout, seed=3)
    assert abs(float(keep.float().mean()) - 0.75) < 0.02
    pairs = keep.flatten(0, 1)
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(pairs))
    compare(layout, keep=keep, seed=3)
    assert not torch.equal(keep, sampled_mask(layout, seed=4))


def sampled_mask(layout: Layout, seed: int):
    """Read the dropout mask: equal weights of values that are unit vectors."""
    values = make_inputs(layout)
    for name in FLOATS:
        if values[name] is not None:
            values[name] = torch.zeros_like(values[name])
    unit = torch.eye(layout.keys, layout.size)
    values["v"] = unit.expand(layout.heads, layout.batch, -1, -1)
    torch.manual_seed(seed)
    out = fused.fused_attention(fused.FusedInputs(**values), make_settings(layout))
    return out[..., : layout.keys] > 0


@pytest.mark.slow
def test_repeats_exactly():
    layout = Layout(2, 3, 40, 40)
    grads = []
    for _ in range(2):
        values = make_inputs(layout)
        for name in FLOATS:
            values[name] = values[name].detach().requires_grad_()
        fused.fused_attention(fused.FusedInputs(**values), make_settings(layout)).sum().backward()
        grads.append([values[name].grad for name in FLOATS])
    for a, b in zip(*grads, strict=True):
        assert torch.equal(a, b)


def test_the_batch_is_divided_into_shares(monkeypatch):
    monkeypatch.setattr(fused, "_POSITION_PROGRAMS", 6)
    compare(Layout(heads=1, batch=5, queries=20, keys=20))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("blocks", "changes"),
    [
        ("1_1", {"pool_q_only": True}),
        ("1_1_1", {"pool_q_only": False}),
        ("1_1", {"separate_cls": False}),
        ("1_1x2", {"truncate_seq": False}),
    ],
)
def test_a_whole_model(monkeypatch, blocks, changes):
    """The model computes the same with both kernels: outputs and gradients of all weights."""
    torch.manual_seed(0)
    config = ModelConfig(40, 32, 32, 2, 16, 64, blocks, decoder_size="1", dropatt=0.0, dropout=0.0,
                         dropact=0.0, **changes)  # fmt: skip
    model = FunnelModel(config).train()
    ids = torch.randint(40, (2, 37))
    segments = torch.tensor([2] + [0] * 20 + [1] * 16).expand(2, -1)
    mask = torch.ones(2, 37)
    mask[1, 29:] = 0
    results = []
    for reason in ("for the test", None):
        monkeypatch.setattr(attention, "why_not_fused", lambda q, ratio, why=reason: why)
        model.zero_grad()
        out = model(ids, mask, segments).last_hidden_state
        out.square().sum().backward()
        results.append((out.detach(), {n: p.grad for n, p in model.named_parameters()}))
    (out_a, grads_a), (out_b, grads_b) = results
    torch.testing.assert_close(out_b, out_a, rtol=0, atol=2e-5)
    for name, grad in grads_a.items():
        tolerance = 1e-4 * float(grad.abs().max()) + 1e-4
        torch.testing.assert_close(grads_b[name], grad, rtol=0, atol=tolerance)


def test_choice():
    model = FunnelModel(ModelConfig(40, 32, 32, 2, 16, 64, "1"))
    ids = torch.ones(1, 5, dtype=torch.long)
    model(ids)
    attention.choose_attention(model, "fused")
    with pytest.raises(ConfigError, match="fused attention: the device is cpu; choose auto or"):
        model(ids)
    attention.choose_attention(model, "sdpa")
    model(ids)
    with pytest.raises(ConfigError, match="choose from auto, fused, sdpa"):
        attention.choose_attention(model, "flash")


def test_no_matrix_of_scores(monkeypatch):
    """Nothing of the size of the scores is saved for the backward pass."""
    monkeypatch.setattr(attention, "why_not_fused", lambda q, ratio: None)
    config = ModelConfig(40, 32, 32, 2, 16, 64, "1", dropatt=0.0, dropout=0.0, dropact=0.0)
    model, length = FunnelModel(config), 150
    ids = torch.ones(1, length, dtype=torch.long)
    saved = []

    def save(x):
        saved.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(save, lambda x: x):
        model(ids, token_type_ids=torch.zeros_like(ids))
    assert max(saved) < length * length


@pytest.mark.slow
def test_compiles_without_spilling(tmp_path):
    """The kernels compile for sm_80 and sm_90 without a GPU and fit into registers."""
    script = repo_layout.ROOT / "benchmarks" / "fused_compilation.py"
    command = [sys.executable, str(script), "--quick", f"--output_dir={tmp_path}"]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "fused_compilation.json").read_text())["rows"]
    assert len(rows) == 16
    assert {row["spilled"] for row in rows} == {0}
    assert max(row["shared"] for row in rows) <= 99 * 1024
