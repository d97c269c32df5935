"""Which tokens spans cover: their lengths, their places in a text, and the walk over them.

The parts of :mod:`funnel.pretraining.masking` that know spans and words but neither vocabulary nor
targets. Everything works on B records at once; chance comes in as uniform numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def length_bounds(shortest: int, longest: int) -> np.ndarray:
    """Where in [0, 1) the lengths after ``shortest`` begin, float64 [longest - shortest].

    A length n has a share proportional to 1 / (n + 1).
    """
    cumulative = np.cumsum(1 / (np.arange(shortest, longest + 1) + 1))
    # The last bound is left out: numbers above the one before it all mean the longest span.
    return cumulative[:-1] / cumulative[-1]


def span_lengths(uniform: np.ndarray, shortest: int, longest: int) -> np.ndarray:
    """Lengths n in ``shortest..longest`` with probability proportional to 1 / (n + 1), int64."""
    return shortest + np.searchsorted(length_bounds(shortest, longest), uniform, side="right")


def word_edges(
    boundaries: Sequence[np.ndarray], usable: np.ndarray, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Words inside the usable length: edges [B, T + 1] and how many there are [B].

    Word w of a record spans ``edges[w]..edges[w + 1]``; from the end of the last word on, all
    edges are the usable length, so further words are empty.
    """
    edges = np.repeat(usable[:, None], length + 1, axis=1)
    num_words = np.empty_like(usable)
    for row, starts in enumerate(boundaries):
        num_words[row] = count = np.searchsorted(starts, usable[row])
        edges[row, :count] = starts[:count]
    return edges, num_words


def place_spans(
    lengths: np.ndarray, left: np.ndarray, alpha: np.ndarray, stop: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Lay out spans one after another, each in a slot ``alpha`` times as long as itself.

    A span lies anywhere in its slot, so neighbours may touch. There are P spans, some 2.4 P tokens
    in P slots of together 2.4 usable lengths: those that fit hold about P tokens.

    Args:
        lengths: of the spans, int [B, P].
        left: uniform numbers that pick the part of a slot's room before its span [B, P].
        alpha: usable length / P, [B]. It is below 1 if there is too little text: spans overlap.
        stop: length of the text [B]; spans that reach beyond it become empty.

    Returns:
        First and past-the-end indices of the spans, int64 [B, P], never negative.
    """
    stretch = alpha[:, None]
    slots = np.rint(lengths * stretch).astype(np.int64)
    before = np.rint(left * lengths * (stretch - 1)).astype(np.int64)
    begin = np.cumsum(slots, axis=1) - slots + before
    end = begin + lengths
    fits = end <= stop[:, None]
    return np.where(fits, begin, 0).clip(min=0), np.where(fits, end, 0).clip(min=0)


def select_spans(
    begin: np.ndarray, end: np.ndarray, order: np.ndarray, is_text: np.ndarray, most: int
) -> np.ndarray:
    """Visit spans in a random order and mark the first ``most`` text tokens met: bool [B, T].

    Tokens met again count again, so fewer may be marked.

    Args:
        begin, end: the spans of each record [B, S]; empty ones have end <= begin.
        order: random numbers, [B, S] or wider; spans are visited in rising order of them.
        is_text: tokens that may be marked, bool [B, T].
        most: P.
    """
    visits = np.argsort(order[:, : begin.shape[1]], axis=1, kind="stable")
    first = np.take_along_axis(begin, visits, 1)
    count = np.maximum(np.take_along_axis(end, visits, 1) - first, 0)
    # One flat list of all positions met, record by record.
    rows = np.repeat(np.arange(len(begin)), count.sum(1))
    count = count.ravel()
    started = np.cumsum(count) - count
    positions = np.repeat(first.ravel() - started, count) + np.arange(len(rows))
    met = is_text[rows, positions]
    rows, positions = rows[met], positions[met]
    per_row = np.bincount(rows, minlength=len(begin))
    rank = np.arange(len(rows)) - np.repeat(np.cumsum(per_row) - per_row, per_row)
    marked = np.zeros(is_text.shape, bool)
    marked[rows[rank < most], positions[rank < most]] = True
    return marked
