"""The text of a task as token ids: read document by document, shuffled, and concatenated.

Tokens are in temporary files (:mod:`funnel.utils.scratch`), so memory depends on the longest line
and, with 16 bytes each, on the number of documents.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from funnel.utils.scratch import ScratchArray

_BLOCK = 1 << 18  # tokens read at a time

Folder = str | os.PathLike[str]


class DocumentPart(NamedTuple):
    """Consecutive sentences of a document: token ids, int32 [n], and lengths, int64 [s] >= 1."""

    tokens: np.ndarray
    lengths: np.ndarray
    ends_document: bool = True


@dataclass(frozen=True)
class TokenStream:
    """Concatenated documents.

    Attributes:
        tokens: int32 [n].
        ends: int64 [s], exclusive end of each sentence, ascending; the last one is n.
        files: what holds the two arrays.
    """

    tokens: np.ndarray
    ends: np.ndarray
    files: tuple[ScratchArray, ...] = ()

    def release(self) -> None:
        """Let the system take back the memory of what was read."""
        for file in self.files:
            file.release()


class DocumentStore:
    """The documents of a task.

    Args:
        folder: directory of temporary files.
        min_doc_len: shorter documents are left out and counted.

    Attributes:
        documents: number of documents kept.
        left_out: number of documents left out.
        left_out_tokens: their tokens.
    """

    def __init__(self, folder: Folder, min_doc_len: int = 1) -> None:
        self._folder, self._least = folder, max(1, min_doc_len)
        self._tokens = ScratchArray(folder, np.int32)
        self._lengths = ScratchArray(folder, np.int64)
        self._bounds = ScratchArray(folder, np.int64)  # tokens and sentences before each document
        self._bounds.append(np.zeros(2))
        self._pending: list[DocumentPart] = []
        self._size = 0
        self.documents = self.left_out = self.left_out_tokens = 0

    @property
    def num_tokens(self) -> int:
        """Number of tokens of the documents kept."""
        return len(self._tokens)

    def add(self, part: DocumentPart) -> None:
        """Add the next part of the current document.

        Raises:
            FunnelError: the temporary files cannot be written.
        """
        self._pending.append(part)
        self._size += len(part.tokens)
        if self._size >= self._least:
            for waiting in self._pending:
                self._tokens.append(waiting.tokens)
                self._lengths.append(waiting.lengths)
            self._pending = []
        if not part.ends_document:
            return
        if self._size >= self._least:
            self.documents += 1
            self._bounds.append(np.array([len(self._tokens), len(self._lengths)]))
        else:
            self.left_out += 1
            self.left_out_tokens += self._size
        self._pending, self._size = [], 0

    def shuffled(self, seed: int) -> TokenStream:
        """Concatenate the documents in an order that depends on ``seed`` alone.

        Raises:
            FunnelError: the temporary files cannot be written.
        """
        # The order of the original: `np.random.seed(seed); np.random.shuffle(documents)`.
        order = np.arange(self.documents)
        np.random.RandomState(seed).shuffle(order)
        source, lengths = self._tokens.read(), self._lengths.read()
        bounds = self._bounds.read().reshape(-1, 2)
        tokens, ends = ScratchArray(self._folder, np.int32), ScratchArray(self._folder, np.int64)
        copied = 0
        for document in order:
            (first, first_length), (last, last_length) = bounds[document : document + 2].tolist()
            end = len(tokens)
            for start in range(first_length, last_length, _BLOCK):
                part = end + np.cumsum(lengths[start : min(start + _BLOCK, last_length)])
                ends.append(part)
                end = part[-1]
            for start in range(first, last, _BLOCK):
                tokens.append(source[start : min(start + _BLOCK, last)])
            copied += last - first
            if copied > _BLOCK:
                copied = 0
                self._release()
        return TokenStream(tokens.read(), ends.read(), (tokens, ends))

    def close(self) -> None:
        """Close the temporary files."""
        for file in (self._tokens, self._lengths, self._bounds):
            file.close()

    def _release(self) -> None:
        for file in (self._tokens, self._lengths, self._bounds):
            file.release()


def unused_text(stream: TokenStream, used: ScratchArray, room: int, folder: Folder) -> TokenStream:
    """Return the text that is in no example, as another stream.

    A sentence of at most ``room`` tokens of which some are unused is repeated completely, so that
    it can be understood; of a longer one, the unused tokens alone are kept. The stream is filled
    up to a multiple of ``room`` tokens with the beginning of ``stream``, which must be longer than
    ``room``; it is empty if everything is used.

    Args:
        stream: the text.
        used: bool [n], the tokens that are in an example.
        room: tokens of an example.
        folder: directory of temporary files.

    Raises:
        FunnelError: the temporary files cannot be written.
    """
    tokens, ends = ScratchArray(folder, np.int32), ScratchArray(folder, np.int64)
    marks, begin, first = used.read(), 0, 0
    while first < len(stream.ends):
        last = max(first + 1, int(np.searchsorted(stream.ends, begin + _BLOCK, side="right")))
        stops = stream.ends[first:last]
        is_lost = ~marks[begin : stops[-1]]
        lengths = np.diff(stops, prepend=begin)
        lost = np.add.reduceat(is_lost, stops - lengths - begin, dtype=np.int64)
        is_repeated = (lost > 0) & (lengths <= room)
        kept = np.where(lengths <= room, np.where(is_repeated, lengths, 0), lost)
        ends.append(len(tokens) + np.cumsum(kept[kept > 0]))
        tokens.append(stream.tokens[begin : stops[-1]][is_lost | np.repeat(is_repeated, lengths)])
        begin, first = int(stops[-1]), last
        used.release()
        stream.release()
    if fill := -len(tokens) % room:
        inside = stream.ends[: np.searchsorted(stream.ends, fill)]
        ends.append(len(tokens) + np.append(inside, fill))
        tokens.append(stream.tokens[:fill])
    return TokenStream(tokens.read(), ends.read(), (tokens, ends))


def count_lost(used: ScratchArray) -> int:
    """Return how many tokens are in no example."""
    marks = used.read()
    parts: Iterator[np.ndarray] = (marks[i : i + _BLOCK] for i in range(0, len(marks), _BLOCK))
    return len(marks) - sum(int(np.count_nonzero(part)) for part in parts)
