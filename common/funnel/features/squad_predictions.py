"""What a model says about windows -> answers in words, and the three files of SQuAD predictions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from funnel.features.squad import SquadWindows
from funnel.tasks.squad import SquadData
from funnel.utils.errors import RunError
from funnel.utils.files import atomic_write_json

NO_CANDIDATE = -1e6  # the score of an answer where no span may be one

PREDICTIONS_FILE = "predictions.json"
NBEST_FILE = "nbest_predictions.json"
NULL_ODDS_FILE = "null_odds.json"


class BeamOutputs(NamedTuple):
    """The S best starts of each of W windows with E ends each, and the score of "no answer".

    Attributes:
        start_log_probs, start_index: [W, S]; positions in the window.
        end_log_probs, end_index: [W, S * E], all ends of the first start first; [W, E] for a model
            whose ends do not depend on the start.
        cls_logits: [W], high where there is no answer.
    """

    start_log_probs: np.ndarray
    start_index: np.ndarray
    end_log_probs: np.ndarray
    end_index: np.ndarray
    cls_logits: np.ndarray


@dataclass(frozen=True)
class AnswerSettings:
    """How answers are chosen.

    Attributes:
        n_best_size: answers kept per question.
        max_answer_length: longest answer in tokens.
        conditional_end: every start of the beam has ends of its own.
        use_answer_class: ``cls_logits`` is an output of its own, not the score of [CLS] as start.
    """

    n_best_size: int = 5
    max_answer_length: int = 64
    conditional_end: bool = True
    use_answer_class: bool = True


@dataclass(frozen=True)
class SquadAnswers:
    """Answers by question id.

    Attributes:
        predictions: the best non-empty answer; empty only where no span can be one.
        nbest: the best answers, best first: ``text``, ``probability`` (they sum to 1),
            ``start_log_prob`` and ``end_log_prob``.
        null_odds: the higher, the likelier is it that the question has no answer.
    """

    predictions: dict[str, str]
    nbest: dict[str, list[dict[str, Any]]]
    null_odds: dict[str, float]

    def apply_null_threshold(self, threshold: float) -> dict[str, str]:
        """Return the predictions, empty where the null odds exceed ``threshold``."""
        return {
            name: "" if self.null_odds[name] > threshold else text
            for name, text in self.predictions.items()
        }


class _Spans(NamedTuple):
    """Candidates of all windows, best first within each question."""

    question: np.ndarray
    window: np.ndarray
    first: np.ndarray  # token of the paragraph
    last: np.ndarray
    start_log_prob: np.ndarray
    end_log_prob: np.ndarray


def find_answers(
    data: SquadData,
    windows: SquadWindows,
    beams: BeamOutputs,
    settings: AnswerSettings = AnswerSettings(),
) -> SquadAnswers:
    """Return the answers to every question that has windows.

    A span counts if its start has more context in this window than in any other, its end is not
    before its start, and it lies in the paragraph and is not too long. Spans are ordered by the sum
    of their log-probabilities (of equals the earlier window and start first); the first
    ``n_best_size`` different texts are kept, cut from the paragraph as it was written.

    Raises:
        ValueError: the arrays do not fit together.
        RunError: the model's scores are not numbers.
    """
    spans = _candidates(windows, beams, settings)
    null = np.full(len(data.questions), np.inf)
    np.minimum.at(null, windows.question, beams.cls_logits.astype(np.float64))
    answered = np.unique(windows.question)
    begins = np.searchsorted(spans.question, answered, "left").tolist()
    ends = np.searchsorted(spans.question, answered, "right").tolist()
    answers = SquadAnswers({}, {}, {})
    for index, begin, end in zip(answered.tolist(), begins, ends, strict=True):
        question = data.questions[index]
        text = data.paragraphs[question.paragraph]
        part = _Spans(*(column[begin:end] for column in spans))
        nbest = _nbest(part, windows, question.paragraph, text, settings.n_best_size)
        best = nbest[0]
        odds = float(null[index])
        if not settings.use_answer_class:
            odds -= best["start_log_prob"] + best["end_log_prob"]
        answers.predictions[question.id] = best["text"]
        answers.nbest[question.id] = nbest
        answers.null_odds[question.id] = odds
    return answers


def _candidates(windows: SquadWindows, beams: BeamOutputs, settings: AnswerSettings) -> _Spans:
    count, starts_kept = beams.start_index.shape
    shape = (count, starts_kept, -1) if settings.conditional_end else (count, 1, -1)
    end_index, end_scores = beams.end_index.reshape(shape), beams.end_log_probs.reshape(shape)
    if len(windows) != count or beams.cls_logits.shape != (count,):
        raise ValueError(f"scores of {count} windows for {len(windows)}")
    for scores in (beams.start_log_probs, beams.end_log_probs, beams.cls_logits):
        if np.isnan(scores).any():
            raise RunError("the model's scores are not numbers (NaN): its training has diverged")
    begin, end, stop = (
        column[:, None, None]
        for column in (windows.context_begin, windows.context_end, windows.paragraph_end)
    )
    starts = beams.start_index[:, :, None]
    is_possible = (starts >= begin) & (starts < end) & (end_index >= starts) & (end_index < stop)
    is_possible &= end_index - starts < settings.max_answer_length
    window, start_rank, end_rank = np.nonzero(is_possible)
    end_row = start_rank if settings.conditional_end else np.zeros_like(start_rank)
    start_log_prob = beams.start_log_probs[window, start_rank].astype(np.float64)
    end_log_prob = end_scores[window, end_row, end_rank].astype(np.float64)
    shift = (windows.first_token - windows.paragraph_begin)[window]
    spans = _Spans(
        question=windows.question[window],
        window=window,
        first=beams.start_index[window, start_rank] + shift,
        last=end_index[window, end_row, end_rank] + shift,
        start_log_prob=start_log_prob,
        end_log_prob=end_log_prob,
    )
    order = np.lexsort((-(start_log_prob + end_log_prob), spans.question))  # a stable sort
    return _Spans(*(column[order] for column in spans))


def _nbest(
    spans: _Spans, windows: SquadWindows, paragraph: int, text: str, size: int
) -> list[dict[str, Any]]:
    """Return the first ``size`` different non-empty texts of one question's spans."""
    kept: dict[str, tuple[float, float]] = {}
    for i in range(len(spans.first)):
        if len(kept) == size:
            break
        place = windows.paragraphs.characters(paragraph, int(spans.first[i]), int(spans.last[i]))
        answer = text[slice(*place)].strip()
        if answer and answer not in kept:
            kept[answer] = float(spans.start_log_prob[i]), float(spans.end_log_prob[i])
    kept = kept or {"": (NO_CANDIDATE, NO_CANDIDATE)}
    sums = np.array([sum(pair) for pair in kept.values()])
    probabilities = np.exp(sums - sums.max())
    probabilities /= probabilities.sum()
    return [
        {"text": answer, "probability": share, "start_log_prob": start, "end_log_prob": end}
        for (answer, (start, end)), share in zip(kept.items(), probabilities.tolist(), strict=True)
    ]


