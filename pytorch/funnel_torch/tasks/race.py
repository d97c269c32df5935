"""RACE: evaluation of the selected options (Lai et al. 2017)."""

from __future__ import annotations

from functools import partial

from funnel.features.race import RaceFeatures
from funnel.tasks.race import race_accuracy
from funnel_torch.data.batching import ExampleSource
from funnel_torch.tasks.classification import mean_cross_entropy
from funnel_torch.tasks.finetune import Evaluation, Outputs


def build_evaluation(
    features: RaceFeatures, source: ExampleSource, split: str, batch_size: int
) -> Evaluation:
    """Return the evaluation of a split: accuracies overall and by level, then the loss."""
    return Evaluation(split, source, partial(score, features), batch_size=batch_size)


def score(features: RaceFeatures, outputs: Outputs) -> dict[str, float]:
    """Return the accuracies and the loss for model outputs with ``logits`` [n, options]."""
    logits = outputs["logits"]
    accuracy = race_accuracy(logits.argmax(axis=1), features.labels, features.is_high)
    return accuracy | {"loss": mean_cross_entropy(logits, features.labels)}
