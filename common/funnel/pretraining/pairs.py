"""Pairs of segments that become pretraining examples.

:func:`sample_pairs` is the recipe of XLNet (Yang et al. 2019), which Funnel-Transformer follows. It
cuts off what exceeds an example; :func:`sample_unused_pairs` makes examples of that.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from funnel.config.pretraining import SPECIAL_TOKENS


class Pair(NamedTuple):
    """Two segments of a token stream (ends exclusive); ``label`` 1: B follows A, 0: random B."""

    a_start: int
    a_end: int
    b_start: int
    b_end: int
    label: int


def sample_pairs(ends: np.ndarray, seq_len: int, rng: random.Random) -> Iterator[Pair]:
    """Yield pairs A, B of together ``seq_len - 3`` tokens until the stream is used up.

    A starts where the previous pair ended. With label 1 (probability 0.5, if there is a sentence
    end to split at), A and B are the following text up to a sentence end, split at a random
    sentence end. With label 0, A ends at a random sentence end and B is taken from a random place.
    Excess tokens are cut off one by one and not used again.

    Args:
        ends: int64 [s], the sentence ends of a token stream.
        seq_len: tokens per example.
        rng: the only source of randomness.
    """
    size = int(ends[-1]) if len(ends) else 0
    room = seq_len - SPECIAL_TOKENS
    start = 0
    while start + room < size:
        first, last = _sentence_ends(ends, start, room)
        # End `last` is the first one beyond; it exists because the last sentence ends where the
        # stream ends.
        limit = int(ends[last])
        if first == last or rng.random() < 0.5:
            a_end = limit if first == last else int(ends[rng.choice(range(first, last))])
            b_start, b_end = _random_segment(ends, max(1, room - (a_end - start)), rng)
            yield _truncate(Pair(start, a_end, b_start, b_end, 0), room, rng)
            start = a_end
        else:
            a_end = int(ends[rng.choice(range(first, last))])
            yield _truncate(Pair(start, a_end, a_end, limit, 1), room, rng)
            start = limit


def sample_unused_pairs(ends: np.ndarray, seq_len: int, rng: random.Random) -> Iterator[Pair]:
    """Yield pairs that contain every token of a stream exactly once.

    The stream is cut into windows of ``seq_len - 3`` tokens, each split at a random sentence end
    or, inside a long sentence, in the middle. Two distant windows become two pairs of label 1 or,
    with probability 0.5, exchange their second segments and become two pairs of label 0.

    Args:
        ends: int64 [s], the sentence ends; the last one is a multiple of ``seq_len - 3``.
        seq_len: tokens per example.
        rng: the only source of randomness.
    """
    room = seq_len - SPECIAL_TOKENS
    windows = (int(ends[-1]) if len(ends) else 0) // room
    half = windows // 2
    for index in range(half):
        u, v = index * room, (index + half) * room
        cut = _random_cut(ends, u, room, rng)
        if rng.random() < 0.5:
            yield Pair(u, u + cut, v + cut, v + room, 0)
            yield Pair(v, v + cut, u + cut, u + room, 0)
        else:
            other = v + _random_cut(ends, v, room, rng)
            yield Pair(u, u + cut, u + cut, u + room, 1)
            yield Pair(v, other, other, v + room, 1)
    if windows % 2:
        start = (windows - 1) * room
        middle = start + _random_cut(ends, start, room, rng)
        yield Pair(start, middle, middle, start + room, 1)


def _sentence_ends(ends: np.ndarray, start: int, room: int) -> tuple[int, int]:
    """Return the indices (end exclusive) of the sentence ends inside (start, start + room)."""
    first, last = map(int, np.searchsorted(ends, (start, start + room - 1), side="right"))
    return first, last


def _random_cut(ends: np.ndarray, start: int, room: int, rng: random.Random) -> int:
    """Return the distance from ``start`` of a random sentence end, or half of ``room``."""
    first, last = _sentence_ends(ends, start, room)
    return room // 2 if first == last else int(ends[rng.choice(range(first, last))]) - start


def _random_segment(ends: np.ndarray, length: int, rng: random.Random) -> tuple[int, int]:
    """Return ``length`` tokens at a random place, extended to complete sentences on both sides."""
    begin = rng.randint(0, int(ends[-1]) - length)
    sentence = int(np.searchsorted(ends, begin, side="right"))
    last = int(np.searchsorted(ends, begin + length))
    return int(ends[sentence - 1]) if sentence else 0, int(ends[last])


def _truncate(pair: Pair, room: int, rng: random.Random) -> Pair:
    """Truncate the longer segment token by token until both fit: A at its end, B at either end."""
    a_start, a_end, b_start, b_end, label = pair
    # One token at a time, since each draws a random number; a tie truncates B, as in the original.
    while (a := a_end - a_start) + (b := b_end - b_start) > room:
        if a > b:
            a_end -= 1
        elif rng.random() < 0.5:
            b_end -= 1
        else:
            b_start += 1
    return Pair(a_start, a_end, b_start, b_end, label)
