"""Metrics of pretraining, computed from sums that can be added over batches and processes."""

from __future__ import annotations

import torch
from torch import Tensor

from funnel_torch.kernels.float64 import to_float64
from funnel_torch.models.electra import PretrainingSums

# Histogram of discriminator logits: number of bins, from -SCORE_LIMIT to SCORE_LIMIT.
SCORE_BINS = 4000
SCORE_LIMIT = 20.0


def score_histogram(disc_logits: Tensor, is_replaced: Tensor, attention_mask: Tensor) -> Tensor:
    """Return histograms of the scores of original and of replaced tokens, float64 [2, SCORE_BINS].

    The score is the negated logit, in bins of equal width. Histograms can be added over batches and
    processes.

    Args:
        disc_logits: [B, T], see :class:`~funnel_torch.models.electra.PretrainingOutput`.
        is_replaced: bool [B, T].
        attention_mask: [B, T], 1 for a token, 0 for padding.
    """
    real = attention_mask.bool()
    share = (SCORE_LIMIT - to_float64(disc_logits[real])) / (2 * SCORE_LIMIT)
    bins = (share * SCORE_BINS).long().clamp(0, SCORE_BINS - 1)
    index = bins + SCORE_BINS * is_replaced[real].to(bins.device)
    return to_float64(torch.bincount(index, minlength=2 * SCORE_BINS).view(2, SCORE_BINS))


def area_under_curve(histogram: Tensor) -> float:
    """Return the area under the ROC curve of a :func:`score_histogram`, 0 to 1.

    It is the probability that a replaced token has a higher score than an original one; tokens in
    the same bin count one half. NaN if there are no original or no replaced tokens.
    """
    original, replaced = to_float64(histogram)
    # Original tokens with a lower score than those of each bin.
    lower = original.cumsum(0) - original / 2
    pairs = original.sum() * replaced.sum()
    return float((replaced * lower).sum() / pairs)


def summarize(sums: PretrainingSums, histogram: Tensor | None = None) -> dict[str, float]:
    """Return the metrics of everything that was summed: mean losses, and fractions from 0 to 1.

    ``mlm_loss`` comes first. For ELECTRA they include loss, accuracy, precision and recall of the
    discriminator (of finding replaced tokens), its AUC if a ``histogram`` is given, and the
    fraction of replaced tokens.
    """
    total = {name: float(value) for name, value in sums._asdict().items()}
    metrics = {
        "mlm_loss": _ratio(total["mlm_loss"], total["targets"]),
        "mlm_accuracy": _ratio(total["mlm_correct"], total["targets"]),
    }
    if not total["tokens"]:
        return metrics
    metrics |= {
        "disc_loss": _ratio(total["disc_loss"], total["tokens"]),
        "disc_accuracy": _ratio(total["disc_correct"], total["tokens"]),
        "disc_precision": _ratio(total["true_positives"], total["predicted_positives"]),
        "disc_recall": _ratio(total["true_positives"], total["replaced"]),
        "replaced_rate": _ratio(total["replaced"], total["tokens"]),
    }
    return metrics if histogram is None else metrics | {"disc_auc": area_under_curve(histogram)}


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else 0.0
