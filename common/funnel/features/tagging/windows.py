"""Tagged sentences as sequences ``[CLS] pieces of the words [SEP]``, and back.

A word is tagged at its first piece; its other pieces and the special tokens carry no label. A
sentence that is longer than a sequence is cut at words into windows that overlap, and each of its
words is tagged in one of them, where it has most context: no word goes without a tag.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import TYPE_CHECKING

import numpy as np

from funnel.config.inputs import SegmentIds
from funnel.config.tagging import TaggingWindows
from funnel.utils.split_report import NO_TEXTS, TextCounts

if TYPE_CHECKING:
    from funnel.tokenization import Tokenizer

logger = logging.getLogger(__name__)

IGNORED = -100  # label of a position that is left out of the loss


@dataclass(frozen=True)
class WindowCounts:
    """What became of long sentences and of words: numbers of each.

    Attributes:
        sentences: sentences longer than a sequence.
        windows: windows that these were cut into.
        longest: tokens of the longest sentence, special tokens included.
        cut_words: words that alone are longer than a sequence, of which the first pieces are kept.
        empty_words: words without any piece, read as the unknown token.
    """

    sentences: int = 0
    windows: int = 0
    longest: int = 0
    cut_words: int = 0
    empty_words: int = 0

    def log(self, split: str, limit: int) -> None:
        """Log them; ``limit`` is the length of a sequence."""
        logger.info(
            "%s: %d sentences longer than %d tokens were cut into %d windows; the longest has %d",
            *(split, self.sentences, limit, self.windows, self.longest),
        )
        if self.cut_words:
            logger.warning("%s: %d words are longer than a sequence", split, self.cut_words)
        if self.empty_words:
            logger.warning(
                "%s: %d words have no token and are read as the unknown one",
                *(split, self.empty_words),
            )


@dataclass(frozen=True)
class TaggingFeatures:
    """n windows of the sentences of a split.

    Attributes:
        input_ids: int32 [total], the concatenated sequences.
        offsets: int64 [n + 1]; window i is ``input_ids[offsets[i]:offsets[i + 1]]``.
        slots: int64 [n + 1]; the words tagged in window i are ``slots[i]`` to ``slots[i + 1]`` of
            the next two arrays.
        word_ids: int64 [words], number of each such word in the split.
        positions: int64 [words], position of its first piece in the window.
        labels: int64 [words], class id by number of the word; None if they are not known.
        sentence_offsets: int64 [sentences + 1], first word of every sentence.
        segments: segment ids.
        counts, texts: what became of the sentences and their tokens.
    """

    input_ids: np.ndarray
    offsets: np.ndarray
    slots: np.ndarray
    word_ids: np.ndarray
    positions: np.ndarray
    labels: np.ndarray | None
    sentence_offsets: np.ndarray
    segments: SegmentIds
    counts: WindowCounts = WindowCounts()
    texts: TextCounts = NO_TEXTS

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each window, int64 [n]."""
        return np.diff(self.offsets)

    @property
    def width(self) -> int:
        """Largest number of words that are tagged in a window: W."""
        return int(np.diff(self.slots).max(initial=1))

    def pad(
        self, indices: Sequence[int] | np.ndarray, length: int, pad_id: int
    ) -> dict[str, np.ndarray]:
        """Return the windows ``indices`` (B of them) padded on the right to ``length`` = L.

        Returns:
            ``input_ids``, ``attention_mask`` (1 = real token), ``token_type_ids``, int64 [B, L];
            ``word_positions``, int64 [B, W], filled up with 0; and ``labels``, int64 [B, W], filled
            up with :data:`IGNORED`, if they are known.

        Raises:
            ValueError: a window is longer than ``length``.
        """
        indices = np.asarray(indices, np.int64)
        begins, lengths = self.offsets[indices], self.lengths[indices]
        if len(indices) and lengths.max() > length:
            raise ValueError(f"a window has {lengths.max()} tokens, more than {length}")
        column = np.arange(length)
        real = column < lengths[:, None]
        input_ids = np.full(real.shape, pad_id, np.int64)
        input_ids[real] = self.input_ids[(begins[:, None] + column)[real]]
        token_type_ids = np.where(real, self.segments.a, self.segments.pad)
        token_type_ids[:, :1] = self.segments.cls
        filled = np.arange(self.width) < np.diff(self.slots)[indices][:, None]
        slots = (self.slots[indices][:, None] + np.arange(self.width))[filled]
        word_positions = np.zeros(filled.shape, np.int64)
        word_positions[filled] = self.positions[slots]
        batch = {
            "input_ids": input_ids,
            "attention_mask": real.astype(np.int64),
            "token_type_ids": token_type_ids,
            "word_positions": word_positions,
        }
        if self.labels is not None:
            labels = np.full(filled.shape, IGNORED, np.int64)
            labels[filled] = self.labels[self.word_ids[slots]]
            batch["labels"] = labels
        return batch

    def label_pieces(self, indices: np.ndarray, length: int, ignored: int) -> np.ndarray:
        """Return the label of every position, int64 [B, length], ``ignored`` where there is none.

        Without labels, the words that are to be tagged have 0.
        """
        labels = np.full((len(indices), length), ignored, np.int64)
        for row, index in enumerate(indices):
            part = slice(self.slots[index], self.slots[index + 1])
            words = self.word_ids[part]
            labels[row, self.positions[part]] = 0 if self.labels is None else self.labels[words]
        return labels

    def by_word(self, values: np.ndarray, *, at_positions: bool = False) -> np.ndarray:
        """Return the values of every word, [words, ...], from those of the windows.

        Args:
            values: [n, W, ...] by slot, or [n, L, ...] with ``at_positions``.
            at_positions: values are given for every position of a window.
        """
        counts = np.diff(self.slots)
        window = np.repeat(np.arange(len(self)), counts)
        slot = np.arange(len(self.word_ids)) - np.repeat(self.slots[:-1], counts)
        found = np.empty((len(self.word_ids), *values.shape[2:]), values.dtype)
        found[self.word_ids] = values[window, self.positions if at_positions else slot]
        return found

    def by_sentence(self, values: np.ndarray) -> list[list]:
        """Return the values [words] as one list per sentence."""
        edges = self.sentence_offsets.tolist()
        flat = values.tolist()
        return [flat[begin:end] for begin, end in pairwise(edges)]


