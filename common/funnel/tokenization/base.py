"""What both tokenizers share: the interface, ids and tokens, fingerprint, reading the file."""

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
    """A vocabulary or model file as it was read, and how text is to be treated with it."""

    path: str
    data: bytes
    uncased: bool
    keep_accents: bool = False

    @classmethod
    def read(
        cls, path: str | os.PathLike[str], uncased: bool, keep_accents: bool = False
    ) -> VocabularyFile:
        """Read the file once.

        Raises:
            TokenizerError: it is missing, a directory, unreadable or empty.
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
    """Turns text into token ids and back; special symbols are never added by it.

    Offsets are (start, end exclusive) in characters of the text as it was given, before any
    normalisation. Objects can be pickled, so worker processes can be handed one.

    Attributes:
        kind: ``word_piece`` or ``sent_piece``.
        path: file the vocabulary was read from.
        uncased: whether text is lower-cased first.
        special: ids of the special symbols.
        fingerprint: SHA-256 (hex) over kind, case, accents and the file's bytes. Equal
            fingerprints give equal ids, so caches of encoded data are named by it.
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
        """Return the token ids of a text and, for each, its place in the text."""

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """Return readable text for token ids; special symbols appear as they are spelled.

        Raises:
            TokenizerError: an id is outside the vocabulary.
        """

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """Return the token ids of every text."""
        return [self.encode(text) for text in texts]

    def offsets(self, text: str) -> Offsets:
        """Return the place in the text of every token that :meth:`encode` gives."""
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
        """Whether the token starts a word; whole-word masking relies on it."""
        return self._starts[index]

    def is_func_id(self, index: int) -> bool:
        """Whether the token is a special symbol other than unk."""
        return index in self._functional

    def _piece(self, index: int) -> str:
        if not 0 <= index < len(self._pieces):
            size = len(self._pieces)
            raise TokenizerError(f"{self.path}: no token has the id {index}; there are {size}")
        return self._pieces[index]


def without_surrogates(text: str) -> str:
    """Replace lone surrogates by U+FFFD, one for one: they are no characters and have no UTF-8.

    Broken JSON escapes leave them in a text; the native tokenizers refuse such a string.
    """
    return _SURROGATE.sub("\ufffd", text)


def _fingerprint(kind: str, file: VocabularyFile) -> str:
    settings = f"{kind} uncased={file.uncased} keep_accents={file.keep_accents}\n"
    return hashlib.sha256(settings.encode() + file.data).hexdigest()
