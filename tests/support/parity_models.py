"""Our models filled with given tensors, and comparisons of outputs and gradients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from funnel_torch.models.weight_mapping import export_tensors, import_tensors

TOLERANCE = 1e-5


def filled(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Return ``model`` in evaluation mode with the weights ``tensors``, by TensorFlow names."""
    arrays = {name: tensor.detach().float().numpy() for name, tensor in tensors.items()}
    report = import_tensors(model, arrays)
    problems = report.missing + report.unexpected + report.mismatched
    assert not problems, problems
    return model.eval()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Return the gradients under TensorFlow names; they replace the model's weights."""
    for parameter in model.parameters():
        gradient = parameter.grad
        parameter.data = torch.zeros_like(parameter) if gradient is None else gradient
    return {name: torch.from_numpy(np.array(a)) for name, a in export_tensors(model).items()}


def leaf_gradients(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the gradients of the reference's leaves, zero where a term is left out."""
    return {
        name: torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        for name, tensor in tensors.items()
    }


def assert_close(
    actual: Tensor, expected: Tensor, label: str = "", tolerance: float = TOLERANCE
) -> None:
    """Assert equal shapes, and differences within ``tolerance`` on the scale of ``expected``."""
    assert actual.shape == expected.shape, (label, actual.shape, expected.shape)
    expected = expected.detach().double()
    difference = (actual.detach().double() - expected).abs().max().item()
    scale = max(1.0, expected.abs().max().item())
    assert difference <= tolerance * scale, f"{label}: off by {difference:.2e} (scale {scale:.2g})"


def assert_all_close(
    actual: Iterable[Tensor], expected: Iterable[Tensor], label: str, tolerance: float = TOLERANCE
) -> None:
    """Assert pairwise closeness and the same number of tensors."""
    for index, (ours, theirs) in enumerate(zip(actual, expected, strict=True)):
        assert_close(ours, theirs, f"{label}[{index}]", tolerance)


def assert_same_tensors(
    actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float = TOLERANCE
) -> None:
    """Assert closeness by name and the same names."""
    assert sorted(actual) == sorted(expected)
    for name, tensor in expected.items():
        assert_close(actual[name], tensor, name, tolerance)


def direction(shape: torch.Size, seed: int = 1) -> Tensor:
    """Return fixed random weights of an output; the weighted sum is a loss. float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64) / shape.numel() ** 0.5
