"""Build a vocabulary from text: the same lines and settings give the same bytes, everywhere.

Word pieces come from merging the most frequent pair of neighbouring pieces again and again, as the
``tokenizers`` trainer does. That one breaks ties by the order of a hash table, which differs from
run to run; here the pair that comes first in the alphabet wins.
"""

from __future__ import annotations

import heapq
import io
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from funnel.tokenization import TOKENIZER_KINDS
from funnel.tokenization.aligned_text import normalise
from funnel.tokenization.base import without_surrogates
from funnel.tokenization.special_tokens import FUNNEL_SYMBOLS
from funnel.tokenization.wordpiece import CONTINUATION, MAX_WORD_LENGTH, BasicTokenizer
from funnel.utils.errors import DataError, TokenizerError
from funnel.utils.files import atomic_path

# The counts of the chunks between blanks are folded into counts of words at this many.
CHUNKS_HELD = 1 << 20
# SentencePiece sums probabilities in as many parts as it has threads, so the number of threads is
# part of the result; a fixed one keeps it the same on every machine.
SENTENCE_PIECE_THREADS = 8
MAX_SENTENCE_BYTES = 1 << 24

logger = logging.getLogger(__name__)

Pair = tuple[str, str]


@dataclass(frozen=True)
class VocabularyConfig:
    """What vocabulary to build.

    Attributes:
        kind: ``word_piece`` or ``sent_piece``.
        vocab_size: number of ids wanted, special symbols included; fewer come out of a small
            corpus, with a warning.
        uncased: lower-case the text first; word pieces lose their accents with it.
        keep_accents: SentencePiece only, as in :func:`funnel.tokenization.get_tokenizer`.
        min_frequency: WordPiece only: a pair seen less often is not merged.
        max_characters: WordPiece only: the most frequent characters the vocabulary covers.
    """

    kind: str = "word_piece"
    vocab_size: int = 30522
    uncased: bool = True
    keep_accents: bool = False
    min_frequency: int = 2
    max_characters: int = 1000

    def __post_init__(self) -> None:
        if self.kind not in TOKENIZER_KINDS:
            choices = " or ".join(TOKENIZER_KINDS)
            raise TokenizerError(f"tokenizer type {self.kind!r} is unknown; it is {choices}")
        for name in ("vocab_size", "min_frequency", "max_characters"):
            if getattr(self, name) < 1:
                raise TokenizerError(f"{name} is {getattr(self, name)}; it must be at least 1")


def build_vocabulary(
    lines: Iterable[str], path: str | os.PathLike[str], config: VocabularyConfig
) -> int:
    """Build a vocabulary and write it, atomically. Returns the number of its entries.

    Raises:
        DataError: the lines hold no text.
        TokenizerError: ``vocab_size`` is too small for the characters of the text.
        FunnelError: the file cannot be written.
    """
    if config.kind == "word_piece":
        entries = train_word_piece(lines, config)
        data, size = "".join(f"{entry}\n" for entry in entries).encode(), len(entries)
    else:
        data, size = train_sentence_piece(lines, config)
    if size < config.vocab_size:
        logger.warning("the text yields %d entries of %d asked for", size, config.vocab_size)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return size


def read_lines(paths: Sequence[str | os.PathLike[str]]) -> Iterator[str]:
    """Yield the lines of UTF-8 text files, one file after another, without their ends.

    Raises:
        DataError: a file cannot be read or is not UTF-8; names the file and the line.
    """
    for path in paths:
        try:
            with open(path, "rb") as stream:
                for number, line in enumerate(stream, start=1):
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                    yield text.rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}, line {number}: not UTF-8 text") from error
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def train_sentence_piece(lines: Iterable[str], config: VocabularyConfig) -> tuple[bytes, int]:
    """Return a unigram SentencePiece model and its number of pieces.

    The model sees text as the tokenizer will give it. All special symbols but unk are control
    symbols, so no text turns into one. All lines are held in memory.

    Raises:
        DataError: the lines hold no text.
        TokenizerError: ``vocab_size`` is too small for the characters of the text.
    """
    import sentencepiece

    model = io.BytesIO()
    # A list, since an error raised by an iterator would lose its type on its way through C++.
    cleaned = [
        normalise(without_surrogates(line), config.uncased, config.keep_accents) for line in lines
    ]
    sentences = [line for line in cleaned if line]
    if not sentences:
        raise DataError("there is no text to build a vocabulary from")
    symbols = list(FUNNEL_SYMBOLS.values())
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            model_type="unigram",
            vocab_size=config.vocab_size,
            hard_vocab_limit=False,
            pad_id=-1,  # <pad> is a control symbol like the others, in its place among them
            control_symbols=symbols[3:],
            num_threads=SENTENCE_PIECE_THREADS,
            max_sentence_length=MAX_SENTENCE_BYTES,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise TokenizerError(
            f"SentencePiece builds no vocabulary of {config.vocab_size} from this text: {reason}"
        ) from error
    data = model.getvalue()
    return data, sentencepiece.SentencePieceProcessor(model_proto=data).get_piece_size()


