"""Losses of the heads."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from funnel.config.heads import MULTI_LABEL, REGRESSION
from funnel.config.training.losses import PLAIN_LOSS, LabelLoss
from funnel.utils.errors import DataError

# Label of a position that is left out of a loss; the default of torch's cross entropy.
IGNORED = -100


def cross_entropy(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """Return torch's cross entropy of logits [n, C] for class ids [n].

    Raises:
        DataError: on a CPU: a label is none of the C classes.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return F.cross_entropy(logits, labels, **options)
    try:
        return F.cross_entropy(logits, labels, **options)
    except IndexError:
        # Only now: a check before would make a GPU wait for every batch.
        known = labels[labels != IGNORED]
        raise DataError(
            f"labels from {int(known.min())} to {int(known.max())}: the model has the classes 0 to "
            f"{logits.shape[-1] - 1}"
        ) from None


def token_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross entropy over the labels that are not :data:`IGNORED`.

    It is 0, not NaN, if all are: a batch may have nothing to predict.

    Args:
        logits: [B, T, C].
        labels: class ids [B, T].
    """
    flat = labels.flatten()
    total = cross_entropy(logits.flatten(0, 1), flat, ignore_index=IGNORED, reduction="sum")
    return total / (flat != IGNORED).sum().clamp(min=1)


def sequence_loss(
    logits: Tensor, labels: Tensor, problem_type: str, config: LabelLoss = PLAIN_LOSS
) -> Tensor:
    """Return the mean loss of classification or regression, a scalar.

    Args:
        logits: [B, C].
        labels: class ids [B]; numbers [B] or [B, C] in a regression; 0 or 1 for every label
            [B, C] where several can hold.
        problem_type: regression (squared error), or which cross entropy.
        config: weights and smoothing of labels (:class:`~funnel.config.training.losses.LabelLoss`).
    """
    if problem_type == REGRESSION:
        return F.mse_loss(logits.reshape(labels.shape), labels.float())
    weights = logits.new_tensor(config.weights) if config.weights else None
    share = config.smoothing
    if problem_type == MULTI_LABEL:
        targets = labels.float() * (1.0 - share) + share / 2
        return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights)
    if weights is None:
        return cross_entropy(logits, labels, label_smoothing=share)
    # torch's own weights divide by their sum, which depends on how a step is divided.
    losses = cross_entropy(logits, labels, label_smoothing=share, reduction="none")
    return (losses * weights[labels]).mean()
