"""Losses that several heads share."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

# Label of a position that is left out of a loss; the default of torch's cross entropy.
IGNORED = -100


def token_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross entropy over the labels that are not :data:`IGNORED`.

    It is 0, not NaN, if all are: a batch may have nothing to predict.

    Args:
        logits: [B, T, C].
        labels: class ids [B, T].
    """
    flat = labels.flatten()
    total = F.cross_entropy(logits.flatten(0, 1), flat, ignore_index=IGNORED, reduction="sum")
    return total / (flat != IGNORED).sum().clamp(min=1)
