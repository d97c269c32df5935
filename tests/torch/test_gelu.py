"""GELU in pieces, against PyTorch's kernels in float64."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch
import torch.nn.functional as F

from funnel_torch.kernels import gelu as module
from funnel_torch.kernels.choices import choices
from funnel_torch.kernels.config import KernelSettings
from funnel_torch.kernels.gelu import gelu, gelu_with_gradient

# More than two pieces of one thread, the last of them short.
SHAPE = (3, 5, 9001)
MEANT = {"approximate": "tanh"}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PIECE", 2**15)


def _random(scale: float = 3.0) -> torch.Tensor:
    x = scale * torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    x.view(-1)[:6] = torch.tensor([0.0, -0.0, 1e-30, -30.0, 30.0, 1e5])
    return x


@pytest.mark.parametrize("kind", ["parts", "native"])
def test_values_and_gradients(kind: str) -> None:
    choices.configure(KernelSettings(gelu=kind))
    x, gradient = _random(), _random(1.0)
    wide = x.double()
    with torch.no_grad():
        torch.testing.assert_close(gelu(x), F.gelu(wide, **MEANT).float(), rtol=2e-6, atol=1e-6)
        value, slope = gelu_with_gradient(x, gradient.clone())
    torch.testing.assert_close(value, gelu(x))
    expected = torch.ops.aten.gelu_backward(gradient.double(), wide, **MEANT).float()
    torch.testing.assert_close(slope, expected, rtol=1e-5, atol=1e-4)
    assert slope.view(-1)[4:6].tolist() == gradient.view(-1)[4:6].tolist()


def test_gradients_where_a_cube_is_infinite() -> None:
    choices.configure(KernelSettings(gelu="parts"))
    x = torch.tensor([3e12, -3e12, 1e13, -1e13, 1e19, -1e19]).repeat(2**14)
    with torch.no_grad():
        value, slope = gelu_with_gradient(x, torch.full_like(x, 2.0))
    assert slope[:6].tolist() == [2, 0, 2, 0, 2, 0]
    torch.testing.assert_close(value, x.clamp(min=0))


def test_in_place_only_where_allowed() -> None:
    choices.configure(KernelSettings(gelu="parts"))
    x = _random()
    before = x.clone()
    value = gelu(x)
    assert torch.equal(x, before)
    assert gelu(x, in_place=True) is x and torch.equal(x, value)


def test_where_the_kernels_of_pytorch_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("evaluated in pieces")

    choices.configure(KernelSettings(gelu="parts"))
    monkeypatch.setattr(module, "_in_parts", fail)
    monkeypatch.setattr(module, "_evaluate_with_gradient", fail)
    large = _random()
    with pytest.raises(AssertionError, match="in pieces"):
        gelu(large)
    small = large[0, 0]
    for x in (small, large.double(), large.bfloat16(), large[..., ::2], large[:0]):
        torch.testing.assert_close(gelu(x), F.gelu(x, **MEANT))
        torch.testing.assert_close(gelu_with_gradient(x, x)[0], F.gelu(x, **MEANT))
    with torch.enable_grad():
        wanted = large.clone().requires_grad_()
        gelu(wanted).sum().backward()
        # With a gradient to be differentiated again.
        result = gelu_with_gradient(wanted, torch.ones_like(large))[1]
    assert wanted.grad is not None and result.requires_grad
    traced = torch.jit.trace(gelu, (large,), check_trace=False)
    torch.testing.assert_close(traced(large), F.gelu(large, **MEANT))


def test_auto_measures_once(monkeypatch: pytest.MonkeyPatch) -> None:
    choices.configure(KernelSettings())
    choices.clear()
    x = _random()
    gelu(x)
    name = f"GELU, {torch.get_num_threads()} thread(s)"
    assert choices.made()[name] in ("parts", "native")
    monkeypatch.setattr(module, "_samples", lambda: pytest.fail("measured again"))
    gelu(x)
