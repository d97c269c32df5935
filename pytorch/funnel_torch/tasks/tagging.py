"""Token classification: batches, predictions of words, and their scores during training."""

from __future__ import annotations

from functools import partial

import numpy as np

from funnel.config.model import ModelConfig
from funnel.features.tagging.windows import TaggingFeatures
from funnel.tasks.tagging.task import TaggingTask
from funnel.utils.errors import ConfigError
from funnel_torch.data.batching import ExampleSource, PaddedSource
from funnel_torch.tasks.classification import mean_cross_entropy
from funnel_torch.tasks.finetune import Evaluation, Outputs


def build_source(
    features: TaggingFeatures, config: ModelConfig, max_length: int, pad_id: int, step: int = 1
) -> PaddedSource:
    """Return the batches of a split; their mean loss is over the tagged words.

    Args:
        features: the windows.
        config: configuration of the model.
        max_length: maximum number of tokens.
        pad_id: token id of padding.
        step: lengths are rounded up to a multiple of it.
    """
    counts = np.diff(features.slots)
    return PaddedSource(features, config, max_length, pad_id, step, target_counts=counts)


def build_evaluation(
    task: TaggingTask,
    features: TaggingFeatures,
    source: ExampleSource,
    split: str,
    batch_size: int,
) -> Evaluation:
    """Return the evaluation of a tagged split: the metrics of the task, then the loss."""
    if features.labels is None:
        raise ConfigError(f"split {split} has no tags to score against")
    return Evaluation(split, source, partial(score, task, features), batch_size=batch_size)


def score(task: TaggingTask, features: TaggingFeatures, outputs: Outputs) -> dict[str, float]:
    """Return the metrics and the mean loss of the words for ``logits`` [n, W, tags] of windows."""
    assert features.labels is not None, "a split is scored against its tags"
    logits = features.by_word(outputs["logits"])
    gold = features.by_sentence(features.labels)
    metrics = task.score(gold, features.by_sentence(logits.argmax(axis=1)))
    return metrics | {"loss": mean_cross_entropy(logits, features.labels)}