def encode_sentences(
    sentences: Sequence[Sequence[str]],
    tags: Sequence[Sequence[int]] | None,
    tokenizer: Tokenizer,
    config: TaggingWindows,
) -> TaggingFeatures:
    """Encode tagged sentences.

    Args:
        sentences: the words of each.
        tags: class ids of the words of each; None if they are not known.
        tokenizer: splits words into pieces; every word is encoded alone.
        config: length and overlap of windows, and segment ids.
    """
    room, special = config.max_length - 2, tokenizer.special
    pieces = _encode_words(sentences, tokenizer)
    ids: list[int] = []
    offsets, slots, word_ids, positions = [0], [0], [], []
    first, cut, made, longest = 0, 0, 0, 0
    for words in sentences:
        encoded = [pieces[word] or [special.unk_id] for word in words]
        sizes = [len(piece) for piece in encoded]
        windows = cut_windows(sizes, room, config.overlap)
        owners = choose_windows(len(words), windows)
        if len(windows) > 1 or sum(sizes) > room:
            cut, made = cut + 1, made + len(windows)
        longest = max(longest, sum(sizes) + 2)
        for number, (begin, end) in enumerate(windows):
            kept = list(chain.from_iterable(encoded[begin:end]))[:room]
            ids += [special.cls_id, *kept, special.sep_id]
            places = list(accumulate(sizes[begin : end - 1], initial=1))
            mine = [word for word in range(begin, end) if owners[word] == number]
            word_ids += [first + word for word in mine]
            positions += [places[word - begin] for word in mine]
            offsets.append(len(ids))
            slots.append(len(word_ids))
        first += len(words)
    lengths = [len(words) for words in sentences]
    labels = None if tags is None else np.fromiter(chain.from_iterable(tags), np.int64)
    every = [pieces[word] for words in sentences for word in words]
    cut_words = sum(len(piece) > room for piece in every)
    counts = WindowCounts(cut, made, longest, cut_words, sum(not piece for piece in every))
    unknown = sum(piece.count(special.unk_id) for piece in every)
    texts = TextCounts(tokens=sum(map(len, every)), unknown=unknown)
    return TaggingFeatures(
        np.array(ids, np.int32),
        np.array(offsets, np.int64),
        np.array(slots, np.int64),
        np.array(word_ids, np.int64),
        np.array(positions, np.int64),
        labels,
        np.cumsum([0, *lengths], dtype=np.int64),
        config.segments,
        counts,
        texts,
    )


def _encode_words(sentences: Sequence[Sequence[str]], tokenizer: Tokenizer) -> dict[str, list[int]]:
    """Return the pieces of every different word."""
    different = list(dict.fromkeys(word for words in sentences for word in words))
    return dict(zip(different, tokenizer.encode_batch(different), strict=True))


def cut_windows(sizes: Sequence[int], room: int, overlap: int) -> list[tuple[int, int]]:
    """Return the windows of a sentence as (first word, word after the last).

    A window holds as many whole words as fit; the next one begins with the last words of it, as far
    as these have at most ``overlap`` pieces and leave room for a new word. A word that is longer
    than a window is one of its own.

    Args:
        sizes: pieces of every word, at least 1 each.
        room: pieces that a window can hold.
        overlap: pieces that two neighbours share at most.
    """
    windows, begin = [], 0
    while True:
        end, used = begin, 0
        while end < len(sizes) and (end == begin or used + sizes[end] <= room):
            used += sizes[end]
            end += 1
        windows.append((begin, end))
        if end >= len(sizes):
            return windows
        begin, shared = end, 0
        limit = min(overlap, room - sizes[end])
        while begin - 1 > windows[-1][0] and shared + sizes[begin - 1] <= limit:
            begin -= 1
            shared += sizes[begin]


def choose_windows(count: int, windows: Sequence[tuple[int, int]]) -> list[int]:
    """Return, for each of ``count`` words, the window in which its nearer edge is farthest.

    The edges of the sentence do not count; of several such windows it is the first.
    """
    owners, best = [0] * count, [-1] * count
    for number, (begin, end) in enumerate(windows):
        for word in range(begin, end):
            left = count if begin == 0 else word - begin
            right = count if end == count else end - 1 - word
            if min(left, right) > best[word]:
                owners[word], best[word] = number, min(left, right)
    return owners
