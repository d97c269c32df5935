"""The vocabulary file next to a checkpoint: finding, copying and comparing it."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from funnel.config.model import ModelConfig
from funnel.utils.errors import CheckpointError, ConfigError
from funnel.utils.files import atomic_path, sha256_file

logger = logging.getLogger(__name__)

_USUAL_NAMES = ("vocab.txt", "vocab.uncased.txt", "vocab.cased.txt", "spiece.model")


def find_vocabulary(directory: Path) -> Path | None:
    """Return the vocabulary in a directory, None without one.

    That is the first file with a usual name, else the only ``vocab*.txt`` or ``*.model``.
    """
    for name in _USUAL_NAMES:
        if (directory / name).is_file():
            return directory / name
    others = [*directory.glob("vocab*.txt"), *directory.glob("*.model")]
    return others[0] if len(others) == 1 else None


def copy_vocabulary(metadata: Mapping[str, Any], directory: Path, name: str | None = None) -> None:
    """Copy the file ``metadata["vocab_path"]``, if set, to ``directory``, as ``name`` if given.

    Raises:
        CheckpointError: the file does not exist any more.
    """
    if not metadata.get("vocab_path"):
        return
    source = Path(metadata["vocab_path"])
    if not source.is_file():
        raise CheckpointError(f"{source}: the vocabulary to copy next to the weights is missing")
    target = directory / (name or source.name)
    if target.exists() and target.samefile(source):
        return
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


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
