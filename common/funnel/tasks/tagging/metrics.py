"""Scores of tagged sentences: precision, recall and F1 of entities, and accuracy of tags.

They equal those of ``seqeval``: by default entities are read leniently, as CoNLL's evaluation
program does; strictly, only those that are complete in the scheme count. Counts are over all types
(micro average). A quotient of zero by zero is 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from funnel.tasks.tagging.schemes import find_entities, find_strict_entities

Sentences = Sequence[Sequence[str]]


def entity_scores(gold: Sentences, predicted: Sentences, scheme: str = "") -> dict[str, float]:
    """Return ``precision``, ``recall`` and ``f1`` of the entities, as fractions.

    Args:
        gold, predicted: the tags of every sentence.
        scheme: count only entities that are complete in this scheme; empty: read leniently.

    Raises:
        ValueError: different numbers of sentences or of tags.
    """
    correct, found, wanted = _count(gold, predicted, scheme)
    return _scores(correct.total(), found.total(), wanted.total())


def tag_accuracy(gold: Sentences, predicted: Sentences) -> float:
    """Return the share of words whose tag is right.

    Raises:
        ValueError: different numbers of sentences or of tags, or no word.
    """
    _check_lengths(gold, predicted)
    pairs = [pair for both in zip(gold, predicted, strict=True) for pair in zip(*both, strict=True)]
    if not pairs:
        raise ValueError("no words to score")
    return float(np.mean([one == other for one, other in pairs]))


def _count(
    gold: Sentences, predicted: Sentences, scheme: str
) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """Return the numbers of correct, predicted and gold entities by type."""
    _check_lengths(gold, predicted)
    correct, found, wanted = Counter[str](), Counter[str](), Counter[str]()
    for tags, guesses in zip(gold, predicted, strict=True):
        if scheme:
            ours = set(find_strict_entities(tags, scheme))
            theirs = set(find_strict_entities(guesses, scheme))
        else:
            ours, theirs = set(find_entities(tags)), set(find_entities(guesses))
        correct.update(entity.kind for entity in ours & theirs)
        found.update(entity.kind for entity in theirs)
        wanted.update(entity.kind for entity in ours)
    return correct, found, wanted


def _scores(correct: int, found: int, wanted: int) -> dict[str, float]:
    precision = correct / found if found else 0.0
    recall = correct / wanted if wanted else 0.0
    total = precision + recall
    f1 = 2 * precision * recall / total if total else 0.0
    return {"precision": precision, "recall": recall, "f1": f1}


def _check_lengths(gold: Sentences, predicted: Sentences) -> None:
    if list(map(len, gold)) != list(map(len, predicted)):
        raise ValueError("gold and predicted tags are not those of the same words")
