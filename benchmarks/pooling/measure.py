"""What happens in every block of a Funnel while it is pretrained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from funnel_torch.models.modeling import EncoderOutput, FunnelModel, upsample

Norms = dict[str, dict[str, float]]


def block_parameters(model: FunnelModel) -> dict[str, list[nn.Parameter]]:
    """Return the weights of each block of the encoder, and of the decoder."""
    found, start = {}, 0
    for number, block in enumerate(model.config.blocks, start=1):
        layers = model.encoder.layers[start : start + block.params]
        found[f"block {number}"] = list(layers.parameters())
        start += block.params
    return found | {"decoder": list(model.decoder.parameters())}


def norm(tensors: list[Tensor]) -> float:
    """Return the Euclidean norm of all tensors together."""
    return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors))))


def measure_update(blocks: Mapping[str, list[nn.Parameter]], step: Callable[[], None]) -> Norms:
    """Make an optimizer step; return by block the norms of gradient and update over the weights'.

    The gradients must be there; ``step`` updates the weights.
    """
    before = {name: [p.detach().clone() for p in weights] for name, weights in blocks.items()}
    gradients = {
        name: norm([p.grad for p in weights if p.grad is not None])
        for name, weights in blocks.items()
    }
    step()
    norms = {}
    for name, weights in blocks.items():
        moved = [new.detach() - old for new, old in zip(weights, before[name], strict=True)]
        size = norm(before[name])
        norms[name] = {"gradient": gradients[name] / size, "update": norm(moved) / size}
    return norms


def describe_states(hidden: Tensor) -> dict[str, float]:
    """Describe the outputs of a block, [B, T, D] for B unpadded texts, without [CLS].

    Returns:
        ``texts``: mean cosine of the same position of different texts; ``positions``: that of
        different positions of a text; ``rank``: participation ratio of the eigenvalues of the
        covariance, between 1 and D.
    """
    hidden = hidden[:, 1:].double()
    unit = nn.functional.normalize(hidden, dim=-1)
    vectors = hidden.flatten(0, 1)
    eigenvalues = torch.linalg.svdvals(vectors - vectors.mean(0)).square()
    rank = eigenvalues.sum().square() / eigenvalues.square().sum()
    return {
        "texts": _mean_cosine(unit, dim=0),
        "positions": _mean_cosine(unit, dim=1),
        "rank": float(rank),
    }


def _mean_cosine(unit: Tensor, dim: int) -> float:
    """Return the mean product of two different unit vectors along an axis."""
    n = unit.shape[dim]
    squared = unit.sum(dim).square().sum(-1)  # the n products with themselves included
    return float(((squared - n) / (n * (n - 1))).mean())


@dataclass
class Observation:
    """States of a forward pass: the output of each block, and the input of the decoder."""

    blocks: dict[str, Tensor] = field(default_factory=dict)
    encoded: EncoderOutput | None = None


@contextmanager
def observed(model: FunnelModel) -> Iterator[Observation]:
    """Collect the states of the last forward pass."""
    seen, handles, last = Observation(), [], -1

    def keep_block(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda module, inputs, output: seen.blocks.__setitem__(name, output)

    def keep_encoded(module: nn.Module, inputs: tuple[EncoderOutput]) -> None:
        seen.encoded = inputs[0]

    for number, block in enumerate(model.config.blocks, start=1):
        last += block.params
        layer = model.encoder.layers[last]
        handles.append(layer.register_forward_hook(keep_block(f"block {number}")))
    handles.append(model.decoder.register_forward_pre_hook(keep_encoded))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def without_pooled_states(model: FunnelModel) -> Iterator[None]:
    """Give the decoder the mean of the last block's outputs at every position."""

    def replace(module: nn.Module, inputs: tuple[EncoderOutput]) -> tuple[EncoderOutput]:
        hidden = inputs[0].hidden
        return (inputs[0]._replace(hidden=hidden.mean((0, 1), keepdim=True).expand_as(hidden)),)

    handle = model.decoder.register_forward_pre_hook(replace)
    try:
        yield
    finally:
        handle.remove()


def skip_share(model: FunnelModel, encoded: EncoderOutput) -> float:
    """Return the skip connection's share of the variance of the decoder's two summands."""
    skip = encoded.skip_connection
    deep = upsample(encoded.hidden, skip.shape[1], model.config)
    variances = [states.flatten(0, 1).var(0).sum() for states in (skip, deep)]
    return float(variances[0] / (variances[0] + variances[1]))
