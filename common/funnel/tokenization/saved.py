"""The tokenizer next to a model's weights: vocabulary, case, special and added tokens, segments.

``tokenizer_config.json`` has the keys of ``transformers`` and, if this project wrote it, an object
``funnel_tokenizer`` with what those keys cannot say. A directory that ``transformers`` wrote is
read as its tokenizer classes read it: ``FunnelTokenizer`` takes the vocabulary of
``tokenizer.json`` and all settings of ``tokenizer_config.json``, the other classes take the
complete ``tokenizer.json``.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from funnel.config.inputs import SegmentIds
from funnel.tokenization.base import AddedToken, TokenizerOptions, VocabularyFile
from funnel.tokenization.saved_json import JsonObject, read_object
from funnel.utils.errors import TokenizerError
from funnel.utils.text import ASCII_BLANKS

logger = logging.getLogger(__name__)

TOKENIZER_CONFIG, TOKENIZER_JSON = "tokenizer_config.json", "tokenizer.json"
# Files of older versions of transformers; tokenizer_config.json precedes them.
SPECIAL_TOKENS_MAP, ADDED_TOKENS = "special_tokens_map.json", "added_tokens.json"
OWN_KEY = "funnel_tokenizer"
VOCABULARY_NAMES = ("vocab.txt", "vocab.uncased.txt", "vocab.cased.txt", "spiece.model")
# The class of transformers for Funnel models; it rebuilds the tokenizer from vocabulary and config.
_FUNNEL_CLASSES = ("FunnelTokenizer", "FunnelTokenizerFast")
_FUNNEL_WORD_LENGTH = 100
_NO_SEGMENTS = SegmentIds(cls=0, a=0, b=0, pad=0)
_SPECIAL = ("unk", "cls", "sep", "pad", "mask", "bos", "eos")


@dataclass(frozen=True)
class SavedTokenizer:
    """A tokenizer as its files describe it.

    Attributes:
        kind: ``word_piece``, ``sent_piece`` or ``json`` (only the ``tokenizers`` library reads it).
        file: vocabulary and settings.
        source: file that states the settings, for messages.
    """

    kind: str
    file: VocabularyFile
    source: Path


def find_vocabulary(directory: Path) -> Path | None:
    """Return the vocabulary in a directory, None without one.

    That is the file that ``tokenizer_config.json`` names, else the first with a usual name, else
    the only ``vocab*.txt`` or ``*.model``, else ``tokenizer.json``.
    """
    if (directory / TOKENIZER_CONFIG).is_file():
        own = read_object(directory / TOKENIZER_CONFIG).objects(OWN_KEY)
        named = own.text("vocabulary") if own else ""
        # A name, not a path: the file comes from elsewhere.
        if named and Path(named).name == named and (directory / named).is_file():
            return directory / named
    for name in VOCABULARY_NAMES:
        if (directory / name).is_file():
            return directory / name
    others = [*directory.glob("vocab*.txt"), *directory.glob("*.model")]
    if len(others) == 1:
        return others[0]
    described = directory / TOKENIZER_JSON
    return described if not others and described.is_file() else None


def read_saved_tokenizer(directory: Path) -> SavedTokenizer | None:
    """Read the tokenizer of a model's directory; None if the directory records no settings.

    A vocabulary without ``tokenizer_config.json``, ``tokenizer.json`` and the record of a run
    records none: whether its text is lower-cased is for the caller to say.

    Raises:
        TokenizerError: a file is corrupt, or the files contradict each other.
    """
    config_path, json_path = directory / TOKENIZER_CONFIG, directory / TOKENIZER_JSON
    if not config_path.is_file() and not json_path.is_file():
        return _read_run(directory)
    config = read_object(config_path) if config_path.is_file() else JsonObject({}, str(config_path))
    described = read_object(json_path) if json_path.is_file() else None
    vocabulary = find_vocabulary(directory)
    if vocabulary is None:
        return None
    own = config.objects(OWN_KEY)
    if own and (described is None or own.text("tokenizer_json_sha256") == _sha256(json_path)):
        return _read_own(config, own, vocabulary, described)
    if described is None and _is_older_own(directory, config):
        return _read_run(directory.parent, vocabulary) or _read_older(config, vocabulary)
    if described is None and vocabulary.suffix == ".model":
        # XLNet's tokenizer, whose normalization is that of our SentencePiece tokenizer.
        uncased, keep = config.flag("do_lower_case", False), config.flag("keep_accents", False)
        file = VocabularyFile.read(vocabulary, uncased, keep)
        return SavedTokenizer("sent_piece", file, config_path)
    return _read_transformers(directory, config, described, vocabulary)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read_own(
    config: JsonObject, own: JsonObject, vocabulary: Path, described: JsonObject | None
) -> SavedTokenizer:
    """Return the tokenizer that this project saved."""
    uncased = config.flag("do_lower_case", True)
    lowers = None if described is None else lowers_text(described.values.get("normalizer"))
    if lowers is not None and lowers != uncased:
        raise TokenizerError(
            f"{config.path}: do_lower_case is {str(uncased).lower()}, but {TOKENIZER_JSON} next to "
            f"it {'lower-cases' if lowers else 'keeps the case of'} text; correct one of them"
        )
    options = TokenizerOptions(
        strip_accents=config.optional_flag("strip_accents"),
        clean_text=config.flag("clean_text", True),
        split_cjk=config.flag("tokenize_chinese_chars", True),
        max_word_length=own.number("max_word_length", TokenizerOptions.max_word_length),
        special_tokens=tuple(own.texts("special_tokens").items()),
        added_tokens=tuple(_added_token(entry) for entry in own.entries("added_tokens")),
        split_special=own.flag("split_special", False),
        segments=_segments(own.objects("segments")),
    )
    file = VocabularyFile.read(vocabulary, uncased, own.flag("keep_accents", False))
    kind = own.text("kind")
    if kind not in ("word_piece", "sent_piece", "json"):
        raise TokenizerError(f"{config.path}: {OWN_KEY}.kind: {kind!r} is unknown")
    options = replace(options, model_max_length=_max_length(config))
    return SavedTokenizer(kind, replace(file, options=options), Path(config.path))


def _is_older_own(directory: Path, config: JsonObject) -> bool:
    """Return whether an older version of this project wrote the settings: two keys, no more."""
    if set(config.values) != {"tokenizer_class", "do_lower_case"}:
        return False
    model = directory / "config.json"
    return model.is_file() and "funnel" in read_object(model).values


def _read_run(directory: Path, vocabulary: Path | None = None) -> SavedTokenizer | None:
    """Return the tokenizer of a run of an older version, which recorded nothing but its flags."""
    record = directory / "run_config.json"
    vocabulary = vocabulary or find_vocabulary(directory)
    if vocabulary is None or not record.is_file():
        return None
    flags = read_object(record).objects("settings")
    if flags is None or not {"cased", "uncased"} & set(flags.values):
        return None
    uncased = flags.flag("uncased", not flags.flag("cased", False))
    keep_accents = flags.flag("keep_accents", False)
    kind = "sent_piece" if vocabulary.suffix == ".model" else "word_piece"
    return SavedTokenizer(kind, VocabularyFile.read(vocabulary, uncased, keep_accents), record)


def _read_older(config: JsonObject, vocabulary: Path) -> SavedTokenizer:
    file = VocabularyFile.read(vocabulary, config.flag("do_lower_case", True))
    return SavedTokenizer("word_piece", file, Path(config.path))


def _read_transformers(
    directory: Path, config: JsonObject, described: JsonObject | None, vocabulary: Path
) -> SavedTokenizer:
    """Return the tokenizer that ``transformers`` makes of the directory."""
    name = config.values.get("tokenizer_class") or _FUNNEL_CLASSES[0]
    model = described.objects("model") if described else None
    is_wordpiece = model is None or model.values.get("type", "WordPiece") == "WordPiece"
    is_funnel = name in _FUNNEL_CLASSES and is_wordpiece
    options = _options(directory, config, described)
    if name in _FUNNEL_CLASSES and config.values.get("model_input_names") is None:
        _say_segments_are_given(config.path)
    if config.values.get("truncation_side", "right") != "right":
        _say_ends_are_cut(config.path)
    if is_funnel or model is None:
        options = replace(
            options,
            strip_accents=config.optional_flag("strip_accents"),
            clean_text=config.flag("clean_text", True),
            split_cjk=config.flag("tokenize_chinese_chars", True),
            max_word_length=_FUNNEL_WORD_LENGTH,
        )
        uncased = config.flag("do_lower_case", True)
    else:
        from funnel.tokenization.json_tokenizer import read_segments

        assert described is not None
        segments = read_segments(described.values, described.path)
        if segments is not None and options.segments != _NO_SEGMENTS:
            options = replace(options, segments=replace(segments, pad=options.segments.pad))
        uncased = bool(lowers_text(described.values.get("normalizer")))
        found = _bert_options(described, options)
        if found is None:
            path = directory / TOKENIZER_JSON
            file = VocabularyFile(str(path), path.read_bytes(), uncased, options=options)
            return SavedTokenizer("json", file, path)
        options = found
    data = _vocabulary_text(model) if model is not None else vocabulary.read_bytes()
    if data is None:
        where = described.path if described else directory
        raise TokenizerError(f"{where}: model.vocab: the ids should be 0, 1, … without gaps")
    source = config.path if config.values or described is None else described.path
    options = _with_all_special(options, data)
    file = VocabularyFile(str(vocabulary), data, uncased, options=options)
    return SavedTokenizer("word_piece", file, Path(source))


@lru_cache(maxsize=1024)  # once for each file
def _say_segments_are_given(path: str) -> None:
    logger.warning(
        "%s: has no model_input_names: texts get the segment ids that Funnel models are trained "
        'with, which transformers 5 would leave out; with "model_input_names": ["input_ids", '
        '"token_type_ids", "attention_mask"] in it both give them',
        path,
    )


@lru_cache(maxsize=1024)
def _say_ends_are_cut(path: str) -> None:
    logger.warning(
        "%s: truncation_side is not 'right', but of texts that are too long the last tokens are "
        "cut here; with a --max_length that no text exceeds both give the same",
        path,
    )


def _options(directory: Path, config: JsonObject, described: JsonObject | None) -> TokenizerOptions:
    """Return special tokens, added tokens and segment ids as the files state them."""
    named = {key: config.token(f"{key}_token") for key in _SPECIAL}
    legacy = directory / SPECIAL_TOKENS_MAP
    if "added_tokens_decoder" not in config.values and legacy.is_file():
        stated = read_object(legacy)
        named = {key: stated.token(f"{key}_token") or named[key] for key in _SPECIAL}
    model = described.objects("model") if described else None
    if model is not None and not named["unk"]:
        named["unk"] = str(model.values.get("unk_token") or "")
    added: dict[int, AddedToken] = {}
    special = {token for token in named.values() if token}
    if (directory / ADDED_TOKENS).is_file() and "added_tokens_decoder" not in config.values:
        numbers = read_object(directory / ADDED_TOKENS)
        for content in numbers.values:
            is_special = content in special
            number = numbers.number(content, -1)
            added[number] = AddedToken(content, number, is_special, normalized=not is_special)
    decoder = config.objects("added_tokens_decoder") or JsonObject({}, config.path)
    for key in decoder.values:
        entry = decoder.objects(key)
        if entry is None or not key.isdigit():
            raise TokenizerError(f"{config.path}: added_tokens_decoder: {key!r} is no token")
        added[int(key)] = _added_token(JsonObject({"id": int(key), **entry.values}, entry.path))
    for entry in described.entries("added_tokens") if described else ():
        token = _added_token(entry)
        added[token.token_id] = token
    inputs = config.values.get("model_input_names")
    without = isinstance(inputs, list) and "token_type_ids" not in inputs
    pad = config.number("pad_token_type_id", 0)
    return TokenizerOptions(
        special_tokens=tuple((key, token) for key, token in named.items() if token),
        added_tokens=tuple(added[number] for number in sorted(added)),
        split_special=config.flag("split_special_tokens", False),
        segments=_NO_SEGMENTS if without else SegmentIds(pad=pad),
        model_max_length=_max_length(config),
    )


def _max_length(config: JsonObject) -> int | None:
    """Return the length to which transformers cuts texts; None if the file states none."""
    found = config.values.get("model_max_length")
    is_length = isinstance(found, int) and not isinstance(found, bool) and found > 0
    return found if is_length else None


def _with_all_special(options: TokenizerOptions, data: bytes) -> TokenizerOptions:
    """Add the named special tokens of the vocabulary to the added tokens, as transformers does."""
    lines = data.decode("utf-8-sig", errors="replace").split("\n")
    ids: dict[str, int] = {}
    for line in lines:
        ids.setdefault(line.rstrip("\r"), len(ids))
    named = dict(options.special_tokens)
    # FunnelTokenizer's own spellings, where the files name none.
    for key, token in {"bos": "<s>", "eos": "</s>"}.items():
        named.setdefault(key, token)
    for key in ("unk", "cls", "sep", "pad", "mask"):
        named.setdefault(key, f"<{key}>")
    present = {token.content for token in options.added_tokens}
    new = [
        AddedToken(token, ids[token], special=True, normalized=False)
        for token in dict.fromkeys(named.values())
        if token in ids and token not in present
    ]
    every = sorted([*options.added_tokens, *new], key=lambda token: token.token_id)
    return replace(options, added_tokens=tuple(every))


def _bert_options(described: JsonObject, options: TokenizerOptions) -> TokenizerOptions | None:
    """Return the options of a WordPiece model with BERT's steps; None for any other tokenizer."""
    model, steps = described.objects("model"), described.objects("normalizer")
    split = described.objects("pre_tokenizer")
    if model is None or steps is None or split is None:
        return None
    parts = (model.values.get("type"), steps.values.get("type"), split.values.get("type"))
    if parts != ("WordPiece", "BertNormalizer", "BertPreTokenizer"):
        return None
    if model.values.get("continuing_subword_prefix") != "##" or _vocabulary_text(model) is None:
        return None
    return replace(
        options,
        strip_accents=steps.optional_flag("strip_accents"),
        clean_text=steps.flag("clean_text", True),
        split_cjk=steps.flag("handle_chinese_chars", True),
        max_word_length=model.number("max_input_chars_per_word", _FUNNEL_WORD_LENGTH),
    )


