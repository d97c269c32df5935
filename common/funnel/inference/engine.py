"""Prediction of any number of inputs, in their order, with the memory of a part of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from funnel.config.geometry import bucket_length
from funnel.config.model import ModelConfig
from funnel.inference.encoding import Arrays, Encoded, EncodingConfig, encode_inputs
from funnel.inference.inputs import make_input
from funnel.inference.rows import (
    MULTIPLE_CHOICE,
    QUESTION_ANSWERING,
    TOKEN_CLASSIFICATION,
    Row,
    RowFormat,
)
from funnel.utils.split_report import NO_TEXTS, TextCounts

logger = logging.getLogger(__name__)

# Inputs sorted by length at a time: enough that those of a batch are equally long. Where an input
# is several sequences or has an output per word, fewer hold as much memory.
_WINDOW, _SMALL_WINDOW = 4096, 512
# Tokens of a batch: on a CPU its hidden states should fit the caches, a GPU has to be filled.
CPU_POSITIONS, GPU_POSITIONS = 1536, 65536
# Batches from which the last one is filled up: it costs a thirtieth at most.
_FILLED_FROM = 30
# Digits of the number of pooling windows in base 2; the rest of them are rounded up.
_LENGTH_BITS = 3
_SEVERAL = (MULTIPLE_CHOICE, QUESTION_ANSWERING, TOKEN_CLASSIFICATION)
Compute = Callable[[Arrays], Arrays]
RunAll = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]


@dataclass
class Engine:
    """Predicts examples in parts: sorted by length within a part, returned in their order.

    Attributes:
        compute: the model: outputs [B, ...] by name for arrays by name.
        config: configuration of the model.
        form: how outputs become rows.
        encoding: how inputs become sequences.
        batch_size: sequences computed at a time; None: as many as have ``positions`` in all.
        positions: tokens of a batch, padding included.
        shortest: tokens to which a batch is padded at least.
        length_step: lengths are rounded up to a multiple of it, for fewer graphs.
        window: inputs of a part; None for a number that suits the problem type.
        run_all: calls a function with every batch, like ``map``; several at a time, perhaps.
        counts: what became of all texts so far.
    """

    compute: Compute
    config: ModelConfig
    form: RowFormat
    encoding: EncodingConfig
    batch_size: int | None = None
    positions: int = CPU_POSITIONS
    shortest: int = 1
    length_step: int = 1
    window: int | None = None
    run_all: RunAll = map
    counts: TextCounts = field(default=NO_TEXTS)

    def rows(self, values: Iterable[Any]) -> Iterator[Row]:
        """Yield the row of every value, see :func:`funnel.inference.inputs.make_input`.

        Raises:
            DataError: a value is no input of this model.
        """
        inputs = (make_input(value, self.form.problem_type) for value in values)
        size = self.window or (_SMALL_WINDOW if self.form.problem_type in _SEVERAL else _WINDOW)
        first = 0
        while part := list(islice(inputs, size)):
            encoded = encode_inputs(part, self.form.problem_type, self.encoding)
            self.counts += encoded.texts
            outputs = encoded.finish(self._compute_all(encoded))
            ids = [first + i if item.id is None else item.id for i, item in enumerate(part)]
            has_words = self.form.problem_type == TOKEN_CLASSIFICATION
            for item, row in zip(part, self.form.rows(outputs, first, ids), strict=True):
                yield _add_words(row, item.words) if has_words else row
            first += len(part)

    def _compute_all(self, encoded: Encoded) -> Arrays:
        """Return what is kept of the outputs of all sequences, in their order."""
        lengths = encoded.lengths
        # The longest first, so that an out-of-memory error shows on the first batch.
        order, found = np.argsort(-lengths, kind="stable"), Arrays()
        batches: list[tuple[np.ndarray, int]] = []
        start = 0
        while start < len(order):
            longest = max(int(lengths[order[start]]), self.shortest)
            length = max(self._padded(longest), self.shortest)
            size = self.batch_size or max(1, self.positions // length)
            rows = order[start : start + size]
            if len(batches) + 1 >= _FILLED_FROM:
                # Libraries compile and keep code for every shape: a last batch of any size, in
                # every part, would be a new one. Its last sequence is computed again and again.
                rows = np.pad(rows, (0, size - len(rows)), mode="edge")
            batches.append((rows, length))
            start += size

        def compute(batch: tuple[np.ndarray, int]) -> Arrays:
            return encoded.keep(self.compute(encoded.pad(*batch)), batch[0])

        for (indices, _), kept in zip(batches, self.run_all(compute, batches), strict=True):
            for name, values in kept.items():
                if name not in found:
                    found[name] = np.empty((len(order), *values.shape[1:]), values.dtype)
                found[name][indices] = values
        return found

    def _padded(self, longest: int) -> int:
        most = max(self.encoding.max_length, longest)
        first, size = int(self.config.separate_cls), self.config.upsample_factor
        windows = -(-(longest - first) // size)  # of the last block
        # Steps of a quarter at most bound the number of shapes.
        step = 1 << max(0, windows.bit_length() - _LENGTH_BITS)
        length = bucket_length(first + -(-windows // step) * step * size, most, self.config)
        return min(most, -(-length // self.length_step) * self.length_step)

    def log_counts(self, source: object) -> None:
        """Log how many texts were cut, and how many tokens the vocabulary does not know."""
        self.counts.log(str(source), self.encoding.tokenizer.path)


def _add_words(row: Row, words: tuple[str, ...]) -> Row:
    index, name = row.pop("index"), row.pop("id")
    return {"index": index, "id": name, "words": list(words), **row}
