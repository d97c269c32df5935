"""WordPiece: BERT's basic tokenization, then greedy longest-match-first (Devlin et al. 2019).

The ``tokenizers`` library defines the ids. Calls of it are slow for short texts, so the ids of
chunks (runs of characters without a blank) are cached. The cache changes no id: a blank ends a
word, and no step of the normalization looks across one.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterable
from itertools import chain
from typing import ClassVar

from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from funnel.tokenization.base import Offsets, Tokenizer, VocabularyFile, replace_surrogates
from funnel.tokenization.special_tokens import find_special_ids
from funnel.utils.errors import TokenizerError

CONTINUATION = "##"
MAX_WORD_LENGTH = 200
# A full cache is cleared; frequent words are soon cached again. With chunks of at most 32
# characters it stays below about 100 MB for any text, near 40 MB for English.
CACHE_ENTRIES = 1 << 18
CACHED_CHUNK_LENGTH = 32

logger = logging.getLogger(__name__)

_VISIBLE_ASCII = re.compile(r"[!-~]+")
_ASCII_WORD_OR_MARK = re.compile(r"[A-Za-z0-9]+|[!-/:-@\[-`{-~]")


class WordPieceTokenizer(Tokenizer):
    """A WordPiece tokenizer; see :class:`~funnel.tokenization.base.Tokenizer`.

    ``<cls>`` in a text is ordinary text, split at its punctuation; it never becomes the token.
    """

    kind: ClassVar[str] = "word_piece"

    def __init__(self, file: VocabularyFile) -> None:
        vocabulary = read_vocabulary(file)
        special = find_special_ids(vocabulary, file.path)
        super().__init__(file, list(vocabulary), special)
        self._splitter = BasicTokenizer(file.uncased)
        self._library = self._splitter.build_tokenizer(vocabulary, self._pieces[special.unk_id])
        self._cache = _ChunkCache(self._library, self._splitter)

    def _is_start(self, index: int, piece: str) -> bool:
        return not piece.startswith(CONTINUATION)

    def tokenize(self, text: str) -> list[str]:
        """Return the tokens of a text."""
        pieces = self._pieces
        return [pieces[i] for i in self.encode(text)]

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text."""
        return list(chain.from_iterable(map(self._cache.__getitem__, text.split(" "))))

    def encode_with_offsets(self, text: str) -> tuple[list[int], Offsets]:
        """Return the token ids of a text and the offsets of each token."""
        text = text if text.isascii() else replace_surrogates(text)
        encoding = self._library.encode(text, add_special_tokens=False)
        offsets = encoding.offsets
        if self.uncased and not text.isascii():
            offsets = _extend_over_accents(text, offsets)
        return encoding.ids, offsets

    def decode(self, ids: Iterable[int]) -> str:
        """Return readable text for token ids."""
        words: list[str] = []
        for token in self.convert_ids_to_tokens(ids):
            if token.startswith(CONTINUATION) and words:
                words[-1] += token.removeprefix(CONTINUATION)
            else:
                words.append(token)
        return _join_words(words)


class BasicTokenizer:
    """The steps before vocabulary lookup: cleaning, CJK, case, accents, punctuation."""

    def __init__(self, uncased: bool) -> None:
        self.uncased = uncased
        # strip_accents=None: accents are dropped if and only if the text is lower-cased.
        self._normalizer = BertNormalizer(
            clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=uncased
        )
        self._pre_tokenizer = BertPreTokenizer()

    def split(self, chunk: str) -> list[str]:
        """Return the words and punctuation marks of a text."""
        words = self.split_visible_ascii(chunk)
        if words is not None:
            return words
        text = self._normalizer.normalize_str(replace_surrogates(chunk))
        return [word for word, _ in self._pre_tokenizer.pre_tokenize_str(text)]

    def split_visible_ascii(self, chunk: str) -> list[str] | None:
        """Split a chunk of visible ASCII characters; return ``None`` for any other chunk.

        For such a chunk the steps reduce to case and punctuation, and a regular expression is four
        times as fast as a call of the library.
        """
        if not _VISIBLE_ASCII.fullmatch(chunk):
            return None
        return _ASCII_WORD_OR_MARK.findall(chunk.lower() if self.uncased else chunk)

    def build_tokenizer(self, vocabulary: dict[str, int], unknown: str) -> LibraryTokenizer:
        """Return a tokenizer of the library with these steps and a vocabulary."""
        tokenizer = LibraryTokenizer(
            WordPiece(
                vocab=vocabulary,
                unk_token=unknown,
                max_input_chars_per_word=MAX_WORD_LENGTH,
                continuing_subword_prefix=CONTINUATION,
            )
        )
        tokenizer.normalizer = self._normalizer
        tokenizer.pre_tokenizer = self._pre_tokenizer
        return tokenizer

    def __reduce__(self) -> tuple[type[BasicTokenizer], tuple[bool]]:
        return BasicTokenizer, (self.uncased,)


