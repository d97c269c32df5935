"""Train a vocabulary on text; the same lines and settings give the same bytes on any machine.

WordPiece entries are made as in the ``tokenizers`` trainer, by merging the most frequent pair of
adjacent pieces repeatedly. That trainer breaks ties by the order of a hash table, which differs
from run to run; here the alphabetically first pair wins.
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
from funnel.tokenization.base import replace_surrogates
from funnel.tokenization.normalization import normalize
from funnel.tokenization.special_tokens import FUNNEL_TOKENS
from funnel.tokenization.word_table import WordTable
from funnel.tokenization.wordpiece import CONTINUATION, BasicTokenizer
from funnel.utils import text_files
from funnel.utils.errors import DataError, TokenizerError
from funnel.utils.files import atomic_path
from funnel.utils.text import join_names

# SentencePiece adds probabilities up in one part per thread, so the number of threads affects the
# result; a fixed number keeps it the same on every machine.
SENTENCEPIECE_THREADS = 8
MAX_SENTENCE_BYTES = 1 << 24

_LIMITS = ("vocab_size", "min_frequency", "max_characters", "max_words", "sample_characters")
_SHOWN = 10  # characters named in a message

logger = logging.getLogger(__name__)

Pair = tuple[str, str]


@dataclass(frozen=True)
class VocabularyConfig:
    """Kind and size of a vocabulary.

    Attributes:
        kind: ``word_piece`` or ``sent_piece``.
        vocab_size: requested number of ids, special tokens included; a small corpus yields fewer,
            with a warning.
        uncased: lower-case the text first; WordPiece also drops accents then.
        keep_accents: SentencePiece only, as in :func:`funnel.tokenization.get_tokenizer`.
        min_frequency: WordPiece only: a pair seen less often is not merged.
        max_characters: WordPiece only: number of characters to cover, most frequent first.
        max_words: WordPiece only: number of distinct words held in memory; in text with more, the
            rarest are left out of the counts, except for their characters.
        sample_characters: SentencePiece only: characters of text to train on; in longer text, every
            second, fourth, ... line is used.
    """

    kind: str = "word_piece"
    vocab_size: int = 30522
    uncased: bool = True
    keep_accents: bool = False
    min_frequency: int = 2
    max_characters: int = 1000
    max_words: int = 1_000_000
    sample_characters: int = 50_000_000

    def __post_init__(self) -> None:
        if self.kind not in TOKENIZER_KINDS:
            choices = " or ".join(TOKENIZER_KINDS)
            raise TokenizerError(f"tokenizer type {self.kind!r} is unknown; it is {choices}")
        for name in _LIMITS:
            if getattr(self, name) < 1:
                raise TokenizerError(f"{name} is {getattr(self, name)}; it must be at least 1")


def build_vocabulary(
    lines: Iterable[str], path: str | os.PathLike[str], config: VocabularyConfig
) -> int:
    """Train a vocabulary, write it atomically and return the number of its entries.

    Raises:
        DataError: the lines hold no text.
        TokenizerError: ``vocab_size`` is too small for the characters of the text.
        FunnelError: the file cannot be written.
    """
    if config.kind == "word_piece":
        entries = train_wordpiece(lines, config)
        data, size = "".join(f"{entry}\n" for entry in entries).encode(), len(entries)
    else:
        data, size = train_sentencepiece(lines, config)
    if size < config.vocab_size:
        logger.warning("the text yields %d entries of %d asked for", size, config.vocab_size)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return size


def read_lines(paths: Sequence[str | os.PathLike[str]]) -> Iterator[str]:
    """Yield the lines of text files, one after another; see :mod:`funnel.utils.text_files`.

    Raises:
        DataError: a file cannot be read or is not UTF-8; the message names file and line.
    """
    for path in paths:
        try:
            for line in text_files.read_lines(path):
                if line.problem:
                    where = f"{path}, line {line.number}"
                    raise DataError(f"{where}: {line.problem}; {text_files.TO_UTF8}")
                yield line.text
        except text_files.ForeignTextError as error:
            found = f"it is {text_files.FOREIGN}"
            raise DataError(f"{path}, line 1: not UTF-8 text; {found}") from error


def train_sentencepiece(lines: Iterable[str], config: VocabularyConfig) -> tuple[bytes, int]:
    """Return a unigram SentencePiece model (Kudo 2018) and its number of pieces.

    The text is normalized as the tokenizer does. All special tokens but unk are control symbols of
    the model, so no text is encoded as one of them. At most ``sample_characters`` are held in
    memory. Characters that the model does not cover are counted and logged.

    Raises:
        DataError: the lines hold no text.
        TokenizerError: ``vocab_size`` is too small for the characters of the text.
    """
    import sentencepiece

    model = io.BytesIO()
    characters: Counter[str] = Counter()
    # A list, since an exception raised by an iterator would lose its type in C++.
    sentences = _sample_lines(_normalized_lines(lines, characters, config), config)
    if not sentences:
        raise DataError("there is no text to build a vocabulary from")
    special_tokens = list(FUNNEL_TOKENS.values())
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            model_type="unigram",
            vocab_size=config.vocab_size,
            hard_vocab_limit=False,
            # -1 disables the trainer's own <pad>: in our order <cls> and <sep> precede it.
            pad_id=-1,
            control_symbols=special_tokens[3:],
            num_threads=SENTENCEPIECE_THREADS,
            max_sentence_length=MAX_SENTENCE_BYTES,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise TokenizerError(
            f"SentencePiece builds no vocabulary of {config.vocab_size} from this text: {reason}"
        ) from error
    data = model.getvalue()
    processor = sentencepiece.SentencePieceProcessor(model_proto=data)
    unknown = processor.unk_id()
    dropped = [char for char in characters if unknown in processor.encode(char)]
    _report_characters(characters, dropped, "the rarest characters of SentencePiece's text")
    return data, processor.get_piece_size()


def _normalized_lines(
    lines: Iterable[str], characters: Counter[str], config: VocabularyConfig
) -> Iterator[str]:
    """Yield lines as the tokenizer normalizes them, without empty ones; count the characters."""
    too_long = 0
    for line in lines:
        text = normalize(replace_surrogates(line), config.uncased, config.keep_accents)
        characters.update(text)
        # A character has at most four bytes.
        if 4 * len(text) > MAX_SENTENCE_BYTES and len(text.encode()) > MAX_SENTENCE_BYTES:
            too_long += 1
        elif text:
            yield text
    if too_long:
        logger.warning("%d lines of more than %d bytes are left out", too_long, MAX_SENTENCE_BYTES)


def _sample_lines(lines: Iterable[str], config: VocabularyConfig) -> list[str]:
    """Return all lines or, if they are more than ``sample_characters``, every 2nd, 4th, ... one."""
    kept: list[str] = []
    step, held, total = 1, 0, 0
    for number, line in enumerate(lines):
        total += 1
        if number % step:
            continue
        kept.append(line)
        held += len(line)
        while held > config.sample_characters and len(kept) > 1:
            kept, step = kept[::2], 2 * step
            held = sum(map(len, kept))
    if step > 1:
        logger.info(
            "the text has more than %d characters: trained on %d of %d lines (--sample_characters)",
            *(config.sample_characters, len(kept), total),
        )
    return kept


def _report_characters(counts: Mapping[str, int], dropped: Sequence[str], which: str) -> None:
    """Log how many characters of the text are in no entry of the vocabulary."""
    if not dropped:
        logger.info("all %d distinct characters of the text are in the vocabulary", len(counts))
        return
    ranked = sorted(dropped, key=lambda char: (-counts[char], char))
    times, total = sum(counts[char] for char in dropped), sum(counts.values())
    logger.warning(
        "%d of %d distinct characters are in no entry, %d occurrences (%.3f %% of the text): %s, "
        "%s; words with them will be unknown",
        *(len(dropped), len(counts), times, 100 * times / total, which),
        join_names([repr(char) for char in ranked], _SHOWN),
    )


def train_wordpiece(lines: Iterable[str], config: VocabularyConfig) -> list[str]:
    """Return the entries of a WordPiece vocabulary in the order of their ids.

    Special tokens come first, then characters, then merged pieces, most frequent pair first. A
    character that can occur inside a word has both forms (``a``, ``##a``), so every word of known
    characters can be encoded.

    Raises:
        DataError: the lines hold no text.
        TokenizerError: ``vocab_size`` is too small for the characters of the text.
    """
    splitter = BasicTokenizer(config.uncased)
    table = WordTable(splitter, config.max_words)
    table.count(lines)
    counts = table.count_characters()
    if not counts:
        raise DataError("there is no text to build a vocabulary from")
    ranked = sorted(counts, key=lambda char: (-counts[char], char))
    characters = frozenset(ranked[: config.max_characters])
    words = {word: n for word, n in table.words.items() if characters.issuperset(word)}
    inner = [c for c in sorted(characters) if splitter.split(f"a{c}a") == [f"a{c}a"]]
    first = [*FUNNEL_TOKENS.values(), *sorted(characters), *(CONTINUATION + c for c in inner)]
    if len(first) > config.vocab_size:
        raise TokenizerError(
            f"vocab_size {config.vocab_size} is too small: the special tokens and the characters "
            f"of this text alone are {len(first)} entries"
        )
    _report_characters(
        counts, ranked[config.max_characters :], f"all but the {len(characters)} most frequent"
    )
    return _add_merged_pieces(first, words, config)


def _add_merged_pieces(
    first: list[str], words: Mapping[str, int], config: VocabularyConfig
) -> list[str]:
    entries = dict.fromkeys(first)
    pairs = _PairTable(words)
    while len(entries) < config.vocab_size:
        best = pairs.most_frequent(config.min_frequency)
        if best is None:
            break
        # Two pairs can merge to the same piece (a+bc, ab+c), which is one entry.
        entries[pairs.merge(best)] = None
    return list(entries)


class _PairTable:
    """Words as lists of pieces, with the count and the words of every pair of adjacent pieces.

    Counts are updated incrementally: a merge only touches the words that contain the pair.
    """

    def __init__(self, words: Mapping[str, int]) -> None:
        inner = {char: CONTINUATION + char for word in words for char in word}  # shared strings
        self._pieces = [[w[0], *(inner[c] for c in w[1:])] for w in words]
        self._frequencies = list(words.values())
        self._counts: dict[Pair, int] = defaultdict(int)
        self._words_with: dict[Pair, set[int]] = defaultdict(set)
        for word, pieces in enumerate(self._pieces):
            for pair in pairwise(pieces):
                self._counts[pair] += self._frequencies[word]
                self._words_with[pair].add(word)
        # Ordered by descending count, then by the pair; independent of the order of the words.
        self._heap = [(-count, pair) for pair, count in self._counts.items()]
        heapq.heapify(self._heap)

    def most_frequent(self, at_least: int) -> Pair | None:
        """Return the most frequent pair, alphabetically first on a tie; ``None`` if too rare."""
        while self._heap:
            count, pair = heapq.heappop(self._heap)
            current = self._counts.get(pair, 0)
            if current == -count:
                return pair if current >= at_least else None
            # The entry is stale. A pair whose count grew already has a new entry; one whose count
            # shrank gets it here, so that merges need not search the heap.
            if 0 < current < -count:
                heapq.heappush(self._heap, (-current, pair))
        return None

    def merge(self, pair: Pair) -> str:
        """Replace the pair by one piece in every word, and return that piece."""
        merged = pair[0] + pair[1].removeprefix(CONTINUATION)
        changes: dict[Pair, int] = defaultdict(int)
        for word in self._words_with.pop(pair):
            old, frequency = self._pieces[word], self._frequencies[word]
            new = _merge_pair(old, pair, merged)
            for adjacent in pairwise(old):
                changes[adjacent] -= frequency
            for adjacent in pairwise(new):
                changes[adjacent] += frequency
                if merged in adjacent:
                    self._words_with[adjacent].add(word)
            self._pieces[word] = new
        for adjacent, change in changes.items():
            if change:
                self._counts[adjacent] += change
            if change > 0:
                heapq.heappush(self._heap, (-self._counts[adjacent], adjacent))
        return merged


def _merge_pair(pieces: list[str], pair: Pair, merged: str) -> list[str]:
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
