"""Sequences ``[CLS] first [SEP] second [SEP]`` that share the storage of their parts.

Windows of a SQuAD paragraph overlap and all its questions use them; four options of a RACE question
share the article. Stored in full, such a data set is many times as large as its text. Here a
sequence is two ranges of one array of tokens, assembled when a batch is made.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np

from funnel.config.inputs import SegmentIds


def flatten(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate rows; return them, int32 [total], and the row offsets, int64 [n + 1]."""
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    return np.fromiter(chain.from_iterable(rows), np.int32, int(offsets[-1])), offsets


def ranges(begins: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenate ``begins[i] .. begins[i] + lengths[i] - 1`` over all i, int64 [sum]."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(begins - before, lengths) + np.arange(int(lengths.sum()))


class Window(NamedTuple):
    """Tokens ``first .. first + length - 1`` of a paragraph.

    Tokens ``context_first .. context_end - 1`` have more context in this window than in any other;
    an answer counts only in the window where this holds for its first token.
    """

    first: int
    length: int
    context_first: int
    context_end: int


@functools.lru_cache(maxsize=1 << 14)
def cut_windows(tokens: int, room: int, stride: int) -> tuple[Window, ...]:
    """Cut a paragraph of ``tokens`` tokens into windows of at most ``room`` tokens.

    A window begins ``stride`` tokens after the previous one. The context of a token in a window is
    the smaller of the numbers of tokens to its left and right, plus 0.01 times the window's length;
    on a tie the first window counts. A paragraph without tokens has one empty window, so that its
    questions still get an (empty) answer.
    """
    cuts = [(0, min(tokens, room))]
    while sum(cuts[-1]) < tokens:
        first = cuts[-1][0] + min(cuts[-1][1], stride)
        cuts.append((first, min(tokens - first, room)))
    best = np.full(tokens, -1, np.int64)
    winner = np.zeros(tokens, np.int64)
    for index, (first, length) in enumerate(cuts):
        part = slice(first, first + length)
        # In hundredths, so that comparisons are exact.
        context = 100 * np.minimum(np.arange(length), np.arange(length)[::-1]) + length
        better = context > best[part]
        best[part][better] = context[better]
        winner[part][better] = index
    # Starts and ends of windows increase, so the winner never decreases from token to token: the
    # tokens of a window are consecutive, and a binary search finds the first and the last.
    indices = np.arange(len(cuts))
    firsts = np.searchsorted(winner, indices, "left").tolist()
    ends = np.searchsorted(winner, indices, "right").tolist()
    return tuple(
        Window(*cut, first, end) for cut, first, end in zip(cuts, firsts, ends, strict=True)
    )


@dataclass(frozen=True)
class PairSequences:
    """n sequences.

    Attributes:
        tokens: int32 [total], token ids of all texts.
        first_begins, second_begins: int64 [n], offsets of the parts in ``tokens``.
        first_lengths, second_lengths: int64 [n].
        cls_id, sep_id: ids of the special tokens.
        segments: segment ids; ``a`` is the first part's and ``b`` the second's, with their [SEP].
    """

    tokens: np.ndarray
    first_begins: np.ndarray
    first_lengths: np.ndarray
    second_begins: np.ndarray
    second_lengths: np.ndarray
    cls_id: int
    sep_id: int
    segments: SegmentIds

    def __len__(self) -> int:
        return len(self.first_begins)

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each sequence, special tokens included, int64 [n]."""
        return self.first_lengths + self.second_lengths + 3

    def pad(
        self, indices: Sequence[int] | np.ndarray, length: int, pad_id: int
    ) -> dict[str, np.ndarray]:
        """Return the sequences ``indices`` (B of them) padded on the right to ``length`` = L.

        Returns:
            ``input_ids``, ``attention_mask`` (1 = real token), ``token_type_ids``, int64 [B, L].

        Raises:
            ValueError: a sequence is longer than ``length``.
        """
        indices = np.asarray(indices, np.int64)
        first, second = self.first_lengths[indices], self.second_lengths[indices]
        longest = int((first + second).max(initial=-3)) + 3
        if longest > length:
            raise ValueError(f"a sequence has {longest} tokens, more than the length {length}")
        input_ids = np.full((len(indices), length), pad_id, np.int64)
        flat, row = input_ids.reshape(-1), np.arange(len(indices)) * length
        flat[row] = self.cls_id
        flat[ranges(row + 1, first)] = self.tokens[ranges(self.first_begins[indices], first)]
        flat[row + first + 1] = self.sep_id
        sources = ranges(self.second_begins[indices], second)
        flat[ranges(row + first + 2, second)] = self.tokens[sources]
        flat[row + first + second + 2] = self.sep_id

        position = np.arange(length)
        is_real = position < (first + second + 3)[:, None]
        token_type_ids = np.where(is_real, self.segments.b, self.segments.pad)
        token_type_ids[position < (first + 2)[:, None]] = self.segments.a
        token_type_ids[:, :1] = self.segments.cls
        return {
            "input_ids": input_ids,
            "attention_mask": is_real.astype(np.int64),
            "token_type_ids": token_type_ids,
        }
