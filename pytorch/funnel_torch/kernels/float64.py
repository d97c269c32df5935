"""Sums in float64, also from devices without such numbers (Apple's GPUs)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def has_float64(device: torch.device) -> bool:
    """Return whether tensors on a device can be float64."""
    return device.type != "mps"


def float64_device(device: torch.device) -> torch.device:
    """Return where the float64 sums of a device are kept: there, else on the CPU."""
    return device if has_float64(device) else torch.device("cpu")


def to_float64(values: Tensor) -> Tensor:
    """Return values as float64, on :func:`float64_device`."""
    return values.to(float64_device(values.device)).double()


def stack_float64(values: Sequence[Tensor]) -> Tensor:
    """Return scalars of any type as one float64 vector, on :func:`float64_device`.

    Without float64 they pass through float32, in one transfer: counts are exact up to 2^24.
    """
    if has_float64(values[0].device):
        return torch.stack([value.double() for value in values])
    return to_float64(torch.stack([value.float() for value in values]))
