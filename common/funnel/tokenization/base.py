"""Base class of the tokenizers: interface, vocabulary file, fingerprint."""

from __future__ import annotations

import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from funnel.tokenization.special_tokens import SpecialIds
from funnel.utils.errors import TokenizerError

Offsets = list[tuple[int, int]]

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class VocabularyFile:
    """The content of a vocabulary or model file, and how text is normalized for it."""

    path: str
    data: bytes
    uncased: bool
    keep_accents: bool = False

    @classmethod
    def read(
        cls, path: str | os.PathLike[str], uncased: bool, keep_accents: bool = False
    ) -> VocabularyFile:
        """Read a file.

        Raises:
            TokenizerError: the file is missing, a directory, unreadable or empty.
        """
        name = os.fspath(path)
        if not name:
            raise TokenizerError("no vocabulary given: set the tokenizer path to its file")
        try:
            data = Path(name).read_bytes()
        except OSError as error:
            reason = error.strerror or error
            raise TokenizerError(f"{name}: the vocabulary cannot be read: {reason}") from error
        if not data.strip():
            raise TokenizerError(f"{name}: the vocabulary file is empty")
        return cls(name, data, uncased, keep_accents)


class Tokenizer(ABC):
    """Converts text to token ids and back; adds no special tokens.

    Offsets are (start, end exclusive) in characters of the original text, before any normalization.
    Tokenizers can be pickled, e.g. for worker processes.

    Attributes:
        kind: ``word_piece`` or ``sent_piece``.
        path: file the vocabulary was read from.
        uncased: whether text is lower-cased first.
        special: ids of the special tokens.
        fingerprint: SHA-256 (hex) over kind, case, accents and the file's bytes. Equal
            fingerprints imply equal ids; caches of encoded data are keyed by it.
    """

    kind: ClassVar[str]

    def __init__(self, file: VocabularyFile, pieces: Sequence[str], special: SpecialIds) -> None:
        self.path = file.path
        self.uncased = file.uncased
        self.keep_accents = file.keep_accents
        self.special = special
        self.fingerprint = _fingerprint(self.kind, file)
        self._pieces = list(pieces)
        self._functional = special.functional
        self._starts = [self._is_start(i, piece) for i, piece in enumerate(self._pieces)]

    @abstractmethod
    def _is_start(self, index: int, piece: str) -> bool:
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
    def vocab_size(self) -> int:
        """Number of ids."""
        return len(self._pieces)

    def is_start_id(self, index: int) -> bool:
        """Whether the token starts a word; used by whole-word masking."""
        return self._starts[index]

    def is_func_id(self, index: int) -> bool:
        """Whether the token is a special token other than unk."""
        return index in self._functional

    def _piece(self, index: int) -> str:
        if not 0 <= index < len(self._pieces):
            size = len(self._pieces)
            raise TokenizerError(f"{self.path}: no token has the id {index}; there are {size}")
        return self._pieces[index]


def replace_surrogates(text: str) -> str:
    """Replace lone surrogates by U+FFFD, one for one.

    Broken JSON escapes produce them. They have no UTF-8 encoding, so the native tokenizers reject a
    string that contains one.
    """
    return _SURROGATE.sub("\ufffd", text)


def _fingerprint(kind: str, file: VocabularyFile) -> str:
    settings = f"{kind} uncased={file.uncased} keep_accents={file.keep_accents}\n"
    return hashlib.sha256(settings.encode() + file.data).hexdigest()
