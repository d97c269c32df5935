"""WordPiece and SentencePiece tokenizers.

from funnel import get_tokenizer

tokenizer = get_tokenizer("word_piece", "vocab.uncased.txt", uncased=True)
ids, offsets = tokenizer.encode_with_offsets("Funnels are useful.")
"""

from __future__ import annotations

import os

from funnel.config.inputs import TOKENIZER_KINDS
from funnel.tokenization.base import Tokenizer, VocabularyFile
from funnel.tokenization.special_tokens import SpecialIds
from funnel.utils.errors import TokenizerError

__all__ = ["TOKENIZER_KINDS", "SpecialIds", "Tokenizer", "build_tokenizer", "get_tokenizer"]


def get_tokenizer(
    kind: str,
    path: str | os.PathLike[str],
    uncased: bool = True,
    keep_accents: bool = False,
) -> Tokenizer:
    """Load a tokenizer.

    Args:
        kind: ``word_piece`` (``path`` is a text file, one token a line) or ``sent_piece`` (``path``
            is a SentencePiece model).
        uncased: lower-case text; WordPiece also drops accents then.
        keep_accents: SentencePiece only: keep accents and compatibility characters. WordPiece keeps
            accents if and only if it is cased, and ignores this argument.

    Raises:
        TokenizerError: unknown kind; the file is missing, corrupt, of the other kind, or lacks a
            required special token.
    """
    if kind not in TOKENIZER_KINDS:
        choices = " or ".join(TOKENIZER_KINDS)
        raise TokenizerError(f"tokenizer type {kind!r} is unknown; it is {choices}")
    keep_accents = keep_accents and kind == "sent_piece"
    return build_tokenizer(kind, VocabularyFile.read(path, uncased, keep_accents))


def build_tokenizer(kind: str, file: VocabularyFile) -> Tokenizer:
    """Return the tokenizer of a file: ``word_piece``, ``sent_piece`` or ``json``.

    Raises:
        TokenizerError: the file is corrupt, of another kind, or lacks a required special token.
    """
    if kind == "word_piece":
        from funnel.tokenization.wordpiece import WordPieceTokenizer

        return WordPieceTokenizer(file)
    if kind == "sent_piece":
        from funnel.tokenization.sentencepiece import SentencePieceTokenizer

        return SentencePieceTokenizer(file)
    from funnel.tokenization.json_tokenizer import JsonTokenizer

    return JsonTokenizer(file)
