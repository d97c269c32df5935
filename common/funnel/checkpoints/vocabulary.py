"""The tokenizer next to a checkpoint: writing its files, and comparing vocabularies."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from funnel.config.inputs import TokenizerRequest
from funnel.config.model import ModelConfig
from funnel.tokenization import Tokenizer, build_tokenizer
from funnel.tokenization.base import VocabularyFile
from funnel.tokenization.choice import check_request, warn_of_capitals
from funnel.tokenization.saved import (
    ADDED_TOKENS,
    OWN_KEY,
    SPECIAL_TOKENS_MAP,
    TOKENIZER_CONFIG,
    TOKENIZER_JSON,
    find_vocabulary,
    read_saved_tokenizer,
)
from funnel.utils.errors import CheckpointError, ConfigError, TokenizerError
from funnel.utils.files import atomic_path, atomic_write_json, atomic_write_text, sha256_file

__all__ = [
    "TOKENIZER_FILES",
    "check_vocabulary",
    "find_vocabulary",
    "fit_vocabulary",
    "write_tokenizer",
]

logger = logging.getLogger(__name__)

# Files with the settings of a tokenizer; those of an earlier model must not stay.
TOKENIZER_FILES = (TOKENIZER_CONFIG, TOKENIZER_JSON, SPECIAL_TOKENS_MAP, ADDED_TOKENS)
_MOST_PADDING = 128  # rows of an embedding table, to a size that suits a device
# A class that transformers does not have: it refuses the directory.
_REFUSED_CLASS = "FunnelOnlyTokenizer"


def write_tokenizer(
    metadata: Mapping[str, Any], directory: Path, *, for_transformers: bool = False
) -> None:
    """Write vocabulary and settings of the tokenizer that ``metadata`` names, if it names one.

    That is ``tokenizer`` (a :class:`~funnel.tokenization.Tokenizer`), else the file ``vocab_path``
    with the settings in its directory, else with ``uncased``. Where nothing says how text is
    normalized, it is recorded as lower-cased for transformers, and not recorded otherwise.

    Args:
        metadata: of a checkpoint.
        directory: receives the files.
        for_transformers: use the file names of ``transformers`` and write its ``tokenizer.json``.

    Raises:
        CheckpointError: the vocabulary does not exist any more.
        ConfigError: ``uncased`` contradicts the settings in the vocabulary's directory.
    """
    vocab_path = metadata.get("vocab_path")
    tokenizer: Tokenizer | None = metadata.get("tokenizer")
    if tokenizer is None and not vocab_path:
        return
    if tokenizer is None and not Path(str(vocab_path)).is_file():
        raise CheckpointError(
            f"{vocab_path}: the vocabulary to copy next to the weights is missing"
        )
    is_recorded = True
    try:
        if tokenizer is None:
            tokenizer, is_recorded = _read_tokenizer(Path(str(vocab_path)), metadata)
    except TokenizerError as error:
        _copy_unreadable(Path(str(vocab_path)), directory, for_transformers, str(error))
        return
    name = _vocabulary_name(tokenizer, for_transformers)
    _write_bytes(directory / name, tokenizer.file.data)
    if not is_recorded:
        warn_of_capitals(tokenizer)
        if not for_transformers:
            return
    config = _own_config(tokenizer, name)
    if for_transformers:
        config = _write_for_transformers(tokenizer, directory, config)
    atomic_write_json(directory / TOKENIZER_CONFIG, config)


def _read_tokenizer(path: Path, metadata: Mapping[str, Any]) -> tuple[Tokenizer, bool]:
    """Return the tokenizer of a vocabulary, and whether anything says how text is normalized."""
    uncased = metadata.get("uncased")
    if find_vocabulary(path.parent) == path and (saved := read_saved_tokenizer(path.parent)):
        check_request(TokenizerRequest(uncased=uncased), saved)
        return build_tokenizer(saved.kind, saved.file), True
    kind = "sent_piece" if path.suffix == ".model" else "word_piece"
    file = VocabularyFile.read(path, True if uncased is None else bool(uncased))
    return build_tokenizer(kind, file), uncased is not None


def _vocabulary_name(tokenizer: Tokenizer, for_transformers: bool) -> str:
    """Return the file name of a vocabulary."""
    if _is_json(tokenizer):
        return TOKENIZER_JSON
    name = Path(tokenizer.path).name
    if for_transformers or name == TOKENIZER_JSON:
        return "vocab.txt" if tokenizer.kind == "word_piece" else "spiece.model"
    return name


def _is_json(tokenizer: Tokenizer) -> bool:
    from funnel.tokenization.json_tokenizer import JsonTokenizer

    return isinstance(tokenizer, JsonTokenizer)


def _write_bytes(target: Path, data: bytes) -> None:
    if target.is_file() and target.read_bytes() == data:
        return
    with atomic_path(target) as temporary:
        temporary.write_bytes(data)


def _own_config(tokenizer: Tokenizer, name: str) -> dict[str, Any]:
    """Return a ``tokenizer_config.json`` that only this project reads."""
    options = tokenizer.file.options
    own = {
        "kind": "json" if _is_json(tokenizer) else tokenizer.kind,
        "vocabulary": name,
        "keep_accents": tokenizer.keep_accents,
        "max_word_length": options.max_word_length,
        "special_tokens": dict(options.special_tokens),
        "added_tokens": [
            {"id": values.pop("token_id"), **values} for values in map(asdict, options.added_tokens)
        ],
        "split_special": options.split_special,
        "segments": asdict(options.segments),
    }
    if _is_json(tokenizer):
        own["tokenizer_json_sha256"] = hashlib.sha256(tokenizer.file.data).hexdigest()
    return {
        "tokenizer_class": _REFUSED_CLASS,
        "do_lower_case": tokenizer.uncased,
        "strip_accents": options.strip_accents,
        "tokenize_chinese_chars": options.split_cjk,
        "clean_text": options.clean_text,
        OWN_KEY: own,
    }


def _write_for_transformers(
    tokenizer: Tokenizer, directory: Path, config: dict[str, Any]
) -> dict[str, Any]:
    """Write ``tokenizer.json`` and return the config with the keys of ``transformers``.

    Where ``transformers`` cannot compute our ids, the config makes it refuse the tokenizer.
    """
    from funnel.checkpoints.hf_tokenizer import (
        NotRepresentable,
        to_tokenizer_json,
        transformers_config,
    )

    own = dict(config[OWN_KEY])
    try:
        if not _is_json(tokenizer):
            text = to_tokenizer_json(tokenizer)
            atomic_write_text(directory / TOKENIZER_JSON, text)
            own["tokenizer_json_sha256"] = hashlib.sha256(text.encode()).hexdigest()
        elif not json.loads(tokenizer.file.data).get("post_processor"):
            raise NotRepresentable("its tokenizer.json does not say how sequences are built")
    except NotRepresentable as error:
        logger.warning(
            "%s: transformers cannot compute this tokenizer, so its AutoTokenizer refuses the "
            "directory: %s",
            *(tokenizer.path, error),
        )
        return config | {OWN_KEY: own | {"not_in_transformers": str(error)}}
    return transformers_config(tokenizer) | {OWN_KEY: own}


def _copy_unreadable(
    vocabulary: Path, directory: Path, for_transformers: bool, reason: str
) -> None:
    """Copy a vocabulary that is no tokenizer of ours, and let transformers refuse it."""
    is_text = for_transformers and vocabulary.suffix == ".txt"
    _write_bytes(directory / ("vocab.txt" if is_text else vocabulary.name), vocabulary.read_bytes())
    if for_transformers:
        logger.warning("%s; it is copied, but transformers refuses it as a tokenizer", reason)
        config = {"tokenizer_class": _REFUSED_CLASS}
        (directory / TOKENIZER_CONFIG).write_text(json.dumps(config) + "\n", encoding="utf-8")


def fit_vocabulary(config: ModelConfig, vocab_size: int, vocab_path: str) -> ModelConfig:
    """Return the configuration of a model with random weights for a vocabulary, and log a change.

    A table padded to a round number, by less than 128 rows, keeps its size.

    Args:
        config: of the new model, as a file or the flags describe it.
        vocab_size: number of tokens.
        vocab_path: the vocabulary, for the message.
    """
    if 0 <= config.vocab_size - vocab_size < _MOST_PADDING:
        return config
    logger.info(
        "vocab_size %d of the model's configuration becomes %d, the tokens of %s",
        *(config.vocab_size, vocab_size, vocab_path),
    )
    return config.replace(vocab_size=vocab_size)


def check_vocabulary(
    config: ModelConfig,
    vocab_path: str | os.PathLike[str],
    vocab_size: int,
    *,
    pretrained: bool,
    pretrained_vocab: str | os.PathLike[str] | None = None,
) -> None:
    """Refuse a vocabulary whose ids do not mean the same to the model.

    The embedding table may have more rows than the vocabulary has tokens (padded to a round
    number, say). For pretrained weights that is allowed only with the file they were trained with.

    Args:
        config: configuration of the model.
        vocab_path: vocabulary or SentencePiece model in use.
        vocab_size: number of its tokens.
        pretrained: whether the model starts from a checkpoint.
        pretrained_vocab: the vocabulary next to that checkpoint, None without one.

    Raises:
        ConfigError: the sizes do not fit, or it is another vocabulary.
    """
    if vocab_size == config.vocab_size:
        return
    sizes = f"{vocab_path}: {vocab_size} tokens, but the model's vocab_size is {config.vocab_size}"
    if vocab_size > config.vocab_size:
        hint = "" if pretrained else "; --overwrite_keys=vocab_size fits the model to it"
        raise ConfigError(sizes + hint)
    is_same = pretrained_vocab is not None and (
        sha256_file(pretrained_vocab) == sha256_file(vocab_path)
    )
    if pretrained and not is_same:
        raise ConfigError(f"{sizes}; use the vocabulary it was trained with")
    logger.info("%s: the other rows of the embedding table stay unused", sizes)
