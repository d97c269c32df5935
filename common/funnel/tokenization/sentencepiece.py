"""SentencePiece with the normalization and the digit-comma rule of XLNet (Yang et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import ClassVar, NamedTuple

from sentencepiece import SentencePieceProcessor

from funnel.tokenization.base import (
    BLANK,
    Offsets,
    Tokenizer,
    VocabularyFile,
    begins_word,
    replace_surrogates,
)
from funnel.tokenization.normalization import normalize, normalize_aligned
from funnel.tokenization.special_tokens import BERT_TOKENS, FUNNEL_TOKENS, find_special_ids
from funnel.utils.errors import TokenizerError


class _Piece(NamedTuple):
    """A token with its span in characters of the normalized text."""

    text: str
    token_id: int
    start: int
    end: int


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece tokenizer; see :class:`~funnel.tokenization.base.Tokenizer`.

    The model decides whether ``<cls>`` in a text becomes the special token: yes if it is declared
    as a user-defined symbol, no if it is a control symbol.
    """

    kind: ClassVar[str] = "sent_piece"

    def __init__(self, file: VocabularyFile) -> None:
        self._processor = _open_model(file)
        size = self._processor.get_piece_size()
        pieces = [self._processor.id_to_piece(i) for i in range(size)]
        vocabulary = {piece: i for i, piece in enumerate(pieces)}
        unknown = (FUNNEL_TOKENS["unk"], BERT_TOKENS["unk"])
        if vocabulary.keys().isdisjoint(unknown):
            # Every model has an unknown piece, but it may be spelled differently.
            vocabulary |= dict.fromkeys(unknown, self._processor.unk_id())
        named = dict(file.options.special_tokens)
        super().__init__(file, pieces, find_special_ids(vocabulary, file.path, named))
        self._expansions = {
            i: [part.token_id for part in self._without_comma(_Piece(piece, i, 0, len(piece)), "")]
            for i, piece in enumerate(pieces)
            if _ends_in_digit_comma(piece) and i not in self._functional
        }
        # Consecutive unknown characters form one token, which can end in digit and comma only if
        # the comma is unknown too. Otherwise the ids alone show which tokens to expand.
        self._comma_is_unknown = self._processor.piece_to_id(",") == self.special.unk_id

    def _starts_word(self, token_id: int, piece: str) -> bool:
        if token_id in self._functional or token_id == self.special.unk_id:
            return False
        return begins_word(piece)

    def tokenize(self, text: str) -> list[str]:
        """Return the tokens of a text."""
        return [piece.text for piece in self._split(self._normalize(text))]

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """Return the token ids of every text, on all cores."""
        normalized = [self._normalize(text) for text in texts]
        rows = self._processor.encode(normalized, out_type=int)
        return [self._expand(row, text) for row, text in zip(rows, normalized, strict=True)]

    def encode_with_offsets(self, text: str) -> tuple[list[int], Offsets]:
        """Return the token ids of a text and the offsets of each token."""
        text = replace_surrogates(text)
        aligned = normalize_aligned(text, self.uncased, self.keep_accents)
        pieces = self._split(aligned.text)
        offsets = [aligned.original_span(piece.start, piece.end) for piece in pieces]
        return [piece.token_id for piece in pieces], offsets

    def decode(self, ids: Iterable[int]) -> str:
        """Return readable text for token ids."""
        words = []
        special = self._functional | {self.special.unk_id}
        for is_special, run in groupby(ids, key=lambda i: i in special):
            if is_special:
                words.extend(self.convert_ids_to_tokens(run))
            else:
                ordinary = [int(i) for i in run]
                self.convert_ids_to_tokens(ordinary)  # raises for an id outside the vocabulary
                words.append(self._processor.decode(ordinary).strip())
        return " ".join(word for word in words if word)

    def _normalize(self, text: str) -> str:
        return normalize(replace_surrogates(text), self.uncased, self.keep_accents)

    def _expand(self, ids: list[int], normalized: str) -> list[int]:
        """Apply the digit-comma rule to the ids of a text."""
        if self._comma_is_unknown and self.special.unk_id in ids:
            return [piece.token_id for piece in self._split(normalized)]
        if self._expansions.keys().isdisjoint(ids):
            return ids
        return [part for i in ids for part in self._expansions.get(i, (i,))]

    def _split(self, normalized: str) -> list[_Piece]:
        """Return the tokens of a normalized text, with the digit-comma rule applied."""
        found = self._processor.encode(normalized, out_type="offset_mapping")
        pieces = []
        for text, token_id, span in zip(
            found["pieces"], found["ids"], found["offsets"], strict=True
        ):
            piece = _Piece(text, token_id, *span)
            if _ends_in_digit_comma(text) and token_id not in self._functional:
                pieces.extend(self._without_comma(piece, normalized))
            else:
                pieces.append(piece)
        return pieces

    def _without_comma(self, piece: _Piece, normalized: str) -> list[_Piece]:
        """Encode a piece that ends in digit and comma without the comma, then append the comma."""
        parts = self._processor.encode(piece.text[:-1].replace(BLANK, ""), out_type=str)
        if not piece.text.startswith(BLANK) and parts and parts[0].startswith(BLANK):
            parts = [parts[0][1:], *parts[1:]] if len(parts[0]) > 1 else parts[1:]
        end = max(piece.start, piece.end - 1)
        start = piece.start
        while start < end and normalized[start : start + 1] == " ":
            start += 1
        widths = [len(part.replace(BLANK, "")) for part in parts]
        if sum(widths) != end - start:
            # The model's own normalization changed the length: every part gets the full span.
            spans = [(start, end)] * len(parts)
        else:
            ends = [start + sum(widths[: i + 1]) for i in range(len(parts))]
            spans = [(stop - width, stop) for stop, width in zip(ends, widths, strict=True)]
        to_id = self._processor.piece_to_id
        comma = _Piece(",", to_id(","), end, piece.end)
        return [*(_Piece(p, to_id(p), *s) for p, s in zip(parts, spans, strict=True)), comma]


def _open_model(file: VocabularyFile) -> SentencePieceProcessor:
    try:
        return SentencePieceProcessor(model_proto=file.data)
    except RuntimeError as error:
        raise TokenizerError(
            f"{file.path}: not a SentencePiece model, or a corrupt one; "
            "a text file with one token a line needs the tokenizer type word_piece"
        ) from error


def _ends_in_digit_comma(piece: str) -> bool:
    return len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit()