def combine_answers(members: Sequence[SquadAnswers], n_best_size: int = 5) -> SquadAnswers:
    """Return what several models say together: the mean of their probabilities and null odds.

    A text that is not among a model's best has probability 0 there. The n-best of the result hold
    ``text`` and ``probability`` alone.

    Raises:
        ValueError: no model, or models that answered different questions.
    """
    if not members or any(m.predictions.keys() != members[0].predictions.keys() for m in members):
        raise ValueError("an ensemble needs models that answered the same questions")
    combined = SquadAnswers({}, {}, {})
    for name in members[0].predictions:
        shares: dict[str, float] = {}
        for entry in (entry for member in members for entry in member.nbest[name]):
            share = entry["probability"] / len(members)
            shares[entry["text"]] = shares.get(entry["text"], 0.0) + share
        if len(shares) > 1:
            shares.pop("", None)  # from a model that found no span at all
        best = sorted(shares.items(), key=lambda item: -item[1])[:n_best_size]
        combined.predictions[name] = best[0][0]
        combined.nbest[name] = [{"text": text, "probability": share} for text, share in best]
        odds = [member.null_odds[name] for member in members]
        combined.null_odds[name] = sum(odds) / len(odds)
    return combined


def write_answers(answers: SquadAnswers, directory: str | os.PathLike[str]) -> None:
    """Write ``predictions.json``, ``nbest_predictions.json`` and ``null_odds.json``.

    The first and the last are what the official evaluation programs read.

    Raises:
        FunnelError: a file cannot be written.
    """
    contents: Mapping[str, Any] = {
        PREDICTIONS_FILE: answers.predictions,
        NBEST_FILE: answers.nbest,
        NULL_ODDS_FILE: answers.null_odds,
    }
    for name, content in contents.items():
        atomic_write_json(Path(directory) / name, content)
