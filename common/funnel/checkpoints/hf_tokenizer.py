"""Tokenizers as ``tokenizer.json`` of the ``tokenizers`` library, which ``transformers`` reads.

Every file is compared with our tokenizer on probes before it is used: what the library cannot
compute is refused with a reason, never written wrongly.
"""

from __future__ import annotations

import struct
import sys
import unicodedata
from typing import Any, NamedTuple

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as LibraryTokenizer

from funnel.config.inputs import SegmentIds
from funnel.formats.protobuf_wire import WireError, read_fields, read_submessages
from funnel.tokenization import Tokenizer
from funnel.tokenization.base import BLANK
from funnel.tokenization.special_tokens import SpecialIds
from funnel.utils.errors import TokenizerError

# Numbers of fields of sentencepiece_model.proto, and of their values.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
_SYMBOLS = (_UNKNOWN, _CONTROL)
_UNIGRAM = 1
_PROBES = 200  # pieces per kind of probe


class NotRepresentable(TokenizerError):
    """A tokenizer that the library cannot compute; the message is the reason."""


class Piece(NamedTuple):
    """An entry of a SentencePiece model."""

    text: str
    score: float
    kind: int


def to_tokenizer_json(tokenizer: Tokenizer) -> str:
    """Return the content of a ``tokenizer.json`` that gives the ids and segment ids of ours.

    Raises:
        NotRepresentable: the library cannot compute them.
    """
    if tokenizer.kind == "word_piece":
        library = _wordpiece_library(tokenizer)
    else:
        library = _unigram_library(tokenizer)
    special = tokenizer.special
    # Where texts may have special tokens, those that are found are among the added tokens already.
    listed = {special.unk_id, *special.functional} if splits_special(tokenizer) else set()
    for token_id in sorted(listed):
        token = AddedToken(_text(tokenizer, token_id), special=True, normalized=False)
        library.add_special_tokens([token])
        if library.token_to_id(token.content) != token_id:
            raise NotRepresentable(f"the id of {token.content} would not be {token_id}")
    library.post_processor = _post_processor(tokenizer, special, tokenizer.segments)
    library.encode_special_tokens = splits_special(tokenizer)
    check_equal(tokenizer, library)
    return library.to_str(pretty=True) + "\n"


def splits_special(tokenizer: Tokenizer) -> bool:
    """Return whether a special token in a text is ordinary text."""
    options = tokenizer.file.options
    return options.split_special or not any(token.special for token in options.added_tokens)


def check_equal(tokenizer: Tokenizer, library: LibraryTokenizer) -> None:
    """Compare the library's ids with ours on texts made of the vocabulary.

    Raises:
        NotRepresentable: they differ.
    """
    for text in probes(tokenizer):
        if library.encode(text, add_special_tokens=False).ids != tokenizer.encode(text):
            raise NotRepresentable(f"the tokenizers library gives other ids for {text[:60]!r}")


