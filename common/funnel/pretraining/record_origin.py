"""Where pretraining records come from: the tokenizer and settings in their metadata file.

Token ids mean nothing without their vocabulary, so records are only read with the tokenizer they
were made with. Records of the original code and of older versions have no such entry.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from funnel.config.inputs import SegmentIds
from funnel.config.pretraining import CorpusConfig
from funnel.tokenization import Tokenizer
from funnel.utils.errors import DataError

logger = logging.getLogger(__name__)

_FINGERPRINT, _TOKENIZER, _SETTINGS = "tokenizer_sha256", "tokenizer", "settings"
_COMPARED = {
    "kind": "the kind",
    "uncased": "uncased",
    "keep_accents": "keep_accents",
    "vocab_size": "the number of tokens",
    "sha256": "the vocabulary's SHA-256",
}


def describe_origin(config: CorpusConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the entries of a metadata file that say how its records were made."""
    settings = {
        "seq_len": config.seq_len,
        "pass_id": config.pass_id,
        "min_doc_len": config.min_doc_len,
        "use_all_text": config.use_all_text,
        "segments": asdict(config.segments),
    }
    return {
        _FINGERPRINT: tokenizer.fingerprint,
        _TOKENIZER: describe_tokenizer(tokenizer),
        _SETTINGS: settings,
    }


def describe_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return what decides the meaning of ids, as JSON values, and the name of the file."""
    return {
        "file": Path(tokenizer.path).name,
        "kind": tokenizer.kind,
        "uncased": tokenizer.uncased,
        "keep_accents": tokenizer.keep_accents,
        "vocab_size": tokenizer.vocab_size,
        "sha256": tokenizer.vocabulary_hash,
    }


def check_origin(content: Mapping[str, Any], meta: Path, tokenizer: Tokenizer) -> bool:
    """Compare the tokenizer that records were made with and the one they are read with.

    Args:
        content: of the metadata file.
        meta: its path, for messages.
        tokenizer: the one in use.

    Returns:
        Whether the file names a tokenizer.

    Raises:
        DataError: it names another one; the message has both values.
    """
    recorded = content.get(_TOKENIZER)
    if content.get(_FINGERPRINT) == tokenizer.fingerprint:
        return True
    # Fingerprints also differ for files that give the same ids, with other line ends for example.
    if recorded is None:
        return False
    if not isinstance(recorded, Mapping):
        raise DataError(f"{meta}: {_TOKENIZER} should be an object")
    current = describe_tokenizer(tokenizer)
    for key, name in _COMPARED.items():
        if recorded.get(key) != current[key]:
            before, now = _shorten(recorded.get(key)), _shorten(current[key])
            raise DataError(
                f"{meta}: its records were made with another tokenizer, {recorded.get('file')}: "
                f"{name} is {before} there and {now} in {tokenizer.path}; use the vocabulary of "
                "the records, or create them again with this one"
            )
    return True


def _shorten(value: Any) -> str:
    return f"{value[:12]}…" if isinstance(value, str) and len(value) > 12 else repr(value)


def recorded_segments(content: Mapping[str, Any]) -> SegmentIds | None:
    """Return the segment ids in records, None where their metadata file has none."""
    settings = content.get(_SETTINGS)
    found = settings.get("segments") if isinstance(settings, Mapping) else None
    names = ("cls", "a", "b", "pad")
    if not isinstance(found, Mapping) or not all(isinstance(found.get(n), int) for n in names):
        return None
    return SegmentIds(**{name: found[name] for name in names})


def report_unknown_origin(count: int, record_dir: str) -> None:
    """Say that records do not name their tokenizer, so that it cannot be compared."""
    logger.warning(
        "%s: %d metadata files name no tokenizer (made by an older version or the original code), "
        "so it is not checked that the records were made with this vocabulary",
        *(record_dir, count),
    )
