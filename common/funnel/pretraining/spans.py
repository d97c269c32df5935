"""Sampling of target positions: span lengths, span positions, and the tokens they cover.

The part of :mod:`funnel.pretraining.masking` that needs neither vocabulary nor targets. All
functions work on B records at once and take their randomness as uniform numbers in [0, 1).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from funnel.utils.errors import DataError


def length_bounds(shortest: int, longest: int) -> np.ndarray:
    """Return the inner bin edges of the span-length distribution, float64 [longest - shortest].

    Length n has probability proportional to 1 / (n + 1). A uniform number in bin i (counted from
    0) selects length ``shortest + i``.
    """
    cumulative = np.cumsum(1 / (np.arange(shortest, longest + 1) + 1))
    # The last edge would be 1, up to rounding. Without it, no number can exceed the last bin.
    return cumulative[:-1] / cumulative[-1]


def span_lengths(uniform: np.ndarray, shortest: int, longest: int) -> np.ndarray:
    """Return lengths n in ``shortest..longest`` with probability proportional to 1 / (n + 1)."""
    return shortest + np.searchsorted(length_bounds(shortest, longest), uniform, side="right")


def check_boundaries(
    boundaries: Sequence[np.ndarray] | None, num_records: int, length: int
) -> Sequence[np.ndarray]:
    """Return the word boundaries of ``num_records`` records of ``length`` tokens.

    Raises:
        DataError: they are missing, or a row does not ascend within 0..length and end with length.
    """
    if boundaries is None or len(boundaries) != num_records:
        raise DataError(f"{num_records} records come without their word boundaries")
    for row, edges in enumerate(boundaries):
        ascending = len(edges) and edges[0] >= 0 and bool((np.diff(edges) > 0).all())
        if not ascending or edges[-1] != length:
            raise DataError(
                f"record {row} of the batch: word boundaries should rise and end with its length "
                f"{length}"
            )
    return boundaries


def word_edges(
    boundaries: Sequence[np.ndarray], usable: np.ndarray, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the edges of the words within the usable length, [B, T + 1], and their number, [B].

    Word w of a record spans the tokens ``edges[w]..edges[w + 1]`` (end exclusive). After the last
    word all edges equal the usable length, so that further words are empty.
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
    """Place spans one after another, each in a slot ``alpha`` times as long as the span.

    A span of n tokens has a slot of ``round(n * alpha)`` tokens, of which
    ``round(left * n * (alpha - 1))`` precede the span. The expected length of a span is about 2.4
    (lengths 1 to 5), so P slots are together 2.4 times as long as the text. About 1 / 2.4 of the
    spans lie within the text, and these cover about P tokens. Compared with independent uniform
    positions, spans seldom touch: the mean run of targets is 2.2 tokens instead of 2.5.

    Args:
        lengths: span lengths, int [B, P].
        left: uniform numbers, [B, P].
        alpha: usable length / P, [B]. Where it is below 1 there is too little text and spans
            overlap.
        stop: length of the text, [B]; spans that end after it become empty.

    Returns:
        Begin and (exclusive) end of each span, int64 [B, P], never negative.
    """
    stretch = alpha[:, None]
    slots = np.rint(lengths * stretch).astype(np.int64)
    before = np.rint(left * lengths * (stretch - 1)).astype(np.int64)
    begin = np.cumsum(slots, axis=1) - slots + before
    end = begin + lengths
    fits = end <= stop[:, None]
    # With alpha < 1 `before` is negative, and so may be the begin of the first spans.
    return np.where(fits, begin, 0).clip(min=0), np.where(fits, end, 0).clip(min=0)


def select_spans(
    begin: np.ndarray, end: np.ndarray, order: np.ndarray, is_text: np.ndarray, most: int
) -> np.ndarray:
    """Visit spans in random order and select the first ``most`` text tokens, bool [B, T].

    A token that overlapping spans contain counts once for each of them, as in the original, so
    fewer than ``most`` may be selected.

    Args:
        begin: begin of the spans, [B, S].
        end: exclusive end of the spans, [B, S]; empty spans have end <= begin.
        order: random numbers, [B, S] or wider; spans are visited in ascending order of them.
        is_text: tokens that may be selected, bool [B, T].
        most: P.
    """
    visits = np.argsort(order[:, : begin.shape[1]], axis=1, kind="stable")
    first = np.take_along_axis(begin, visits, 1)
    count = np.maximum(np.take_along_axis(end, visits, 1) - first, 0)
    # Spans have different lengths, so their positions are listed in one flat array, record after
    # record: element i of a span that starts at flat index s is position `first + i - s`.
    rows = np.repeat(np.arange(len(begin)), count.sum(1))
    count = count.ravel()
    started = np.cumsum(count) - count
    positions = np.repeat(first.ravel() - started, count) + np.arange(len(rows))
    visited_text = is_text[rows, positions]
    rows, positions = rows[visited_text], positions[visited_text]
    # Rank of every visited token within its record, to keep the first `most` of each.
    per_row = np.bincount(rows, minlength=len(begin))
    rank = np.arange(len(rows)) - np.repeat(np.cumsum(per_row) - per_row, per_row)
    selected = np.zeros(is_text.shape, bool)
    selected[rows[rank < most], positions[rank < most]] = True
    return selected


def select_targets(
    count: int, is_text: np.ndarray, selected: np.ndarray | None, token: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Select ``count`` = P targets per record, or all its tokens if there are fewer.

    Args:
        count: P.
        is_text: positions allowed as targets, bool [B, T].
        selected: positions that are targets in any case, bool [B, T], at most P per record.
        token: random numbers in [0, 1), [B, T]: remaining slots are filled with single tokens in
            ascending order of it.

    Returns:
        Positions [B, P] in ascending order (0 in empty slots, which come last), and a mask [B, P]
        that is True for targets.
    """
    length = is_text.shape[1]
    # A single partial sort orders all three kinds: selected (-1), text (in [0, 1)), other (2).
    rank = np.where(is_text, token, 2.0)
    if selected is not None:
        rank[selected] = -1.0
    chosen = np.argpartition(rank, count - 1, axis=1)[:, :count]
    # Position T marks an empty slot: it sorts behind all targets.
    chosen[np.take_along_axis(rank, chosen, 1) > 1] = length
    chosen.sort(axis=1)
    is_filled = chosen < length
    return np.where(is_filled, chosen, 0), is_filled
