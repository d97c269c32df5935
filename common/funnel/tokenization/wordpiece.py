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
from typing import Any, ClassVar

from tokenizers import AddedToken as LibraryToken
from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from funnel.tokenization.base import (
    Offsets,
    Tokenizer,
    TokenizerOptions,
    VocabularyFile,
    replace_surrogates,
)
from funnel.tokenization.special_tokens import find_special_ids
from funnel.utils.errors import TokenizerError
from funnel.utils.text import ASCII_BLANKS

CONTINUATION = "##"
# A full cache is cleared; frequent words are soon cached again. With chunks of at most 32
# characters it stays below about 100 MB for any text, near 40 MB for English.
CACHE_ENTRIES = 1 << 18
CACHED_CHUNK_LENGTH = 32

logger = logging.getLogger(__name__)

_VISIBLE_ASCII = re.compile(r"[!-~]+")
_ASCII_WORD_OR_MARK = re.compile(r"[A-Za-z0-9]+|[!-/:-@\[-`{-~]")


class WordPieceTokenizer(Tokenizer):
    """A WordPiece tokenizer; see :class:`~funnel.tokenization.base.Tokenizer`.

    ``<cls>`` in a text is ordinary text, split at its punctuation; it never becomes the token,
    unless it is among the added tokens.
    """

    kind: ClassVar[str] = "word_piece"

    def __init__(self, file: VocabularyFile) -> None:
        vocabulary, options = read_vocabulary(file), file.options
        pieces = list(vocabulary) + name_added_tokens(len(vocabulary), file)
        every = {piece: i for i, piece in reversed(list(enumerate(pieces))) if piece}
        special = find_special_ids(every, file.path, dict(options.special_tokens))
        super().__init__(file, pieces, special)
        self._splitter = BasicTokenizer(file.uncased, options)
        self._library = self._splitter.build_tokenizer(vocabulary, self._pieces[special.unk_id])
        add_tokens(self._library, file)
        self._cache = _ChunkCache(self._library, self._splitter)
        self._find_added = _added_token_finder(options)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # The library's own pickle loses this switch.
        self._library.encode_special_tokens = self.file.options.split_special

    def _starts_word(self, token_id: int, piece: str) -> bool:
        return not piece.startswith(CONTINUATION)

    def tokenize(self, text: str) -> list[str]:
        """Return the tokens of a text."""
        pieces = self._pieces
        return [pieces[i] for i in self.encode(text)]

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text."""
        if self._find_added is not None and self._find_added.search(text):
            return self._library.encode(replace_surrogates(text), add_special_tokens=False).ids
        return list(chain.from_iterable(map(self._cache.__getitem__, text.split(" "))))

    def encode_with_offsets(self, text: str) -> tuple[list[int], Offsets]:
        """Return the token ids of a text and the offsets of each token."""
        text = text if text.isascii() else replace_surrogates(text)
        encoding = self._library.encode(text, add_special_tokens=False)
        offsets = encoding.offsets
        if self._splitter.drops_accents and not text.isascii():
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

    def __init__(self, uncased: bool, options: TokenizerOptions | None = None) -> None:
        options = options or TokenizerOptions()
        self.uncased, self._options = uncased, options
        # strip_accents=None: accents are dropped if and only if the text is lower-cased.
        self._normalizer = BertNormalizer(
            clean_text=options.clean_text,
            handle_chinese_chars=options.split_cjk,
            strip_accents=options.strip_accents,
            lowercase=uncased,
        )
        self._pre_tokenizer = BertPreTokenizer()

    @property
    def drops_accents(self) -> bool:
        """Whether accents are dropped."""
        chosen = self._options.strip_accents
        return self.uncased if chosen is None else chosen

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
                max_input_chars_per_word=self._options.max_word_length,
                continuing_subword_prefix=CONTINUATION,
            )
        )
        tokenizer.normalizer = self._normalizer
        tokenizer.pre_tokenizer = self._pre_tokenizer
        return tokenizer

    def __reduce__(self) -> tuple[type[BasicTokenizer], tuple[bool, TokenizerOptions]]:
        return BasicTokenizer, (self.uncased, self._options)


class _ChunkCache(dict[str, tuple[int, ...]]):
    """Ids of chunks (texts without a blank), computed on demand; bounded in size."""

    def __init__(self, library: LibraryTokenizer, splitter: BasicTokenizer) -> None:
        super().__init__()
        self._library, self._splitter, self._model = library, splitter, library.model
        self._vocabulary = library.get_vocab(with_added_tokens=False)
        self._known_words: dict[str, tuple[int, ...]] = {
            token: (i,)
            for token, i in self._vocabulary.items()
            if len(token) <= self._model.max_input_chars_per_word
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

    Blanks around a token are dropped. A token of white space alone, such as U+2028 in Google's
    Chinese vocabulary, keeps its id, although no text contains it after cleaning.

    Raises:
        TokenizerError: the file is not UTF-8 text, or has an empty line before its end.
    """
    try:
        lines = file.data.decode("utf-8-sig").rstrip(ASCII_BLANKS).split("\n")
    except UnicodeDecodeError as error:
        raise TokenizerError(
            f"{file.path}: not a UTF-8 text file with one token a line; "
            "a SentencePiece model needs the tokenizer type sent_piece"
        ) from error
    vocabulary: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        # Only ASCII blanks are dropped: other white space is part of a token.
        token = line.strip(ASCII_BLANKS) or line.rstrip("\r")
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


def name_added_tokens(size: int, file: VocabularyFile) -> list[str]:
    """Return the added tokens beyond a vocabulary of ``size`` entries, in the order of their ids.

    Raises:
        TokenizerError: an id is used twice or left out, which the library cannot represent.
    """
    beyond = [token for token in file.options.added_tokens if token.token_id >= size]
    for expected, token in enumerate(beyond, start=size):
        if token.token_id != expected:
            raise TokenizerError(
                f"{file.path}: the added token {token.content!r} has the id {token.token_id}, "
                f"where {expected} is the next one"
            )
    return [token.content for token in beyond]


def add_tokens(library: LibraryTokenizer, file: VocabularyFile) -> None:
    """Add the added tokens of a vocabulary to a tokenizer of the library.

    Raises:
        TokenizerError: one of them gets another id than it should have.
    """
    for token in file.options.added_tokens:
        library.add_tokens(
            [
                LibraryToken(
                    token.content,
                    special=token.special,
                    single_word=token.single_word,
                    lstrip=token.lstrip,
                    rstrip=token.rstrip,
                    normalized=token.normalized,
                )
            ]
        )
        found = library.token_to_id(token.content)
        if found != token.token_id:
            raise TokenizerError(
                f"{file.path}: the added token {token.content!r} should have the id "
                f"{token.token_id}, but the vocabulary has it as {found}"
            )
    library.encode_special_tokens = file.options.split_special


def _added_token_finder(options: TokenizerOptions) -> re.Pattern[str] | None:
    """Return an expression that finds a text which may hold an added token; None without any."""
    sought = [t for t in options.added_tokens if not (t.special and options.split_special)]
    if not sought:
        return None
    if any(token.normalized for token in sought):
        return re.compile("")  # compared after normalization: any text may hold one
    return re.compile("|".join(re.escape(token.content) for token in sought))


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
