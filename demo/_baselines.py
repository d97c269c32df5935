"""The demo's baselines: the most frequent class, and a bag of words."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from funnel.tasks import CustomTaskConfig, get_task
from funnel.utils.errors import FunnelError


@dataclass(frozen=True)
class Score:
    """Results of a model on one task.

    Attributes:
        accuracy: share of test texts whose label is right.
        train_seconds: time of training, None if there is none.
        predict_seconds: time of prediction per 1,000 texts, None if there is none.
    """

    accuracy: float
    train_seconds: float | None = None
    predict_seconds: float | None = None


def read_texts(data: Path, split: str) -> tuple[list[str], list[str]]:
    """Return texts and label names of a split of the demo task."""
    task = get_task("tsv", custom=CustomTaskConfig()).resolve_labels(data)
    examples = task.load(data, split)
    return [e.text_a for e in examples], [task.labels[e.label] for e in examples]


def compute_accuracy(predictions: Sequence[str], labels: Sequence[str]) -> float:
    """Return the share of equal elements.

    Raises:
        FunnelError: the two differ in length.
    """
    if len(predictions) != len(labels):
        raise FunnelError(f"{len(predictions)} predictions for {len(labels)} test examples")
    return sum(p == t for p, t in zip(predictions, labels, strict=True)) / len(labels)


def majority(data: Path) -> Score:
    """Predict the most frequent training label for every test text."""
    label = Counter(read_texts(data, "train")[1]).most_common(1)[0][0]
    truth = read_texts(data, "test")[1]
    return Score(compute_accuracy([label] * len(truth), truth))


def bag_of_words(data: Path, longest: int = 1) -> Score:
    """Fit logistic regression on tf-idf counts of the training texts; score the test texts.

    Features are the sequences of 1 to ``longest`` words.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    features = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, longest))
    model = make_pipeline(features, LogisticRegression(C=10, max_iter=300))
    start = time.monotonic()
    model.fit(*read_texts(data, "train"))
    fitted = time.monotonic()
    texts, truth = read_texts(data, "test")
    predictions = [str(label) for label in model.predict(texts)]
    per_thousand = 1000 * (time.monotonic() - fitted) / len(texts)
    return Score(compute_accuracy(predictions, truth), fitted - start, per_thousand)
