"""Base class of the tokenizers: interface, vocabulary file, fingerprint."""

from __future__ import annotations

import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import ClassVar

from funnel.config.inputs import SegmentIds
from funnel.tokenization.special_tokens import SpecialIds
from funnel.utils.compressed import is_compressed
from funnel.utils.errors import TokenizerError
from funnel.utils.text import is_punctuation

Offsets = list[tuple[int, int]]

_START_BYTES = 4096
_SURROGATE = re.compile("[\ud800-\udfff]")


MAX_WORD_LENGTH = 200
_NO_IDS = ("segments", "model_max_length")  # options that decide no token id
BLANK = "▁"  # SentencePiece's blank


@dataclass(frozen=True)
class AddedToken:
    """A token that is searched for in the text before it is split; fields as in ``tokenizers``."""

    content: str
    token_id: int
    special: bool = False
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = True


@dataclass(frozen=True)
class TokenizerOptions:
    """What a vocabulary file does not say, apart from case; the defaults are this project's.

    Attributes:
        strip_accents: WordPiece: drop accents; None: if and only if text is lower-cased.
        clean_text: WordPiece: drop control characters.
        split_cjk: WordPiece: CJK characters are words.
        max_word_length: WordPiece: longer words are unknown.
        special_tokens: (name, token) of special tokens, e.g. ``("cls", "[CLS]")``; the others are
            found by their usual spellings.
        added_tokens: in the order of their ids.
        split_special: special tokens among ``added_tokens`` are ordinary text where a text has
            them.
        segments: segment ids of sequences.
        model_max_length: tokens to which transformers cuts a text; None: not stated.
    """

    strip_accents: bool | None = None
    clean_text: bool = True
    split_cjk: bool = True
    max_word_length: int = MAX_WORD_LENGTH
    special_tokens: tuple[tuple[str, str], ...] = ()
    added_tokens: tuple[AddedToken, ...] = ()
    split_special: bool = False
    segments: SegmentIds = field(default_factory=SegmentIds)
    model_max_length: int | None = None

    def describe(self) -> str:
        """Return the options that decide ids, as text; empty for the defaults."""
        default = TokenizerOptions()
        names = [item.name for item in fields(self) if item.name not in _NO_IDS]
        changed = [name for name in names if getattr(self, name) != getattr(default, name)]
        return " ".join(f"{name}={getattr(self, name)!r}" for name in changed)


@dataclass(frozen=True)
class VocabularyFile:
    """The content of a vocabulary or model file, and how text is normalized for it."""

    path: str
    data: bytes
    uncased: bool
    keep_accents: bool = False
    options: TokenizerOptions = field(default_factory=TokenizerOptions)

    def __post_init__(self) -> None:
        """Refuse compressed files: a vocabulary is also copied, and compared byte by byte."""
        if is_compressed(self.data[:_START_BYTES]):
            raise TokenizerError(
                f"{self.path}: the vocabulary is compressed; "
                "unpack it first (gunzip, bunzip2, unxz)"
            )

    @classmethod
    def read(
        cls, path: str | os.PathLike[str], uncased: bool, keep_accents: bool = False
    ) -> VocabularyFile:
        """Read a file.

        Raises:
            TokenizerError: the file is missing, a directory, unreadable, empty or compressed.
        """
        name = os.fspath(path)
        if not name:
            raise TokenizerError("no vocabulary given: set the tokenizer path to its file")
        try:
            data = Path(name).read_bytes()
        except OSError as error:
            reason = error.strerror or error
            raise TokenizerError(f"{name}: the vocabulary cannot be read: {reason}") from error
        if not data.strip(b"\r\n"):
            raise TokenizerError(f"{name}: the vocabulary file is empty")
        return cls(name, data, uncased, keep_accents)


