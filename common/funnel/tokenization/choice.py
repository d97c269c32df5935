"""The tokenizer of a run: settings from the files next to the weights, else from the user.

What the files record is used without being asked for; a flag that contradicts it is refused.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from funnel.config import hub
from funnel.config.inputs import SEGMENT_FLAGS, TokenizerRequest
from funnel.tokenization import Tokenizer, build_tokenizer
from funnel.tokenization.base import VocabularyFile
from funnel.tokenization.saved import (
    TOKENIZER_CONFIG,
    SavedTokenizer,
    find_vocabulary,
    read_saved_tokenizer,
)
from funnel.utils.errors import ConfigError, TokenizerError

logger = logging.getLogger(__name__)

# Entries of BERT's vocabularies that users replace by words of their own.
_UNUSED = re.compile(r"[\[<]unused_?\d+[\]>]")
_MANY_CAPITALS = 0.05


def weights_directory(path: str | os.PathLike[str]) -> Path:
    """Return the directory of a checkpoint: ``path`` if it is a directory, else its parent."""
    return Path(path) if os.path.isdir(path) else Path(path).parent


def open_tokenizer(request: TokenizerRequest, weights: Sequence[Path] = ()) -> Tokenizer:
    """Open the tokenizer of a model.

    Args:
        request: what the user asks for.
        weights: directories of the weights; the first that has a vocabulary decides.

    Raises:
        ConfigError: there is no vocabulary, or the request contradicts the files.
        TokenizerError: a file is missing, corrupt or of another kind.
    """
    found, recorded = _of_weights(weights)
    path = Path(request.path) if request.path else found
    if path is None:
        raise ConfigError(
            "--tokenizer_path is needed: there is no vocabulary in the directory of the weights"
        )
    saved = recorded if recorded is not None else _of_vocabulary(path)
    if path.is_dir():
        path = find_vocabulary(path) or path
    if saved is None:
        tokenizer = _open_unrecorded(request, path)
    else:
        check_request(request, saved)
        tokenizer = build_tokenizer(saved.kind, _file_at(path, saved, recorded, bool(request.path)))
    if request.path and found is not None and not _is_same_file(found, path):
        other = recorded or SavedTokenizer(tokenizer.kind, _read_like(found, tokenizer), found)
        check_same_vocabulary(tokenizer, other, request.path)
    return tokenizer


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """Open the tokenizer of a model's directory or hub name, or a vocabulary, as its files say.

    Where no file says how text is normalized, it is lower-cased.

    Raises:
        ConfigError: there is no vocabulary.
        TokenizerError: a file is missing, corrupt or of another kind.
    """
    path = hub.resolve(path)
    if os.path.isdir(path):
        return open_tokenizer(TokenizerRequest(), [path])
    return open_tokenizer(TokenizerRequest(os.fspath(path)))


def _of_weights(weights: Sequence[Path]) -> tuple[Path | None, SavedTokenizer | None]:
    """Return the vocabulary next to the weights, and the tokenizer that is recorded there."""
    for directory in weights:
        if directory.is_dir() and (found := find_vocabulary(directory)) is not None:
            return found, read_saved_tokenizer(directory)
    return None, None


def _of_vocabulary(path: Path) -> SavedTokenizer | None:
    """Return the tokenizer recorded next to a vocabulary, None if it is of another file."""
    if path.is_dir():
        return read_saved_tokenizer(path)
    directory = path.parent
    if not path.is_file() or find_vocabulary(directory) is None:
        return None
    if path.name != "tokenizer.json" and find_vocabulary(directory) != path:
        return None
    return read_saved_tokenizer(directory)


def _file_at(
    path: Path, saved: SavedTokenizer, recorded: SavedTokenizer | None, is_named: bool
) -> VocabularyFile:
    """Return the vocabulary at ``path`` with the recorded settings."""
    if not is_named or recorded is None or saved.kind == "json" or path.name == "tokenizer.json":
        return saved.file
    named = VocabularyFile.read(path, saved.file.uncased, saved.file.keep_accents)
    return replace(named, options=saved.file.options)


def _open_unrecorded(request: TokenizerRequest, path: Path) -> Tokenizer:
    """Open a vocabulary without recorded settings, as the flags or their defaults say."""
    kind = request.kind or ("sent_piece" if path.suffix == ".model" else "word_piece")
    uncased = True if request.uncased is None else request.uncased
    keep_accents = bool(request.keep_accents) and kind == "sent_piece"
    file = VocabularyFile.read(request.path or path, uncased, keep_accents)
    options = replace(file.options, segments=request.segments)
    tokenizer = build_tokenizer(kind, replace(file, options=options))
    if uncased and request.uncased is None:
        warn_of_capitals(tokenizer)
    return tokenizer


def warn_of_capitals(tokenizer: Tokenizer) -> None:
    """Warn that text is lower-cased by default, where the vocabulary looks cased."""
    special = {i for i in range(tokenizer.vocab_size) if tokenizer.is_func_id(i)}
    others = [
        piece
        for i, piece in enumerate(tokenizer.convert_ids_to_tokens(range(tokenizer.vocab_size)))
        if i not in special and i != tokenizer.special.unk_id and not piece.startswith("[")
    ]
    count = sum(piece != piece.lower() for piece in others)
    if count > _MANY_CAPITALS * len(others):
        logger.warning(
            "%s: text is lower-cased, so that %d of its tokens with capital letters are never "
            "used; is it a cased vocabulary (--cased, or --uncased=False)?",
            *(tokenizer.path, count),
        )


def check_request(request: TokenizerRequest, saved: SavedTokenizer) -> None:
    """Refuse a request that contradicts the files of the model.

    Raises:
        ConfigError: with both values.
    """
    file, source = saved.file, saved.source
    kind = saved.kind
    if kind == "json":
        kind = build_tokenizer(kind, file).kind
    if request.kind is not None and request.kind != kind:
        raise ConfigError(
            f"--tokenizer_type={request.kind}: {source} describes a {kind} tokenizer; "
            "leave the flag out"
        )
    if request.uncased is not None and request.uncased != file.uncased:
        asked, stated = (str(value).lower() for value in (request.uncased, file.uncased))
        flag = f"--uncased={request.uncased}" if request.uncased else "--cased"
        raise ConfigError(
            f"{flag} asks for do_lower_case {asked}, but {source} says do_lower_case {stated}; "
            "leave the flag out, the files of the model decide"
        )
    if request.keep_accents is not None and request.keep_accents != file.keep_accents:
        raise ConfigError(
            f"--keep_accents={request.keep_accents}, but {source} says "
            f"keep_accents {str(file.keep_accents).lower()}; leave the flag out"
        )
    for name in request.given_segments:
        asked_id, stated_id = (getattr(x, name) for x in (request.segments, file.options.segments))
        if asked_id != stated_id:
            raise ConfigError(
                f"--{SEGMENT_FLAGS[name]}={asked_id}, but {source} says {stated_id}; "
                "leave the flag out"
            )


def warn_of_length(tokenizer: Tokenizer, max_length: int) -> None:
    """Warn if transformers would cut texts to fewer tokens than ``max_length``."""
    stated = tokenizer.file.options.model_max_length
    if stated is not None and stated < max_length:
        _say_length_differs(str(Path(tokenizer.path).parent / TOKENIZER_CONFIG), stated, max_length)


@lru_cache(maxsize=1024)  # once for each file
def _say_length_differs(path: str, stated: int, max_length: int) -> None:
    logger.warning(
        "%s: model_max_length is %d, to which transformers cuts texts; here sequences have up to "
        "%d tokens (--max_length or --max_seq_length)",
        *(path, stated, max_length),
    )


def check_same_ids(tokenizer: Tokenizer, reference: Tokenizer) -> None:
    """Refuse a model of an ensemble whose tokenizer gives other ids than that of the first.

    Raises:
        ConfigError: with both vocabularies.
    """
    if tokenizer.fingerprint != reference.fingerprint:
        raise ConfigError(
            f"{tokenizer.path}: this tokenizer gives other ids than {reference.path}; the models "
            "of an ensemble must have the same"
        )


def _is_same_file(first: Path, second: Path) -> bool:
    if not (first.is_file() and second.is_file()):
        return False
    return first.samefile(second) or first.read_bytes() == second.read_bytes()


def _read_like(path: Path, tokenizer: Tokenizer) -> VocabularyFile:
    file = VocabularyFile.read(path, tokenizer.uncased, tokenizer.keep_accents)
    return replace(file, options=tokenizer.file.options)


def check_same_vocabulary(tokenizer: Tokenizer, other: SavedTokenizer, path: str) -> None:
    """Refuse a vocabulary whose ids mean other tokens than in that of the weights.

    Entries that the vocabulary of the weights leaves unused (``[unused1]``) may be replaced.

    Raises:
        ConfigError: the first id that differs, with both tokens.
    """
    try:
        reference = build_tokenizer(other.kind, other.file)
    except TokenizerError as error:
        logger.warning("%s; so --tokenizer_path is not compared with it", error)
        return
    size = min(tokenizer.vocab_size, reference.vocab_size)
    named, known = (t.convert_ids_to_tokens(range(size)) for t in (tokenizer, reference))
    for number, (new, old) in enumerate(zip(named, known, strict=True)):
        if new != old and not _UNUSED.fullmatch(old):
            raise ConfigError(
                f"--tokenizer_path={path}: its id {number} is {new!r}, but {old!r} in "
                f"{reference.path}, the vocabulary of the weights; use that one"
            )