def probes(tokenizer: Tokenizer) -> list[str]:
    """Return texts that use case, accents, punctuation, white space and all kinds of tokens."""
    size = tokenizer.vocab_size
    ids = [i for i in range(0, size, max(1, size // _PROBES)) if not tokenizer.is_func_id(i)]
    words = [p.replace(BLANK, " ").removeprefix("##") for p in tokenizer.convert_ids_to_tokens(ids)]
    texts = ["".join(words[i : i + 3]) for i in range(0, len(words), 3)]
    texts += [" ".join(words[i : i + 5]) for i in range(0, len(words), 5)]
    special = [_text(tokenizer, i) for i in sorted(tokenizer.special.functional)]
    texts += [f"a{token} {token}b" for token in special]
    texts += [token.content for token in tokenizer.file.options.added_tokens]
    return [
        *texts,
        *[text.upper() for text in texts[:20]],
        "",
        " ",
        "In 1,000 or 12, 3,4 cases: 99,",
        "``It's'' “quoted” ‘twice’ \u00a0and\u3000wide\u2028apart\t tab",
        "Caf\u00e9 cafe\u0301 \u01c5 \u0130I\u0131 \ufb01ne \u00bd \u2460 stra\u00dfe",
        "\u039f\u0394\u039f\u03a3 \u03a3\u0391\u03a3 \u0928\u093f\u0930\u094d\u0923\u092f",
        "\u4e2d\u6587\u5b57 \u306b\u307b\u3093 \ud55c\uad6d\uc5b4 \U0001f600\u200d\u2764\ufe0f",
        "x" * 150 + " " + "y" * 230,
    ]


def _text(tokenizer: Tokenizer, token_id: int) -> str:
    return tokenizer.convert_ids_to_tokens([token_id])[0]


def _post_processor(
    tokenizer: Tokenizer, special: SpecialIds, segments: SegmentIds
) -> processors.TemplateProcessing:
    cls, sep = _text(tokenizer, special.cls_id), _text(tokenizer, special.sep_id)
    single = f"{cls}:{segments.cls} $A:{segments.a} {sep}:{segments.a}"
    try:
        return processors.TemplateProcessing(
            single=single,
            pair=f"{single} $B:{segments.b} {sep}:{segments.b}",
            special_tokens=[(cls, special.cls_id), (sep, special.sep_id)],
        )
    except Exception as error:  # the library raises Exception itself
        raise NotRepresentable(f"no sequences of {cls} and {sep}: {error}") from None


def _wordpiece_library(tokenizer: Tokenizer) -> LibraryTokenizer:
    # The library's own tokenizer is what ours is made of.
    library = LibraryTokenizer.from_str(tokenizer._library.to_str())  # type: ignore[attr-defined]
    library.decoder = decoders.WordPiece(prefix="##")
    return library


def _unigram_library(tokenizer: Tokenizer) -> LibraryTokenizer:
    """Return a SentencePiece unigram model with our normalization (Kudo 2018)."""
    pieces, trainer, steps = read_model(tokenizer.file.data)
    if trainer.get(3, _UNIGRAM) != _UNIGRAM:
        raise NotRepresentable("only unigram SentencePiece models can be written")
    if trainer.get(35):
        raise NotRepresentable("a SentencePiece model with byte fallback")
    for piece in pieces:
        is_number = len(piece.text) > 1 and piece.text[-1] == "," and piece.text[-2].isdigit()
        if is_number and piece.kind == _NORMAL:
            raise NotRepresentable(
                f"the piece {piece.text} ends in a digit and a comma, and is encoded again "
                "without the comma"
            )
    unknown = [i for i, piece in enumerate(pieces) if piece.kind == _UNKNOWN]
    normal = [piece for piece in pieces if piece.kind == _NORMAL]
    # The lowest score decides that of unknown characters, so symbols get no lower one.
    lowest = min((piece.score for piece in normal), default=0.0)
    own_scores = {_USER_DEFINED: 0.0}
    scores = [
        (p.text, p.score if p.kind == _NORMAL else own_scores.get(p.kind, lowest)) for p in pieces
    ]
    library = LibraryTokenizer(models.Unigram(scores, unk_id=unknown[0], byte_fallback=False))
    library.normalizer = _normalizer(tokenizer, steps)
    scheme = "always" if steps.get(3, 1) else "never"
    metaspace: dict[str, Any] = {"replacement": BLANK, "prepend_scheme": scheme, "split": False}
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(**metaspace),
            *_isolate_user_symbols([p.text for p in pieces if p.kind == _USER_DEFINED]),
            *_split_symbols([p.text for p in pieces if p.kind in _SYMBOLS], normal),
            *_split_unknown_commas([p for p in pieces if p.kind in (_NORMAL, _USER_DEFINED)]),
        ]
    )
    library.decoder = decoders.Metaspace(**metaspace)
    return library


def _isolate_user_symbols(symbols: list[str]) -> list[pre_tokenizers.Split]:
    """Return the step that makes a token of every user-defined symbol in a text, longest first."""
    if not symbols:
        return []
    longest_first = sorted(symbols, key=len, reverse=True)
    return [pre_tokenizers.Split(Regex("|".join(map(_literal, longest_first))), "isolated")]


def _split_symbols(symbols: list[str], normal: list[Piece]) -> list[pre_tokenizers.Split]:
    """Return steps that cut the symbols of a model where a text has them as ordinary characters.

    The library's model would find them, SentencePiece's does not. A cut is made where no piece
    reaches across, so that it changes nothing else.
    """
    cuts = []
    known = {piece.text for piece in normal}
    joined = "\n".join(known)
    for symbol in symbols:
        for k in range(1, len(symbol)):
            before, after = symbol[:k], symbol[k:]
            fuses = before[-1] not in known and after[0] not in known
            if not fuses and before[-1] + after[0] not in joined:
                pattern = Regex(f"{_literal(before)}(?={_literal(after)})")
                cuts.append(pre_tokenizers.Split(pattern, "merged_with_previous"))
                break
        else:
            if len(symbol) > 1:
                raise NotRepresentable(f"texts with {symbol!r} would be encoded as that symbol")
    return cuts


def _split_unknown_commas(normal: list[Piece]) -> list[pre_tokenizers.Split]:
    """Return the step that cuts a comma off unknown digits, if the comma is unknown too.

    Consecutive unknown characters are one token. Ours encodes a token that ends in a digit and a
    comma again without the comma; here the comma is cut off where that token would end.
    """
    known = "".join(piece.text for piece in normal if len(piece.text) == 1)
    digits = "".join(c for c in map(chr, range(sys.maxunicode)) if c.isdigit() and c not in known)
    if "," in known or not digits or not known:
        return []
    pattern = f"(?<=[{_class(digits)}]),(?=[{_class(known)}]|\\z)"
    return [pre_tokenizers.Split(Regex(pattern), "isolated")]


def _literal(text: str) -> str:
    return "".join(f"\\x{{{ord(char):X}}}" for char in text)


def read_model(data: bytes) -> tuple[list[Piece], dict[int, Any], dict[int, Any]]:
    """Return the pieces, trainer settings and normalizer settings of a SentencePiece model.

    Settings are by field number of ``sentencepiece_model.proto``.

    Raises:
        NotRepresentable: the file is no such model.
    """
    try:
        pieces = []
        for message in read_submessages(data, _PIECES):
            found = {number: value for number, _, value in read_fields(message)}
            score = struct.unpack("<f", struct.pack("<I", found.get(2, 0)))[0]
            text = bytes(found.get(1, b"")).decode()
            pieces.append(Piece(text, score, int(found.get(3, _NORMAL))))
        settings = [
            {n: v for message in read_submessages(data, part) for n, _, v in read_fields(message)}
            for part in (_TRAINER, _NORMALIZER)
        ]
    except (WireError, UnicodeDecodeError, struct.error) as error:
        raise NotRepresentable(f"no SentencePiece model: {error}") from None
    if not any(piece.kind == _UNKNOWN for piece in pieces):
        raise NotRepresentable("the SentencePiece model has no unknown piece")
    return pieces, settings[0], settings[1]


def _normalizer(tokenizer: Tokenizer, steps: dict[int, Any]) -> normalizers.Sequence:
    """Return the steps of :mod:`funnel.tokenization.normalization`, then those of the model."""
    blanks = "".join(c for c in map(chr, range(0x3001)) if c.isspace())
    found = [normalizers.Replace(Regex(f"[{_class(blanks)}]+"), " "), normalizers.Strip()]
    straight = {"“": '"', "”": '"', "``": '"', "''": '"', "‘": "'", "’": "'"}
    found += [normalizers.Replace(quote, mark) for quote, mark in straight.items()]
    if not tokenizer.keep_accents:
        accents = "".join(c for c in map(chr, range(sys.maxunicode)) if unicodedata.combining(c))
        found += [normalizers.NFKD(), normalizers.Replace(Regex(f"[{_class(accents)}]"), "")]
    if tokenizer.uncased:
        # The lower case of a sigma at the end of a word, which the library's step ignores.
        found.append(normalizers.Replace(Regex(r"(?<=\p{L})Σ(?!\p{L})"), "ς"))
        found.append(normalizers.Lowercase())
    if charsmap := steps.get(2):
        found.append(normalizers.Precompiled(charsmap))
    if steps.get(4, 1):
        found += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()]
    return normalizers.Sequence(found)