class _ChunkCache(dict[str, tuple[int, ...]]):
    """Ids of chunks (texts without a blank), computed on demand; bounded in size."""

    def __init__(self, library: LibraryTokenizer, splitter: BasicTokenizer) -> None:
        super().__init__()
        self._library, self._splitter, self._model = library, splitter, library.model
        self._vocabulary = library.get_vocab(with_added_tokens=False)
        self._known_words: dict[str, tuple[int, ...]] = {
            token: (i,) for token, i in self._vocabulary.items() if len(token) <= MAX_WORD_LENGTH
        }

    def __missing__(self, chunk: str) -> tuple[int, ...]:
        words = self._splitter.split_visible_ascii(chunk)
        if words is None:
            text = replace_surrogates(chunk)
            ids = tuple(self._library.encode(text, add_special_tokens=False).ids)
        else:
            ids = tuple(chain.from_iterable(map(self._word_ids, words)))
        if len(chunk) <= CACHED_CHUNK_LENGTH:
            if len(self) >= CACHE_ENTRIES:
                self.clear()
            self[chunk] = ids
        return ids

    def _word_ids(self, word: str) -> tuple[int, ...]:
        """Return the ids of one word; a word in the vocabulary needs no search."""
        found = self._known_words.get(word)
        if found is None:
            # Looked up by token, so that all cache entries share one int object per id.
            pieces = self._model.tokenize(word)
            found = tuple(self._vocabulary[piece.value] for piece in pieces)
        return found

    def __reduce__(self) -> tuple[type[_ChunkCache], tuple[LibraryTokenizer, BasicTokenizer]]:
        return _ChunkCache, (self._library, self._splitter)


def read_vocabulary(file: VocabularyFile) -> dict[str, int]:
    """Parse a vocabulary file to token -> id; ids count distinct lines.

    Raises:
        TokenizerError: the file is not UTF-8 text, or has a blank line before its end.
    """
    try:
        lines = file.data.decode("utf-8-sig").rstrip().split("\n")
    except UnicodeDecodeError as error:
        raise TokenizerError(
            f"{file.path}: not a UTF-8 text file with one token a line; "
            "a SentencePiece model needs the tokenizer type sent_piece"
        ) from error
    vocabulary: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        token = line.strip()
        if not token:
            raise TokenizerError(f"{file.path}, line {number}: blank line inside the vocabulary")
        vocabulary.setdefault(token, len(vocabulary))
    if len(vocabulary) < len(lines):
        logger.warning(
            "%s: %d repeated lines; later ids are lower than their line numbers by as many",
            file.path,
            len(lines) - len(vocabulary),
        )
    return vocabulary


def _extend_over_accents(text: str, offsets: Offsets) -> Offsets:
    """Extend every end over the accents that follow it, which the library leaves out."""
    extended = []
    limit = len(text)
    for start, end in reversed(offsets):
        while end < limit and unicodedata.category(text[end]) == "Mn":
            end += 1
        extended.append((start, end))
        limit = start
    return extended[::-1]


def _join_words(words: list[str]) -> str:
    """Join words with blanks, but without blanks before or after punctuation where usual."""
    text = " ".join(words)
    text = re.sub(r" (?=[.,;:!?%)\]}])", "", text)
    text = re.sub(r"(?<=[(\[{]) ", "", text)
    return re.sub(r"(?<=\w) ' (?=(?:s|t|d|m|re|ve|ll)\b)", "'", text, flags=re.IGNORECASE)
