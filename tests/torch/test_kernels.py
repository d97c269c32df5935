"""Linear layers, dropout and attention kernels against PyTorch's own functions."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from funnel import ModelConfig
from funnel_torch import FunnelModel
from funnel_torch.kernels import dropout as dropout_module
from funnel_torch.kernels import linear as kernel
from funnel_torch.kernels import query_chunks
from funnel_torch.kernels.attention import attention
from funnel_torch.kernels.dropout import Dropout, add_dropout, dropout, sample_keep_mask
from funnel_torch.kernels.linear import Linear, gelu_linear, linear, linear_gelu


@pytest.fixture(autouse=True)
def _onednn_for_small_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_MIN_MULTIPLY_ADDS", 1)


def _random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("shape", [(7, 24), (2, 5, 24), (1, 24), (2, 3, 4, 24)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_linear_and_its_gradients(shape: tuple[int, ...], has_bias: bool) -> None:
    results = []
    for function in (linear, F.linear):
        x, weight = _random(*shape).requires_grad_(), _random(10, 24, seed=1).requires_grad_()
        bias = _random(10, seed=2).requires_grad_() if has_bias else None
        out = function(x, weight, bias)
        inputs = [x, weight] + ([bias] if has_bias else [])
        results.append((out, *torch.autograd.grad(out.square().sum(), inputs)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_linear_takes_views() -> None:
    x, weight = _random(24, 6).t()[:, ::2], _random(24, 20).t()[:, :12]
    torch.testing.assert_close(linear(x, weight), x @ weight.t(), rtol=1e-5, atol=1e-5)


def test_gradients_of_linear_have_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    # oneDNN has no float64, which the check by differences needs.
    monkeypatch.setattr(kernel, "_onednn_linear", F.linear)
    x, weight, bias = _random(4, 6).double(), _random(3, 6).double(), _random(3).double()
    inputs = [tensor.requires_grad_() for tensor in (x, weight, bias)]
    assert gradgradcheck(kernel._Linear.apply, inputs)


def test_linear_falls_back_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("oneDNN was called")

    monkeypatch.setattr(kernel, "_onednn_linear", fail)
    x, weight = _random(3, 8), _random(4, 8)
    wide, wide_weight = x.double(), weight.double()
    torch.testing.assert_close(linear(wide, wide_weight), wide @ wide_weight.t())
    assert linear(x.bfloat16(), weight.bfloat16()).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16
    with torch.backends.mkldnn.flags(enabled=False):
        torch.testing.assert_close(linear(x, weight), x @ weight.t())
    assert linear(x[:0], weight).shape == (0, 4)
    with pytest.raises(AssertionError, match="oneDNN was called"):
        linear(x, weight)
    monkeypatch.setattr(kernel, "_MIN_MULTIPLY_ADDS", 3 * 8 * 4 + 1)
    torch.testing.assert_close(linear(x, weight), x @ weight.t())


def test_gelu_fused_and_not() -> None:
    layer, x = Linear(16, 32), _random(5, 16)
    expected = F.gelu(F.linear(x, layer.weight, layer.bias), approximate="tanh")
    torch.testing.assert_close(layer(x, gelu=True), expected, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(layer(x, gelu=True), expected, rtol=1e-5, atol=1e-6)
        wide, weight = x.double(), layer.weight.double()
        expected = F.gelu(wide @ weight.t(), approximate="tanh")
        torch.testing.assert_close(linear_gelu(wide, weight), expected)


def test_gelu_recomputed_in_the_backward_pass() -> None:
    x, weight, bias = _random(2, 3, 8), _random(5, 8, seed=1), _random(5, seed=2)
    inputs = [tensor.requires_grad_() for tensor in (x, weight, bias)]
    out = gelu_linear(*inputs)
    expected = F.linear(F.gelu(x, approximate="tanh"), weight, bias)
    torch.testing.assert_close(out, expected)
    pairs = (torch.autograd.grad(y.square().sum(), inputs) for y in (out, expected))
    for ours, theirs in zip(*pairs, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_recomputed_gelu_can_be_differentiated_twice_and_frozen() -> None:
    inputs = [_random(*shape, seed=n).double() for n, shape in enumerate([(3, 4), (2, 4), (2,)])]
    assert torch.autograd.gradgradcheck(gelu_linear, [tensor.requires_grad_() for tensor in inputs])
    x, weight, bias = (tensor.detach() for tensor in inputs)
    gelu_linear(x.requires_grad_(), weight, bias).sum().backward()
    assert x.grad is not None and weight.grad is None


@pytest.mark.parametrize("rate", [0.1, 0.5, 1 / 65536])
def test_dropout_keeps_the_right_share(rate: float) -> None:
    torch.manual_seed(3)
    keep = sample_keep_mask((401, 1003), rate)
    count = keep.numel()
    dropped = count - int(keep.sum())
    assert abs(dropped - count * rate) < 5 * (count * rate) ** 0.5 + 1
    # Neighbours, which may come from one random word, are independent.
    pairs = ((keep[:, 1:] == 0) & (keep[:, :-1] == 0)).double().mean()
    assert abs(pairs - rate**2) < 5 * rate / count**0.5 + 1e-5


def test_dropout_does_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dropout_module, "_BLOCK", 64)
    masks = []
    before = torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        torch.manual_seed(6)
        masks.append(sample_keep_mask((7, 101), 0.3))
    torch.set_num_threads(before)
    assert torch.equal(*masks) and masks[0].shape == (7, 101)
    # Every block has numbers of its own.
    assert not torch.equal(masks[0].view(-1)[:64], masks[0].view(-1)[64:128])


FORKED = """
import os, torch
from funnel_torch.kernels import dropout
torch.set_num_threads(2)
dropout._BLOCK = 64
dropout.sample_keep_mask((500,), 0.3)
child = os.fork()
if not child:
    dropout.sample_keep_mask((500,), 0.3)
    os._exit(7)
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_dropout_in_a_forked_process() -> None:
    command = [sys.executable, "-c", FORKED]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run(command, env=environment, timeout=60, check=False).returncode == 7


