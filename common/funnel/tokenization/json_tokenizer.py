"""Tokenizers that only a ``tokenizer.json`` describes, as the ``tokenizers`` library reads them.

Files whose vocabulary and settings a WordPiece tokenizer of this package can take are read as such
by :mod:`funnel.tokenization.saved`; this module is for all others, e.g. unigram models that
``transformers`` saved without their SentencePiece file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import Tokenizer as LibraryTokenizer

from funnel.config.inputs import SegmentIds
from funnel.tokenization.base import (
    Offsets,
    Tokenizer,
    VocabularyFile,
    begins_word,
    replace_surrogates,
)
from funnel.tokenization.special_tokens import find_special_ids
from funnel.utils.errors import TokenizerError

CONTINUATION = "##"


class JsonTokenizer(Tokenizer):
    """A tokenizer of the ``tokenizers`` library, see :class:`~funnel.tokenization.base.Tokenizer`.

    Its kind is ``word_piece`` for a WordPiece model, ``sent_piece`` for any other.
    """

    def __init__(self, file: VocabularyFile) -> None:
        self._library = open_library(file)
        self._library.no_padding()
        self._library.no_truncation()
        self._library.encode_special_tokens = file.options.split_special
        self._is_wordpiece = type(self._library.model).__name__ == "WordPiece"
        self.kind = "word_piece" if self._is_wordpiece else "sent_piece"  # type: ignore[misc]
        vocabulary = self._library.get_vocab(with_added_tokens=True)
        pieces = [""] * (max(vocabulary.values(), default=-1) + 1)
        for piece, i in vocabulary.items():
            pieces[i] = piece
        special = find_special_ids(vocabulary, file.path, dict(file.options.special_tokens))
        super().__init__(file, pieces, special)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # The library's own pickle loses this switch.
        self._library.encode_special_tokens = self.file.options.split_special

    def _starts_word(self, token_id: int, piece: str) -> bool:
        if self._is_wordpiece:
            return not piece.startswith(CONTINUATION)
        if token_id in self._functional or token_id == self.special.unk_id:
            return False
        return begins_word(piece)

    def tokenize(self, text: str) -> list[str]:
        """Return the tokens of a text."""
        return self._encode(text).tokens

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text."""
        return self._encode(text).ids

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """Return the token ids of every text, on all cores."""
        rows = [replace_surrogates(text) for text in texts]
        return [row.ids for row in self._library.encode_batch(rows, add_special_tokens=False)]

    def encode_with_offsets(self, text: str) -> tuple[list[int], Offsets]:
        """Return the token ids of a text and the offsets of each token."""
        encoding = self._encode(text)
        offsets = []
        for start, end in encoding.offsets:
            while start < end and text[start].isspace():  # of the piece's own blank
                start += 1
            offsets.append((start, end))
        return encoding.ids, offsets

    def decode(self, ids: Iterable[int]) -> str:
        """Return readable text for token ids."""
        known = [int(i) for i in ids]
        self.convert_ids_to_tokens(known)  # raises for an id outside the vocabulary
        return self._library.decode(known, skip_special_tokens=False)

    def _encode(self, text: str) -> Any:
        return self._library.encode(replace_surrogates(text), add_special_tokens=False)


def open_library(file: VocabularyFile) -> LibraryTokenizer:
    """Return the library's tokenizer of a ``tokenizer.json``.

    Raises:
        TokenizerError: the library cannot read it.
    """
    try:
        return LibraryTokenizer.from_str(file.data.decode("utf-8-sig"))
    except Exception as error:  # the library raises Exception itself
        reason = " ".join(str(error).split())[:200]
        raise TokenizerError(f"{file.path}: no readable tokenizer.json: {reason}") from None


def read_segments(content: Mapping[str, Any], path: str) -> SegmentIds | None:
    """Return the segment ids that a ``tokenizer.json`` gives to [CLS] A [SEP] B [SEP].

    None if it does not say how sequences are built.

    Raises:
        TokenizerError: it builds other sequences.
    """
    processor = content.get("post_processor")
    if not isinstance(processor, dict):
        return None
    kind = processor.get("type")
    if kind == "BertProcessing":
        return SegmentIds(cls=0)
    pair = processor.get("pair") if kind == "TemplateProcessing" else None
    try:
        parts = [(*item, *item.values()) for item in pair or ()]
        found = [(name, value["id"], int(value["type_id"])) for name, value in parts]
        shape = [name if name != "Sequence" else token for name, token, _ in found]
    except (AttributeError, KeyError, TypeError, ValueError):
        shape = []
    if shape != ["SpecialToken", "A", "SpecialToken", "B", "SpecialToken"]:
        raise TokenizerError(
            f"{path}: its post_processor ({json.dumps(kind)}) should build [CLS] A [SEP] B [SEP], "
            "the sequences that Funnel models read"
        )
    return SegmentIds(cls=found[0][2], a=found[1][2], b=found[3][2])
