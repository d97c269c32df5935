"""Predicted tags as files: CoNLL columns or JSON lines, in the order of the sentences."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from funnel.utils.errors import DataError
from funnel.utils.files import atomic_write_text


def write_tags(
    path: str | os.PathLike[str],
    words: Sequence[Sequence[str]],
    tags: Sequence[Sequence[str]],
    probabilities: Sequence[Sequence[float]] | None = None,
) -> None:
    """Write a word and its tag a line, separated by a tab, with an empty line after a sentence.

    A name that ends in ``.jsonl`` gets a JSON object a line, with lists ``tokens`` and ``tags``.

    Args:
        path: the file; its directory is created if needed.
        words, tags: those of every sentence.
        probabilities: of every tag, a further column or list ``probabilities``; None: none.

    Raises:
        DataError: words and tags differ in number.
        FunnelError: the file cannot be written.
    """
    if list(map(len, words)) != list(map(len, tags)):
        raise DataError(f"{path}: there are not as many tags as words")
    rows: Sequence[Sequence[float] | None] = probabilities or [None] * len(words)
    is_json = str(path).endswith(".jsonl")
    make = _json_line if is_json else _columns
    texts = [make(*sentence) for sentence in zip(words, tags, rows, strict=True)]
    atomic_write_text(path, "".join(texts))


def _json_line(
    words: Sequence[str], tags: Sequence[str], probabilities: Sequence[float] | None
) -> str:
    row: dict[str, list] = {"tokens": list(words), "tags": list(tags)}
    if probabilities is not None:
        row["probabilities"] = [round(float(value), 6) for value in probabilities]
    return json.dumps(row, ensure_ascii=False) + "\n"


def _columns(
    words: Sequence[str], tags: Sequence[str], probabilities: Sequence[float] | None
) -> str:
    lines = [f"{word}\t{tag}" for word, tag in zip(words, tags, strict=True)]
    if probabilities is not None:
        lines = [f"{line}\t{value:.6f}" for line, value in zip(lines, probabilities, strict=True)]
    return "\n".join([*lines, "", ""])
