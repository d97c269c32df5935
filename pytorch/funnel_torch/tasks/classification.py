"""Classification and regression tasks: features and scores for fine-tuning."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np

from funnel.config.model import ModelConfig
from funnel.features.classification import Features, load_or_build
from funnel.tasks import Task
from funnel.tasks.metrics import compute
from funnel.tasks.predictions import decide as decisions
from funnel.tokenization import Tokenizer
from funnel.utils.errors import ConfigError, DataError
from funnel_torch.data.batching import SequenceSource
from funnel_torch.tasks.config import DataConfig
from funnel_torch.tasks.finetune import Evaluation, Outputs


def load_splits(
    task: Task, splits: Iterable[str], config: DataConfig, tokenizer: Tokenizer
) -> dict[str, Features]:
    """Return the encoded examples of every split, from the cache if that is up to date.

    Raises:
        DataError: a file is missing or malformed; in that case no cache is created.
    """
    splits = list(splits)
    if config.cache_dir and not Path(config.cache_dir).exists():
        for split in splits:
            task.read(config.data_dir, split)
    features = {
        split: load_or_build(
            config.cache_dir or None,
            task,
            split,
            config.data_dir,
            tokenizer,
            config.max_length,
            overwrite=config.overwrite,
            segments=config.segments,
        )
        for split in splits
    }
    for split in ("train", *task.eval_splits):
        if split in features and features[split].labels is None:
            raise DataError(f"{task.path(config.data_dir, split)}: some examples have no label")
    return features


def build_source(
    features: Features, model_config: ModelConfig, config: DataConfig, tokenizer: Tokenizer
) -> SequenceSource:
    """Return encoded examples as a source of batches for a model."""
    return SequenceSource(
        features,
        model_config,
        config.max_length,
        pad_id=tokenizer.special.pad_id,
        segment_pad=config.segments.pad,
        length_step=config.length_step,
    )


def mean_loss(task: Task, logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the training loss of logits [n, num_labels], in float64."""
    if task.is_regression:
        return float(np.mean((logits[:, 0].astype(np.float64) - labels) ** 2))
    if task.is_multi_label:
        scores = logits.astype(np.float64)
        return float(np.mean(np.logaddexp(0.0, scores) - scores * labels))
    return mean_cross_entropy(logits, labels)


def mean_cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean cross entropy of logits [n, C] for class ids [n], in float64."""
    logits = logits.astype(np.float64)
    # log-sum-exp with the maximum subtracted, so that exp cannot overflow.
    highest = logits.max(axis=1)
    log_sum = highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1))
    return float(np.mean(log_sum - logits[np.arange(len(labels)), labels]))


def build_evaluation(task: Task, split: str, source: SequenceSource, batch_size: int) -> Evaluation:
    """Return the evaluation of a labelled split: the metrics of the task, then the loss."""
    labels = source.features.labels
    if labels is None:
        raise ConfigError(f"split {split} of task {task.name} has no labels to score against")
    return Evaluation(split, source, partial(score, task, labels), batch_size=batch_size)


def score(task: Task, labels: np.ndarray, outputs: Outputs) -> dict[str, float]:
    """Return the metrics of the task and the loss for model outputs with ``logits``."""
    logits = outputs["logits"]
    metrics = compute(task, decisions(task, logits), labels)
    return {**metrics, "loss": mean_loss(task, logits, labels)}
