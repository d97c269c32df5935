"""The official SQuAD metrics (Rajpurkar et al. 2016, section 6.1; 2018, section 3), in percent.

Answers are compared after normalization: lower case, no ASCII punctuation, no articles, single
blanks. *Exact* is equality, *F1* is computed over common words; the maximum over the gold answers
counts. For an unanswerable question (2.0) both are 1 for an empty prediction, else 0.
"""

from __future__ import annotations

import logging
import re
import string
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from funnel.tasks.squad import Question, SquadData
from funnel.utils.errors import DataError

logger = logging.getLogger(__name__)

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")


def normalize_answer(text: str) -> str:
    """Return the normalized form in which answers are compared."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _overlap(gold: Sequence[str], words: Sequence[str]) -> float:
    """Return the F1 of two lists of words as multisets."""
    common = sum((Counter(gold) & Counter(words)).values())
    return 2 * common / (len(gold) + len(words)) if common else 0.0


def _compare_v1(golds: Sequence[str], prediction: str) -> tuple[float, float]:
    """Return exact match and F1 of one prediction, 0 to 1."""
    found = normalize_answer(prediction)
    wanted = {normalize_answer(gold) for gold in golds}
    f1 = max(_overlap(gold.split(), found.split()) for gold in wanted)
    return float(found in wanted), f1


def _compare_v2(golds: Sequence[str], prediction: str) -> tuple[float, float]:
    """Return exact match and F1 where answers may be empty.

    An empty answer equals only another empty answer. Gold answers that are empty after
    normalization are ignored, unless there are no others.
    """
    found = normalize_answer(prediction)
    wanted = {normalized for gold in golds if (normalized := normalize_answer(gold))} or {""}
    exact = float(found in wanted)
    if not found or wanted == {""}:
        return exact, exact
    return exact, max(_overlap(gold.split(), found.split()) for gold in wanted)


def evaluate_v1(data: SquadData, predictions: Mapping[str, str]) -> dict[str, float]:
    """Return ``f1`` and ``exact_match`` of SQuAD 1.1 in percent.

    Questions without a prediction are logged and count as wrong.

    Raises:
        DataError: a question has no gold answer.
    """
    rows = array("d")
    for question in data.questions:
        if not question.answers:
            raise DataError(
                f"{data.path}: {question.where} has no answer, which SQuAD 1.1 cannot score; "
                "read it as version v1 to leave such questions out"
            )
        if question.id in predictions:
            rows.extend(_compare_v1(_gold_texts(question), predictions[question.id]))
    columns = np.array(rows).reshape(-1, 2)
    _report_missing(data, len(data.questions) - len(columns))
    exact, f1 = 100.0 * columns.sum(axis=0) / len(data.questions)
    return {"f1": float(f1), "exact_match": float(exact)}


class _Scores(NamedTuple):
    """Raw scores of n questions, before any threshold, all [n]."""

    exact: np.ndarray
    f1: np.ndarray
    has_answer: np.ndarray
    null_odds: np.ndarray


def evaluate_v2(
    data: SquadData,
    predictions: Mapping[str, str],
    null_odds: Mapping[str, float],
    threshold: float | None = None,
) -> dict[str, float]:
    """Return the metrics of SQuAD 2.0.

    A prediction is replaced by "no answer" if its null odds exceed a threshold.

    Args:
        data: questions with gold answers.
        predictions: question id -> text; questions without one are logged and left out, as in the
            official program.
        null_odds: question id -> score, high for no answer.
        threshold: threshold of the breakdown; ``None`` uses the one that is best for F1.

    Returns:
        ``best_f1``, ``best_f1_thresh``, ``best_exact``, ``best_exact_thresh``: the maximum over all
        thresholds (percent) and the threshold where it is reached; ``has_ans_exact``,
        ``has_ans_f1``: over questions with an answer, before any threshold, as **fractions**; and
        at ``threshold``: ``exact``, ``f1``, ``total``, then the same with ``HasAns_`` and
        ``NoAns_`` for the two kinds of questions (left out if there are none of a kind).

    Raises:
        DataError: the data has no gold answers, nothing was predicted, or null odds are missing.
    """
    scores = _compute_raw_scores(data, predictions, null_odds)
    best_f1, f1_threshold = _search_threshold(scores.f1, scores)
    best_exact, exact_threshold = _search_threshold(scores.exact, scores)
    metrics = {
        "best_f1": best_f1,
        "best_f1_thresh": f1_threshold,
        "best_exact": best_exact,
        "best_exact_thresh": exact_threshold,
    }
    if scores.has_answer.any():
        metrics["has_ans_exact"] = float(scores.exact[scores.has_answer].mean())
        metrics["has_ans_f1"] = float(scores.f1[scores.has_answer].mean())
    metrics["threshold"] = f1_threshold if threshold is None else threshold
    return metrics | _breakdown(scores, metrics["threshold"])


def _compute_raw_scores(
    data: SquadData, predictions: Mapping[str, str], null_odds: Mapping[str, float]
) -> _Scores:
    rows = array("d")
    for question in data.questions:
        if question.answers is None:
            raise DataError(f"{data.path}: {question.where}.answers is missing, needed to score")
        if question.id not in predictions:
            continue
        if question.id not in null_odds:
            raise DataError(f"no null odds for question {question.id!r}, which has a prediction")
        exact, f1 = _compare_v2(_gold_texts(question), predictions[question.id])
        rows.extend((exact, f1, bool(question.answers), null_odds[question.id]))
    if not rows:
        raise DataError(f"{data.path}: there is no prediction for any of its questions")
    columns = np.frombuffer(rows).reshape(-1, 4).T
    _report_missing(data, len(data.questions) - columns.shape[1])
    return _Scores(columns[0], columns[1], columns[2].astype(bool), columns[3])


def _gold_texts(question: Question) -> list[str]:
    return [answer.text for answer in question.answers or ()]


def _report_missing(data: SquadData, count: int) -> None:
    if count:
        total = len(data.questions)
        logger.warning("%s: %d of %d questions have no prediction", data.path, count, total)


def _search_threshold(raw: np.ndarray, scores: _Scores) -> tuple[float, float]:
    """Return the best mean score (percent) over all thresholds, and the lowest such threshold.

    Starts below all null odds, where "no answer" is predicted for every question; this scores 0 if
    there is an answer and 1 if there is none. Raising the threshold past the null odds of a
    question replaces that by the raw score of its answer; questions with equal odds change at the
    same time. So one pass over the sorted odds with cumulative gains tries every threshold.
    """
    order = np.argsort(scores.null_odds, kind="stable")
    odds = scores.null_odds[order]
    gain: np.ndarray = (raw - ~scores.has_answer)[order]
    is_last_of_equals = np.append(odds[1:] != odds[:-1], True)
    # When predicting no answer for every question is optimal, the threshold is 0 as in the official
    # program, or lower if that is not below all odds (they are logits, not probabilities).
    lowest = 0.0 if odds[0] > 0 else odds[0] - 1.0
    thresholds = np.append(lowest, odds[is_last_of_equals])
    gains = np.append(0.0, np.cumsum(gain)[is_last_of_equals])
    best = int(np.argmax(gains))
    sum_of_scores = np.count_nonzero(~scores.has_answer) + gains[best]
    return 100.0 * float(sum_of_scores) / len(raw), float(thresholds[best])


def _breakdown(scores: _Scores, threshold: float) -> dict[str, float]:
    """Return exact, F1 and count over all questions, those with and those without answer."""
    is_null = scores.null_odds > threshold
    exact, f1 = (np.where(is_null, ~scores.has_answer, raw) for raw in (scores.exact, scores.f1))
    metrics: dict[str, float] = {}
    groups = {
        "": np.ones_like(scores.has_answer),
        "HasAns_": scores.has_answer,
        "NoAns_": ~scores.has_answer,
    }
    for prefix, chosen in groups.items():
        if chosen.any():
            metrics[f"{prefix}exact"] = 100.0 * float(exact[chosen].mean())
            metrics[f"{prefix}f1"] = 100.0 * float(f1[chosen].mean())
            metrics[f"{prefix}total"] = int(np.count_nonzero(chosen))
    return metrics
