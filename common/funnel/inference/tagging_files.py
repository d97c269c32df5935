"""The prediction files of ``tagger.py`` of both backends."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from funnel.config.predictions import PredictionSettings
from funnel.inference.files import open_rows, open_text
from funnel.inference.rows import TOKEN_CLASSIFICATION, RowFormat
from funnel.utils.files import atomic_path


def write_tags(
    path: str | os.PathLike[str],
    words: Sequence[Sequence[str]],
    labels: Sequence[str],
    logits: np.ndarray,
    settings: PredictionSettings,
) -> None:
    """Write the predicted tags of a split, in the order of its sentences.

    ``.conll`` files hold a word and its tag a line, separated by a tab, with an empty line after a
    sentence; rows have the members of :mod:`funnel.inference.rows` and the ``words``.

    Args:
        path: the file without suffix, which is that of its format.
        words: the words of every sentence.
        labels: the tags in the order of the logits.
        logits: of all words in their order, [words, labels].
        settings: which files, and what they hold.

    Raises:
        FunnelError: a file cannot be written.
    """
    ends = np.cumsum([len(sentence) for sentence in words])
    if settings.writes_text:
        names = [labels[number] for number in logits.argmax(axis=1)]
        with atomic_path(f"{path}.conll") as temporary, open_text(temporary) as stream:
            for sentence, end in zip(words, ends.tolist(), strict=True):
                tags = names[end - len(sentence) : end]
                rows = (f"{word}\t{tag}\n" for word, tag in zip(sentence, tags, strict=True))
                stream.write("".join(rows) + "\n")
    if (kind := settings.row_format) is not None:
        form = RowFormat(TOKEN_CLASSIFICATION, tuple(labels), settings.write_logits)
        outputs = np.split(logits, ends[:-1])
        with open_rows(f"{path}.{kind}", kind, form, ["words"]) as writer:
            for row, sentence in zip(form.rows(outputs), words, strict=True):
                index, name = row.pop("index"), row.pop("id")
                writer.write([{"index": index, "id": name, "words": list(sentence), **row}])
