"""Counts of the words of a text, in bounded memory."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable

from funnel.tokenization.base import MAX_WORD_LENGTH
from funnel.tokenization.wordpiece import BasicTokenizer

# Distinct chunks (texts between blanks) held before their counts are added to those of words.
MAX_CHUNKS = 1 << 20

logger = logging.getLogger(__name__)


class WordTable:
    """Counts of words and punctuation marks.

    Lines are not held in memory; distinct words are, up to a limit. Words that are always unknown,
    because of their length, are left out and counted.

    Args:
        splitter: splits text into words.
        limit: number of distinct words; beyond it the rarest half is dropped.

    Attributes:
        words: count by word.
    """

    def __init__(self, splitter: BasicTokenizer, limit: int) -> None:
        self._splitter, self._limit = splitter, limit
        self._chunks: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()  # characters of rare words
        self._rare = self._long = 0
        self.words: Counter[str] = Counter()

    def count(self, lines: Iterable[str]) -> None:
        """Count the words of the lines, and log which were left out."""
        for line in lines:
            self._chunks.update(line.split(" "))
            if len(self._chunks) >= MAX_CHUNKS:
                self._move_counts()
        self._move_counts()
        if self._long:
            logger.warning(
                "%d words of more than %d characters are left out: they are always unknown",
                *(self._long, MAX_WORD_LENGTH),
            )
        if self._rare:
            logger.info(
                "the text has more than %d distinct words: %d occurrences of rare ones, %.2f %% of "
                "all, are left out of the counts of pairs (--max_words)",
                *(self._limit, self._rare),
                100 * self._rare / (self._rare + sum(self.words.values())),
            )

    def count_characters(self) -> Counter[str]:
        """Return the count of every character."""
        counts = Counter(self._dropped)
        for word, count in self.words.items():
            for char in word:
                counts[char] += count
        return counts

    def _move_counts(self) -> None:
        """Add the counts of chunks to those of their words and clear the chunks."""
        for chunk, count in self._chunks.items():
            for word in self._splitter.split(chunk):
                if len(word) <= MAX_WORD_LENGTH:
                    self.words[word] += count
                else:
                    self._long += count
        self._chunks.clear()
        if len(self.words) > self._limit:
            self._drop_rare_words()

    def _drop_rare_words(self) -> None:
        # Half of the limit, so that this is not repeated for every new word.
        ranked = sorted(self.words, key=lambda word: (-self.words[word], word))
        for word in ranked[max(1, self._limit // 2) :]:
            count = self.words.pop(word)
            self._rare += count
            for char in word:
                self._dropped[char] += count