def train_word_piece(lines: Iterable[str], config: VocabularyConfig) -> list[str]:
    """Return the entries of a WordPiece vocabulary in the order of their ids.

    Special symbols first, then the characters, then merged pieces, most frequent pair first. A
    character that can stand inside a word is there in both forms (``a``, ``##a``), so every word
    made of known characters has pieces.

    Raises:
        DataError: the lines hold no text.
        TokenizerError: ``vocab_size`` is too small for the characters of the text.
    """
    splitter = BasicTokenizer(config.uncased)
    words = count_words(lines, splitter)
    if not words:
        raise DataError("there is no text to build a vocabulary from")
    characters = _frequent_characters(words, config.max_characters)
    words = {word: n for word, n in words.items() if characters.issuperset(word)}
    inner = [c for c in sorted(characters) if splitter.split(f"a{c}a") == [f"a{c}a"]]
    first = [*FUNNEL_SYMBOLS.values(), *sorted(characters), *(CONTINUATION + c for c in inner)]
    if len(first) > config.vocab_size:
        raise TokenizerError(
            f"vocab_size {config.vocab_size} is too small: the special symbols and the characters "
            f"of this text alone are {len(first)} entries"
        )
    return _with_merged_pieces(first, words, config)


def count_words(lines: Iterable[str], splitter: BasicTokenizer) -> dict[str, int]:
    """Count the words and punctuation marks of the lines; those too long to have pieces are out.

    The distinct words are held in memory, the lines are not.
    """
    words: Counter[str] = Counter()
    chunks: Counter[str] = Counter()
    for line in lines:
        chunks.update(line.split(" "))
        if len(chunks) >= CHUNKS_HELD:
            _fold(chunks, words, splitter)
    _fold(chunks, words, splitter)
    return dict(words)


def _fold(chunks: Counter[str], words: Counter[str], splitter: BasicTokenizer) -> None:
    """Move the counts of chunks over to the words they are made of."""
    for chunk, count in chunks.items():
        for word in splitter.split(chunk):
            if len(word) <= MAX_WORD_LENGTH:
                words[word] += count
    chunks.clear()


def _frequent_characters(words: Mapping[str, int], limit: int) -> frozenset[str]:
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for char in word:
            counts[char] += count
    ranked = sorted(counts, key=lambda char: (-counts[char], char))
    return frozenset(ranked[:limit])


def _with_merged_pieces(
    first: list[str], words: Mapping[str, int], config: VocabularyConfig
) -> list[str]:
    entries = dict.fromkeys(first)
    pairs = _PairTable(words)
    while len(entries) < config.vocab_size:
        best = pairs.most_frequent(config.min_frequency)
        if best is None:
            break
        # Two pairs can make the same piece: a+bc, ab+c. It is one entry, where it came first.
        entries[pairs.merge(best)] = None
    return list(entries)


class _PairTable:
    """Words as lists of pieces, with the count and the words of every pair of neighbours."""

    def __init__(self, words: Mapping[str, int]) -> None:
        self._pieces = [[w[0], *(CONTINUATION + c for c in w[1:])] for w in words]
        self._frequencies = list(words.values())
        self._counts: dict[Pair, int] = defaultdict(int)
        self._places: dict[Pair, set[int]] = defaultdict(set)
        for place, pieces in enumerate(self._pieces):
            for pair in pairwise(pieces):
                self._counts[pair] += self._frequencies[place]
                self._places[pair].add(place)
        # Sorted by falling count, then by the pair itself: the order of the words plays no part.
        self._heap = [(-count, pair) for pair, count in self._counts.items()]
        heapq.heapify(self._heap)

    def most_frequent(self, at_least: int) -> Pair | None:
        """Return the most frequent pair, the first in the alphabet on a tie; None if too rare."""
        while self._heap:
            count, pair = heapq.heappop(self._heap)
            current = self._counts.get(pair, 0)
            if current == -count:
                return pair if current >= at_least else None
            # The entry was out of date. A pair that grew got a new entry then; one that shrank
            # gets it now.
            if 0 < current < -count:
                heapq.heappush(self._heap, (-current, pair))
        return None

    def merge(self, pair: Pair) -> str:
        """Replace the pair by one piece in every word, and return that piece."""
        merged = pair[0] + pair[1].removeprefix(CONTINUATION)
        changes: dict[Pair, int] = defaultdict(int)
        for place in self._places.pop(pair):
            old, frequency = self._pieces[place], self._frequencies[place]
            new = _merged(old, pair, merged)
            for neighbours in pairwise(old):
                changes[neighbours] -= frequency
            for neighbours in pairwise(new):
                changes[neighbours] += frequency
                if merged in neighbours:
                    self._places[neighbours].add(place)
            self._pieces[place] = new
        for neighbours, change in changes.items():
            if change:
                self._counts[neighbours] += change
            if change > 0:
                heapq.heappush(self._heap, (-self._counts[neighbours], neighbours))
        return merged


def _merged(pieces: list[str], pair: Pair, merged: str) -> list[str]:
    """Return the pieces of a word with every occurrence of a pair replaced, from the left."""
    result: list[str] = []
    position = 0
    while position < len(pieces):
        if pieces[position] == pair[0] and tuple(pieces[position : position + 2]) == pair:
            result.append(merged)
            position += 2
        else:
            result.append(pieces[position])
            position += 1
    return result
