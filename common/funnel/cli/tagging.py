"""How both taggers cut sentences for a model that they do not train."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from funnel.config.tagging import TaggingWindows
from funnel.inference.saved_model import recorded_lengths

logger = logging.getLogger(__name__)

_LENGTH_FLAGS = frozenset({"max_length", "max_seq_length"})


def windows_as_trained(
    windows: TaggingWindows, directory: Path, given: Collection[str]
) -> TaggingWindows:
    """Return the lengths that the model was trained with, unless the user gave another.

    The length in use and its origin are logged.

    Args:
        windows: those of the settings.
        directory: that of the weights.
        given: names of the flags on the command line.

    Raises:
        ConfigError: the recorded lengths contradict each other.
    """
    if _LENGTH_FLAGS & set(given) or windows.max_length != TaggingWindows.max_length:
        return windows
    recorded, where = recorded_lengths(directory)
    if "max_length" not in recorded:
        logger.info(
            "%s: no run recorded a length there: sequences of %d tokens, the default",
            *(where, windows.max_length),
        )
        return windows
    logger.info("%s: sequences of %d tokens, as in training", where, recorded["max_length"])
    overlap = windows.overlap if "overlap" in given else recorded.get("overlap", windows.overlap)
    return replace(windows, max_length=recorded["max_length"], overlap=overlap)