def _vocabulary_text(model: JsonObject) -> bytes | None:
    """Return a vocabulary as the content of a ``vocab.txt``; None if it cannot be such a file."""
    vocabulary = model.values.get("vocab")
    if not isinstance(vocabulary, Mapping) or not vocabulary:
        return None
    if not all(isinstance(number, int) for number in vocabulary.values()):
        return None
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    is_file = sorted(vocabulary.values()) == list(range(len(tokens)))
    # Blanks at the ends of a line are no part of its token.
    is_file &= all(t and "\n" not in t and t == (t.strip(ASCII_BLANKS) or t) for t in tokens)
    return "".join(f"{token}\n" for token in tokens).encode() if is_file else None


def lowers_text(normalizer: Any) -> bool | None:
    """Return whether the steps of a ``tokenizer.json`` lower-case text; None without steps."""
    if not isinstance(normalizer, Mapping):
        return None
    if normalizer.get("type") == "Sequence":
        steps = normalizer.get("normalizers")
        return any(lowers_text(step) for step in steps) if isinstance(steps, list) else None
    if normalizer.get("type") == "BertNormalizer":
        return bool(normalizer.get("lowercase"))
    return normalizer.get("type") == "Lowercase"


def _added_token(entry: JsonObject) -> AddedToken:
    flags = {"special": False, "single_word": False, "lstrip": False, "rstrip": False}
    content = entry.text("content")
    if not content:
        raise TokenizerError(f"{entry.path}: content is missing")
    special = entry.flag("special", False)
    chosen = {name: entry.flag(name, default) for name, default in flags.items()}
    return AddedToken(
        content,
        entry.number("id", -1),
        normalized=entry.flag("normalized", not special),
        **chosen,
    )


def _segments(stated: JsonObject | None) -> SegmentIds:
    default = SegmentIds()
    if stated is None:
        return default
    names = ("cls", "a", "b", "pad")
    return SegmentIds(**{name: stated.number(name, getattr(default, name)) for name in names})
