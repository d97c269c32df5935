"""Attention of a training step on a CPU, against automatic differentiation of the same formulas."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor

from funnel.config.model import ModelConfig
from funnel_torch import FunnelEncoder
from funnel_torch.kernels import shifted_attention as kernel
from funnel_torch.kernels.choices import choices
from funnel_torch.kernels.config import KernelSettings
from funnel_torch.models import attention as module

CONFIG = ModelConfig(
    vocab_size=50, d_embed=8, d_model=8, n_head=2, d_head=4, d_inner=12, block_size="2_2",
    decoder_size="0", dropout=0.0, dropatt=0.0, dropact=0.0,
)  # fmt: skip


def _inputs(length: int, segments: str, padding: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(50, (3, length), generator=generator)
    mask = torch.ones(3, length)
    mask[1, length - padding :] = 0
    types = torch.zeros(3, length, dtype=torch.long)
    types[:, 0] = 2
    if segments == "two":
        types[:, length // 2 :] = 1
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    if not padding:
        del inputs["attention_mask"]
    return {name: x for name, x in inputs.items() if name != "token_type_ids" or segments != "none"}


def _run(config: ModelConfig, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return hidden states and all gradients of a training step, in float64."""
    torch.manual_seed(1)
    model = FunnelEncoder(config).double().train()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)
    hidden = model(**inputs).last_hidden_state
    torch.manual_seed(2)
    hidden.mul(torch.randn_like(hidden)).sum().backward()
    found = {name: weight.grad for name, weight in model.named_parameters()}
    return {"hidden": hidden.detach()} | {k: x for k, x in found.items() if x is not None}


@pytest.mark.parametrize("chunk", ["3", "100"])
@pytest.mark.parametrize("segments", ["none", "one", "two"])
@pytest.mark.parametrize(
    ("length", "padding", "changes"),
    [
        (11, 0, {}),
        (8, 3, {}),
        (9, 2, {"separate_cls": False}),
        (13, 4, {"pool_q_only": False}),
        (10, 0, {"dropatt": 0.3, "dropout": 0.2}),
        (12, 5, {"dropatt": 0.1, "separate_cls": False}),
    ],
)
def test_values_and_gradients(
    monkeypatch: pytest.MonkeyPatch, length: int, padding: int, changes: dict, segments: str,
    chunk: str,
) -> None:  # fmt: skip
    choices.configure(KernelSettings(attention_chunk=chunk))
    config, inputs = CONFIG.replace(**changes), _inputs(length, segments, padding)
    calls = []
    original = kernel.shifted_attention
    monkeypatch.setattr(
        module, "shifted_attention", lambda *x: calls.append(len(x[1].chunks)) or original(*x)
    )
    ours = _run(config, inputs)
    assert len(calls) == 4 and (max(calls) > 1) == (chunk == "3")
    monkeypatch.setattr(module, "writes_gradients", lambda x: False)
    expected = _run(config, inputs)
    assert len(calls) == 4
    for name, value in expected.items():
        # In a single segment the other segment's vector adds a constant to the scores of a row.
        torch.testing.assert_close(
            ours[name], value, rtol=1e-9, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert ours.keys() == expected.keys()


def test_heads_are_split_into_contiguous_tensors_with_joined_gradients() -> None:
    packed = torch.randn(2, 5, 3 * 2 * 4, requires_grad=True)
    parts = kernel.split_heads(packed, 2, 4)
    views = packed.unflatten(-1, (3, 2, 4)).permute(2, 3, 0, 1, 4).unbind(0)
    assert all(
        part.is_contiguous() and torch.equal(part, view)
        for part, view in zip(parts, views, strict=True)
    )
    weights = [torch.randn_like(part) for part in parts]
    loss = sum((part * weight).sum() for part, weight in zip(parts[:2], weights, strict=False))
    other = sum((view * weight).sum() for view, weight in zip(views[:2], weights, strict=False))
    (ours,), (expected,) = (torch.autograd.grad(x, packed) for x in (loss, other))
    torch.testing.assert_close(ours, expected)
    with torch.no_grad():
        shared = kernel.split_heads(packed, 2, 4)[0]
    assert shared.data_ptr() == packed.data_ptr()


def test_a_gradient_of_the_gradient_is_refused() -> None:
    torch.manual_seed(0)
    model = FunnelEncoder(CONFIG).train()
    weight = (
        model.blocks[0][0].attention.r_kernel
        if hasattr(model, "blocks")
        else next(model.parameters())
    )
    hidden = model(**_inputs(8, "one", 0)).last_hidden_state
    (gradient,) = torch.autograd.grad(hidden.square().sum(), weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
