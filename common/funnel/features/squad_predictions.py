"""Answer texts from model outputs for windows, and the three prediction files of SQuAD."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from funnel.config.squad import AnswerSettings
from funnel.features.squad import SquadWindows
from funnel.formats.json_spool import JsonSpool, write_json_object
from funnel.tasks.squad import SquadData
from funnel.utils.errors import RunError

NO_CANDIDATE = -1e6  # log-probability of the empty answer of a question without valid spans

PREDICTIONS_FILE = "predictions.json"
NBEST_FILE = "nbest_predictions.json"
NULL_ODDS_FILE = "null_odds.json"
LOGITS_FILE = "logits.json"

_WINDOWS_AT_ONCE = 1024  # whose candidates are in memory; a few more, to complete a question


class BeamOutputs(NamedTuple):
    """Beams of W windows: the S best starts with E ends each, and the score of "no answer".

    Attributes:
        start_log_probs, start_index: [W, S]; indices are positions in the window.
        end_log_probs, end_index: [W, S * E], grouped by start; [W, E] for a model whose ends do not
            depend on the start.
        cls_logits: [W], high for "no answer".
    """

    start_log_probs: np.ndarray
    start_index: np.ndarray
    end_log_probs: np.ndarray
    end_index: np.ndarray
    cls_logits: np.ndarray


class QuestionAnswer(NamedTuple):
    """The answers to one question, see :class:`SquadAnswers`."""

    name: str
    nbest: list[dict[str, Any]]
    null_odds: float


@dataclass(frozen=True)
class SquadAnswers:
    """Answers by question id; those of many questions are in temporary files.

    Attributes:
        predictions: the best non-empty answer; empty only if no span is valid.
        nbest: the best answers in descending order: ``text``, ``probability`` (they sum to 1),
            ``start_log_prob`` and ``end_log_prob``.
        null_odds: score of "no answer", in log space.
    """

    predictions: Mapping[str, str]
    nbest: Mapping[str, list[dict[str, Any]]]
    null_odds: Mapping[str, float]

    @classmethod
    def collect(cls, answers: Iterable[QuestionAnswer]) -> SquadAnswers:
        """Return answers by question id, in their order.

        Raises:
            FunnelError: a temporary file cannot be written.
        """
        index: dict[str, int] = {}
        predictions: JsonSpool[str] = JsonSpool(index)
        nbest: JsonSpool[list[dict[str, Any]]] = JsonSpool(index)
        null_odds: JsonSpool[float] = JsonSpool(index)
        for answer in answers:
            predictions.add(answer.name, answer.nbest[0]["text"])
            nbest.add(answer.name, answer.nbest)
            null_odds.add(answer.name, answer.null_odds)
        return cls(predictions, nbest, null_odds)

    def apply_null_threshold(self, threshold: float) -> dict[str, str]:
        """Return the predictions, empty where the null odds exceed ``threshold``."""
        return {
            name: "" if self.null_odds[name] > threshold else text
            for name, text in self.predictions.items()
        }


class _Spans(NamedTuple):
    """Candidates of some windows, in descending order within each question."""

    question: np.ndarray
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

    A span is valid if its start has more context in this window than in any other, its end is not
    before its start, it is inside the paragraph and not too long. Spans are sorted by the sum of
    their log-probabilities (on a tie by window, then by start); the first ``n_best_size`` distinct
    texts are kept, cut from the original paragraph.

    Raises:
        ValueError: the arrays are of different lengths.
        RunError: a score is NaN.
    """
    return SquadAnswers.collect(iter_answers(data, windows, beams, settings))


def iter_answers(
    data: SquadData,
    windows: SquadWindows,
    beams: BeamOutputs,
    settings: AnswerSettings = AnswerSettings(),
) -> Iterator[QuestionAnswer]:
    """Yield the answers of :func:`find_answers`, in the order of the questions.

    Raises:
        ValueError: the arrays are of different lengths.
        RunError: a score is NaN.
    """
    count = len(beams.start_index)
    if len(windows) != count or beams.cls_logits.shape != (count,):
        raise ValueError(f"scores of {count} windows for {len(windows)}")
    for rows in _split_by_question(windows.question):
        part = BeamOutputs(*(column[rows] for column in beams))
        spans = _find_candidates(windows, rows, part, settings)
        answered, first_rows = np.unique(windows.question[rows], return_index=True)
        # One window in which the question is answerable suffices: the lowest null score counts.
        null = np.minimum.reduceat(part.cls_logits.astype(np.float64), first_rows).tolist()
        begins = np.searchsorted(spans.question, answered, "left").tolist()
        ends = np.searchsorted(spans.question, answered, "right").tolist()
        for index, begin, end, odds in zip(answered.tolist(), begins, ends, null, strict=True):
            question = data.questions[index]
            text = data.paragraphs[question.paragraph]
            found = _Spans(*(column[begin:end] for column in spans))
            nbest = _collect_nbest(found, windows, question.paragraph, text, settings.n_best_size)
            if not settings.use_answer_class:
                odds -= nbest[0]["start_log_prob"] + nbest[0]["end_log_prob"]
            yield QuestionAnswer(question.id, nbest, odds)


