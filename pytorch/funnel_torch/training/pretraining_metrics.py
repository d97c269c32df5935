"""What is measured in pretraining, as sums that add up over batches and processes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Discriminator logits are counted in this many bins from -SCORE_LIMIT to SCORE_LIMIT.
SCORE_BINS = 4000
SCORE_LIMIT = 20.0


class PretrainingSums(NamedTuple):
    """Sums over a batch, scalars without gradient, which add up over batches and processes.

    The discriminator's are 0 in MLM. It is right about a token if the sign of its logit is.

    Attributes:
        targets: masked tokens to predict.
        mlm_loss: their cross entropy.
        mlm_correct: those whose likeliest token is the original.
        tokens: tokens the discriminator judged, all but padding.
        disc_loss: their sigmoid cross entropy, without ``disc_coeff``.
        disc_correct: those it was right about.
        replaced: those that differ from the original.
        flagged: those it took for replaced.
        caught: those that both are replaced and were taken for it.
    """

    targets: Tensor
    mlm_loss: Tensor
    mlm_correct: Tensor
    tokens: Tensor
    disc_loss: Tensor
    disc_correct: Tensor
    replaced: Tensor
    flagged: Tensor
    caught: Tensor

    def vector(self) -> Tensor:
        """All of them, float64 [9], to add up; ``PretrainingSums(*vector)`` is the way back."""
        return torch.stack([value.double() for value in self])


def score_histogram(disc_logits: Tensor, is_replaced: Tensor, pad_mask: Tensor) -> Tensor:
    """How often the discriminator gave which score: original, replaced tokens [2, SCORE_BINS].

    Bins are of equal width in the negated logit, float64; they add up over batches and processes.
    All three arguments are [B, T], the first two of a model's output, the last of its batch.
    """
    real = ~pad_mask.bool()
    share = (SCORE_LIMIT - disc_logits[real].double()) / (2 * SCORE_LIMIT)
    bins = (share * SCORE_BINS).long().clamp(0, SCORE_BINS - 1)
    index = bins + SCORE_BINS * is_replaced[real]
    return torch.bincount(index, minlength=2 * SCORE_BINS).view(2, SCORE_BINS).double()


def area_under_curve(histogram: Tensor) -> float:
    """Probability that a replaced token looks worse than an original one, 0..1; NaN without both.

    ``histogram`` as :func:`score_histogram` makes it; two tokens in one bin count one half.
    """
    original, replaced = histogram.double()
    better = original.cumsum(0) - original / 2
    pairs = original.sum() * replaced.sum()
    return float((replaced * better).sum() / pairs)


def summarize(sums: PretrainingSums, histogram: Tensor | None = None) -> dict[str, float]:
    """Means over everything that was summed up: losses, and fractions from 0 to 1.

    ``mlm_loss`` comes first. ELECTRA adds the discriminator's loss, accuracy, precision and recall
    (of finding replaced tokens), with ``histogram`` its AUC, and the share of replaced tokens.
    """
    total = PretrainingSums(*(float(value) for value in sums))
    metrics = {
        "mlm_loss": _ratio(total.mlm_loss, total.targets),
        "mlm_accuracy": _ratio(total.mlm_correct, total.targets),
    }
    if not total.tokens:
        return metrics
    metrics |= {
        "disc_loss": _ratio(total.disc_loss, total.tokens),
        "disc_accuracy": _ratio(total.disc_correct, total.tokens),
        "disc_precision": _ratio(total.caught, total.flagged),
        "disc_recall": _ratio(total.caught, total.replaced),
        "replaced_rate": _ratio(total.replaced, total.tokens),
    }
    return metrics if histogram is None else metrics | {"disc_auc": area_under_curve(histogram)}


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
