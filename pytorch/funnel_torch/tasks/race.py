"""RACE for the fine-tuner: what the chosen options are worth (Lai et al. 2017)."""

from __future__ import annotations

from funnel.features.race import RaceFeatures
from funnel.tasks.race import race_accuracy
from funnel_torch.data.batching import ExampleSource
from funnel_torch.tasks.classification import mean_cross_entropy
from funnel_torch.tasks.finetune import Evaluation, Outputs


def evaluation_of(
    features: RaceFeatures, source: ExampleSource, split: str, batch_size: int
) -> Evaluation:
    """The evaluation of a split: accuracy of all, of each level, then the loss."""

    def score(outputs: Outputs) -> dict[str, float]:
        logits = outputs["logits"]
        accuracy = race_accuracy(logits.argmax(axis=1), features.labels, features.is_high)
        return accuracy | {"loss": mean_cross_entropy(logits, features.labels)}

    return Evaluation(split, source, score, batch_size=batch_size)