def _class(characters: str) -> str:
    """Return the inside of a character class of a regular expression."""
    ranges: list[list[int]] = []
    for code in sorted(map(ord, characters)):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"\\x{{{low:X}}}-\\x{{{high:X}}}" for low, high in ranges)


def transformers_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the keys of ``tokenizer_config.json`` that ``transformers`` reads."""
    options, special = tokenizer.file.options, tokenizer.special
    names = {name: getattr(special, f"{name}_id") for name in ("bos", "eos")}
    names |= {name: getattr(special, f"{name}_id") for name in ("unk", "cls", "sep", "pad", "mask")}
    named = {
        f"{name}_token": _text(tokenizer, token_id)
        for name, token_id in names.items()
        if token_id is not None
    }
    return {
        # Reads the complete tokenizer.json; FunnelTokenizer would rebuild it with other settings.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "do_lower_case": tokenizer.uncased,
        "strip_accents": options.strip_accents,
        "tokenize_chinese_chars": options.split_cjk,
        "clean_text": options.clean_text,
        # Null where the vocabulary has none: a default of transformers would be a new token.
        **dict.fromkeys(("bos_token", "eos_token")),
        **named,
        "pad_token_type_id": options.segments.pad,
        # transformers 5 leaves token_type_ids out unless they are listed.
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "split_special_tokens": splits_special(tokenizer),
    }