def _split_by_question(question: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the indices of windows, int64, in parts that hold all windows of their questions.

    Args:
        question: index of the question of every window, int64 [W].
    """
    order, start = np.argsort(question, kind="stable"), 0
    ordered = question[order]
    while start < len(order):
        last = ordered[min(start + _WINDOWS_AT_ONCE, len(order)) - 1]
        end = int(np.searchsorted(ordered, last, "right"))
        yield order[start:end]
        start = end


def _find_candidates(
    windows: SquadWindows, rows: np.ndarray, beams: BeamOutputs, settings: AnswerSettings
) -> _Spans:
    """Return the valid spans of the windows ``rows`` [R], of which ``beams`` are the outputs."""
    count, starts_kept = beams.start_index.shape
    shape = (count, starts_kept, -1) if settings.conditional_end else (count, 1, -1)
    for scores in (beams.start_log_probs, beams.end_log_probs, beams.cls_logits):
        if np.isnan(scores).any():
            raise RunError("the model's scores are not numbers (NaN): its training has diverged")
    # Indices may have been gathered as float32, together with the scores.
    start_index, end_index = (
        beams.start_index.astype(np.int64),
        beams.end_index.astype(np.int64).reshape(shape),
    )
    begin, end, stop = (
        column[rows][:, None, None]
        for column in (windows.context_begin, windows.context_end, windows.paragraph_end)
    )
    starts = start_index[:, :, None]
    is_possible = (starts >= begin) & (starts < end) & (end_index >= starts) & (end_index < stop)
    is_possible &= end_index - starts < settings.max_answer_length
    row, start_rank, end_rank = np.nonzero(is_possible)
    end_row = start_rank if settings.conditional_end else np.zeros_like(start_rank)
    start_log_prob = beams.start_log_probs[row, start_rank].astype(np.float64)
    end_scores = beams.end_log_probs.reshape(shape)
    end_log_prob = end_scores[row, end_row, end_rank].astype(np.float64)
    shift = (windows.first_token[rows] - windows.paragraph_begin[rows])[row]
    spans = _Spans(
        question=windows.question[rows][row],
        first=start_index[row, start_rank] + shift,
        last=end_index[row, end_row, end_rank] + shift,
        start_log_prob=start_log_prob,
        end_log_prob=end_log_prob,
    )
    order = np.lexsort((-(start_log_prob + end_log_prob), spans.question))  # a stable sort
    return _Spans(*(column[order] for column in spans))


def _collect_nbest(
    spans: _Spans, windows: SquadWindows, paragraph: int, text: str, size: int
) -> list[dict[str, Any]]:
    """Return the first ``size`` distinct non-empty texts of one question's spans."""
    kept: dict[str, tuple[float, float]] = {}
    for i in range(len(spans.first)):
        if len(kept) == size:
            break
        first, last = int(spans.first[i]), int(spans.last[i])
        start, end = windows.paragraphs.characters(paragraph, first, last)
        answer = text[start:end].strip()
        if answer and answer not in kept:
            kept[answer] = float(spans.start_log_prob[i]), float(spans.end_log_prob[i])
    kept = kept or {"": (NO_CANDIDATE, NO_CANDIDATE)}
    sums = np.array([sum(pair) for pair in kept.values()])
    weights = np.exp(sums - sums.max())
    probabilities = (weights / weights.sum()).tolist()
    return [
        {"text": answer, "probability": p, "start_log_prob": scores[0], "end_log_prob": scores[1]}
        for (answer, scores), p in zip(kept.items(), probabilities, strict=True)
    ]


def combine_answers(members: Sequence[SquadAnswers], n_best_size: int = 5) -> SquadAnswers:
    """Return the answers of an ensemble: the mean of its members' probabilities and null odds.

    A text that is not in a member's n-best has probability 0 there. The n-best of the result have
    only ``text`` and ``probability``.

    Raises:
        ValueError: no member, or members that answered different questions.
    """
    if not members or any(m.predictions.keys() != members[0].predictions.keys() for m in members):
        raise ValueError("an ensemble needs models that answered the same questions")
    return SquadAnswers.collect(
        _combine(name, members, n_best_size) for name in members[0].predictions
    )


def _combine(name: str, members: Sequence[SquadAnswers], n_best_size: int) -> QuestionAnswer:
    mean: dict[str, float] = {}
    for entry in (entry for member in members for entry in member.nbest[name]):
        share = entry["probability"] / len(members)
        mean[entry["text"]] = mean.get(entry["text"], 0.0) + share
    if len(mean) > 1:
        mean.pop("", None)  # from a member without any valid span
    best = sorted(mean.items(), key=lambda item: -item[1])[:n_best_size]
    odds = [member.null_odds[name] for member in members]
    nbest = [{"text": text, "probability": p} for text, p in best]
    return QuestionAnswer(name, nbest, sum(odds) / len(odds))


def write_answers(
    answers: SquadAnswers, directory: str | os.PathLike[str], prefix: str = ""
) -> None:
    """Write ``predictions.json``, ``nbest_predictions.json`` and ``null_odds.json``.

    The official evaluation programs read the first and the last. ``prefix`` begins every name: the
    original wrote ``{step}.predictions.json`` for every checkpoint.

    Raises:
        FunnelError: a file cannot be written.
    """
    contents: Mapping[str, Any] = {
        PREDICTIONS_FILE: answers.predictions,
        NBEST_FILE: answers.nbest,
        NULL_ODDS_FILE: answers.null_odds,
    }
    for name, content in contents.items():
        write_json_object(Path(directory) / f"{prefix}{name}", content)
