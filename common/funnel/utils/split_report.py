"""What became of the data of one split: counts that a program logs when it starts.

A report is kept next to cached data, so that it is the same whether the data was read or not.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from funnel.utils.text import join_names

logger = logging.getLogger(__name__)

# A vocabulary that fits its text splits nearly every word into known pieces.
UNKNOWN_SHARE = 0.01
_SHOWN = 20  # labels in a line


@dataclass(frozen=True)
class TextCounts:
    """Counts of the texts of a split.

    Attributes:
        texts: number of texts (a pair counts as one).
        truncated: texts that lost tokens to ``limit``.
        longest: tokens of the longest text before truncation, special tokens included.
        limit: tokens that a text may have.
        tokens: tokens of all texts before truncation, without special tokens.
        unknown: those among them that are the unknown token.
        unit: what is cut, in the plural.
        windows: windows into which the texts longer than ``limit`` were cut, so that nothing of
            them is lost; 0 where they are truncated.
    """

    texts: int = 0
    truncated: int = 0
    longest: int = 0
    limit: int = 0
    tokens: int = 0
    unknown: int = 0
    unit: str = "texts"
    windows: int = 0

    def __add__(self, other: TextCounts) -> TextCounts:
        """Return the counts of the texts of both."""
        return TextCounts(
            self.texts + other.texts,
            self.truncated + other.truncated,
            max(self.longest, other.longest),
            max(self.limit, other.limit),
            self.tokens + other.tokens,
            self.unknown + other.unknown,
            self.unit if self.texts else other.unit,
            self.windows + other.windows,
        )

    def log(self, split: str, vocabulary: str | os.PathLike[str]) -> None:
        """Log truncation and vocabulary coverage, as a warning if the coverage is bad."""
        if self.texts:
            share = self.truncated / self.texts
            into = f" in {self.windows} windows" if self.windows else ""
            logger.info(
                "%s: %d of %d %s (%.1f %%) cut to %d tokens%s; the longest has %d",
                *(split, self.truncated, self.texts, self.unit, 100 * share),
                *(self.limit, into, self.longest),
            )
        if not self.tokens:
            return
        share = self.unknown / self.tokens
        values = (split, 100 * share, self.tokens, vocabulary)
        if share > UNKNOWN_SHARE:
            logger.warning(
                "WARNING: %s: %.2f %% of the %d tokens are unknown to %s: does this vocabulary fit "
                "the texts, and upper and lower case the model?",
                *values,
            )
        else:
            logger.info("%s: %.2f %% of the %d tokens are unknown to %s", *values)


NO_TEXTS = TextCounts()


@dataclass(frozen=True)
class SplitReport:
    """Counts of the rows of a split.

    Attributes:
        rows: rows in use.
        unit: what they are, in the plural.
        skipped: number of rows (or of their texts) that are not used, by reason.
        labels: number of rows by label, in the order of the classes; empty for regression.
        respelled: ``(label in the file, label it was read as, number of rows)``.
        numbers: smallest, mean and largest label of a regression.
        unlabelled: rows without label.
        texts: counts of the texts.
    """

    rows: int
    unit: str = "rows"
    skipped: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)
    respelled: tuple[tuple[str, str, int], ...] = ()
    numbers: tuple[float, float, float] | None = None
    unlabelled: int = 0
    texts: TextCounts = NO_TEXTS

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """Return the report of :meth:`to_json`.

        Raises:
            ValueError: ``values`` is no report.
        """
        try:
            fields = dict(values)
            texts = TextCounts(**fields.pop("texts"))
            respelled = tuple((str(a), str(b), int(n)) for a, b, n in fields.pop("respelled"))
            return cls(**fields, texts=texts, respelled=respelled)
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"no report of a split: {error}") from None

    def log(self, split: str, source: object, vocabulary: str | os.PathLike[str]) -> None:
        """Log everything.

        Args:
            split: name of the split.
            source: file or directory that it was read from.
            vocabulary: file that its tokens come from.
        """
        parts = [f"{self.rows} {self.unit}"]
        if self.skipped:
            parts.append(f"not used: {_join_counts(self.skipped)}")
        if self.labels:
            parts.append(f"labels: {_join_counts(self.labels)}")
        if self.numbers is not None:
            low, mean, high = self.numbers
            parts.append(f"labels from {low:g} to {high:g}, mean {mean:.4g}")
        if self.unlabelled:
            parts.append(f"{self.unlabelled} without label")
        logger.info("%s (%s): %s", split, source, "; ".join(parts))
        self.log_respelled(source)
        if absent := [name for name, count in self.labels.items() if not count]:
            level = logging.WARNING if split.startswith("train") else logging.INFO
            logger.log(
                level,
                "%s: none of the %s has the label %s",
                source,
                self.unit,
                join_names(absent, _SHOWN),
            )
        if 0 < self.unlabelled < self.rows:
            logger.warning(
                "%s: %d of %d %s have no label, so the split is not scored",
                *(source, self.unlabelled, self.rows, self.unit),
            )
        self.texts.log(split, vocabulary)

    def log_respelled(self, source: object) -> None:
        """Log which labels were read as others, as a warning."""
        if self.respelled:
            shown = [f"{old!r} as {new!r} ({n} rows)" for old, new, n in self.respelled]
            logger.warning("%s: labels read %s", source, join_names(shown, _SHOWN))


NO_REPORT = SplitReport(0)


def _join_counts(counts: Mapping[str, int]) -> str:
    return join_names([f"{name} {count}" for name, count in counts.items()], _SHOWN)


def count_texts(sizes: Sequence[int], limit: int, *, tokens: int, unknown: int) -> TextCounts:
    """Return the counts of texts.

    Args:
        sizes: tokens of each text before truncation, special tokens included.
        limit: tokens that a text may have.
        tokens: tokens of all texts, without special tokens.
        unknown: those among them that are the unknown token.
    """
    truncated = sum(size > limit for size in sizes)
    return TextCounts(len(sizes), truncated, max(sizes, default=0), limit, tokens, unknown)