def test_add_dropout_adds_what_dropout_returns() -> None:
    x, residual = _random(9, 30).requires_grad_(), _random(9, 30, seed=1).requires_grad_()
    for rate in (0.0, 0.3):
        torch.manual_seed(7)
        expected = residual + dropout(x, rate)
        torch.manual_seed(7)
        found = add_dropout(residual, x, rate)
        torch.testing.assert_close(found, expected)
        pairs = (torch.autograd.grad(y.square().sum(), (x, residual)) for y in (found, expected))
        for ours, theirs in zip(*pairs, strict=True):
            torch.testing.assert_close(ours, theirs)
    # Of another dtype, as under autocast.
    assert add_dropout(residual, x.bfloat16(), 0.3).dtype == torch.float32
    twice = torch.autograd.gradgradcheck(
        lambda a, b: torch.manual_seed(8) and add_dropout(a, b, 0.3).sin(),
        (x.detach().double().requires_grad_(), residual.detach().double().requires_grad_()),
    )
    assert twice


def test_dropout_scales_and_its_gradient_has_the_same_zeros() -> None:
    x = (_random(50, 30).abs() + 1).requires_grad_()
    y = dropout(x, 0.25)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert gradient.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    torch.testing.assert_close(y, x * gradient)
    assert dropout(x, 0.0) is not None and torch.equal(dropout(x, 0.0), x)
    assert not dropout(x, 1.0).any()
    assert torch.equal(Dropout(0.5).eval()(x), x)


def test_dropout_follows_the_seed() -> None:
    first, second = (torch.manual_seed(4) and dropout(torch.ones(99), 0.3) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, dropout(torch.ones(99), 0.3))


def _heads(*, bias_shape: tuple[int, ...], dtype: torch.dtype) -> list[torch.Tensor]:
    shapes = ((2, 3, 4, 5), (2, 3, 6, 5), (2, 3, 6, 5), bias_shape)
    return [_random(*shape, seed=k, dtype=dtype).requires_grad_() for k, shape in enumerate(shapes)]


@pytest.mark.parametrize("bias_shape", [(2, 3, 4, 6), (3, 1, 6), ()])
def test_attention_and_its_gradients(bias_shape: tuple[int, ...]) -> None:
    inputs = _heads(bias_shape=bias_shape, dtype=torch.float64)
    q, k, v, bias = inputs
    expected = F.scaled_dot_product_attention(q, k, v, bias, scale=0.3)
    torch.testing.assert_close(attention(q, k, v, bias, 0.3, 0.0), expected)
    assert gradcheck(lambda *x: attention(*x, 0.3, 0.0), inputs)


def test_attention_dropout_falls_on_the_weights() -> None:
    q, k, v, bias = _heads(bias_shape=(2, 3, 4, 6), dtype=torch.float64)
    torch.manual_seed(5)
    keep = sample_keep_mask((2, 3, 4, 6), 0.4)
    weights = torch.softmax(q @ k.transpose(-1, -2) * 0.3 + bias, -1) * keep / 0.6
    expected = weights @ v
    torch.manual_seed(5)
    ours = attention(q, k, v, bias, 0.3, 0.4)
    torch.testing.assert_close(ours, expected)
    inputs = (q, k, v, bias)
    gradients = zip(
        torch.autograd.grad(ours.square().sum(), inputs),
        torch.autograd.grad(expected.square().sum(), inputs),
        strict=True,
    )
    for mine, reference in gradients:
        torch.testing.assert_close(mine, reference)


@pytest.mark.parametrize("attention_type", ["rel_shift", "factorized"])
@pytest.mark.parametrize("length", [21, 16])
def test_queries_in_chunks(
    attention_type: str, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ModelConfig(
        block_size="2_1", decoder_size="1", d_model=16, d_embed=16, n_head=2, d_head=8,
        d_inner=32, vocab_size=50, dropout=0.0, dropatt=0.0, rel_attn_type=attention_type,
        init_std=0.3,
    )  # fmt: skip
    model = FunnelModel(config).double()
    ids = torch.randint(50, (3, length), generator=torch.Generator().manual_seed(0))
    segments = torch.full_like(ids, 1).tril(2)
    mask = torch.ones(3, length)
    mask[1, -5:] = 0

    def run() -> tuple[torch.Tensor, ...]:
        out = model(ids, mask, segments).last_hidden_state
        gradients = torch.autograd.grad(out.pow(3).sum(), list(model.parameters()))
        with torch.no_grad():
            return out, model.eval()(ids, mask, segments).last_hidden_state, *gradients

    unchunked = run()
    for size in (1, 4, 7):
        monkeypatch.setattr(query_chunks, "_DEFAULT", size)
        for ours, expected in zip(run(), unchunked, strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-9)