class Tokenizer(ABC):
    """Converts text to token ids and back; adds no special tokens.

    Offsets are (start, end exclusive) in characters of the original text, before any normalization.
    Tokenizers can be pickled, e.g. for worker processes.

    Attributes:
        kind: ``word_piece`` or ``sent_piece``.
        path: file the vocabulary was read from.
        file: its content, and the settings of the tokenizer.
        uncased: whether text is lower-cased first.
        special: ids of the special tokens.
        fingerprint: SHA-256 (hex) over kind, settings and the file's bytes. Equal fingerprints
            imply equal ids; caches of encoded data are keyed by it.
    """

    kind: ClassVar[str]

    def __init__(self, file: VocabularyFile, pieces: Sequence[str], special: SpecialIds) -> None:
        self.file = file
        self.path = file.path
        self.uncased = file.uncased
        self.keep_accents = file.keep_accents
        self.special = special
        self.fingerprint = _fingerprint(self.kind, file)
        self._pieces = list(pieces)
        self._functional = special.functional
        self._starts = [self._starts_word(i, piece) for i, piece in enumerate(self._pieces)]

    @abstractmethod
    def _starts_word(self, token_id: int, piece: str) -> bool:
        """Whether a token with this id and text starts a word."""

    @abstractmethod
    def tokenize(self, text: str) -> list[str]:
        """Return the tokens of a text."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text."""

    @abstractmethod
    def encode_with_offsets(self, text: str) -> tuple[list[int], Offsets]:
        """Return the token ids of a text and the offsets of each token."""

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """Return readable text for token ids; special tokens appear as in the vocabulary.

        Raises:
            TokenizerError: an id is outside the vocabulary.
        """

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """Return the token ids of every text."""
        return [self.encode(text) for text in texts]

    def offsets(self, text: str) -> Offsets:
        """Return the offsets of every token of :meth:`encode`."""
        return self.encode_with_offsets(text)[1]

    def convert_ids_to_tokens(self, ids: Iterable[int]) -> list[str]:
        """Return the token of every id.

        Raises:
            TokenizerError: an id is outside the vocabulary.
        """
        return [self._piece(i) for i in ids]

    @property
    def segments(self) -> SegmentIds:
        """Segment ids of the sequences that the model reads."""
        return self.file.options.segments

    @property
    def vocabulary_hash(self) -> str:
        """SHA-256 (hex) over the tokens in the order of their ids, whatever file they are from."""
        return hashlib.sha256("\n".join(self._pieces).encode()).hexdigest()

    def use_segments(self, segments: SegmentIds) -> None:
        """Replace the segment ids, which decide no token id."""
        self.file = replace(self.file, options=replace(self.file.options, segments=segments))

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return len(self._pieces)

    def is_start_id(self, token_id: int) -> bool:
        """Whether the token starts a word; used by whole-word masking."""
        return self._starts[token_id]

    def is_func_id(self, token_id: int) -> bool:
        """Whether the token is a special token other than unk."""
        return token_id in self._functional

    def _piece(self, token_id: int) -> str:
        if not 0 <= token_id < len(self._pieces):
            size = len(self._pieces)
            raise TokenizerError(f"{self.path}: no token has the id {token_id}; there are {size}")
        return self._pieces[token_id]


def begins_word(piece: str) -> bool:
    """Return whether a piece of a SentencePiece model begins a word: after a blank, or a mark."""
    return piece.startswith(BLANK) or (len(piece) == 1 and piece != "'" and is_punctuation(piece))


def replace_surrogates(text: str) -> str:
    """Replace lone surrogates by U+FFFD, one for one.

    Broken JSON escapes produce them. They have no UTF-8 encoding, so the native tokenizers reject a
    string that contains one.
    """
    return _SURROGATE.sub("\ufffd", text)


def _fingerprint(kind: str, file: VocabularyFile) -> str:
    settings = f"{kind} uncased={file.uncased} keep_accents={file.keep_accents}\n"
    settings += file.options.describe()
    return hashlib.sha256(settings.encode() + file.data).hexdigest()
