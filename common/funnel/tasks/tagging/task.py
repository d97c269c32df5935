"""A token-classification task: files of tagged sentences, the tags, their scheme and the scores."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from funnel.config.tagging import TAGGING_FORMATS, TaggingFiles
from funnel.tasks.labels import FoundLabels, LabelMatcher, clean_label, count_labels
from funnel.tasks.tagging.files import TaggedSentence, read_conll, read_jsonl
from funnel.tasks.tagging.metrics import entity_scores, tag_accuracy
from funnel.tasks.tagging.schemes import (
    NO_SCHEME,
    detect_scheme,
    find_violation,
    marks_entities,
)
from funnel.utils.errors import ConfigError, DataError
from funnel.utils.split_report import SplitReport
from funnel.utils.text import join_names
from funnel.utils.text_files import find_file

logger = logging.getLogger(__name__)

AUTO = "auto"
_STEMS = {"train": ("train",), "dev": ("dev", "valid"), "test": ("test",)}
_SUFFIXES = {"conll": ("conll", "txt"), "jsonl": ("jsonl",)}
# A larger share of sentences that break the scheme indicates another scheme.
_BROKEN_SHARE = 0.01
_SHOWN_LABELS = 20


class TaggedSplit(NamedTuple):
    """The sentences of a split in file order.

    Attributes:
        words: the words of every sentence.
        tags: class ids of the words of every sentence; None if any sentence has none.
        report: what became of the lines of the file.
    """

    words: list[tuple[str, ...]]
    tags: list[list[int]] | None
    report: SplitReport


@dataclass(frozen=True)
class TaggingTask:
    """Files of tagged sentences, and how their tags are read and scored.

    Attributes:
        format: ``conll`` or ``jsonl``.
        labels: the tags in the order of their ids; None before :meth:`resolve_labels`.
        text_column, label_column: columns or keys as on the command line; None for the defaults.
        scheme: ``iob1``, ``iob2``, ``iobes``, ``none`` (plain tags), or ``auto``.
        metric: the main metric; None chooses by the tags.
        names: file names by split; a split without one has the default names.
        label_origin: where the labels come from, for messages.
    """

    format: str
    labels: tuple[str, ...] | None = None
    text_column: str | None = None
    label_column: str | None = None
    scheme: str = AUTO
    metric: str | None = None
    names: Mapping[str, str] = field(default_factory=dict, hash=False)
    label_origin: str = ""

    @property
    def known_labels(self) -> tuple[str, ...]:
        """The tags in the order of their ids.

        Raises:
            DataError: they have not been read.
        """
        if self.labels is None:
            raise DataError("the tags are unknown; resolve_labels() reads them")
        return self.labels

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics, the main one first."""
        has_entities = self.scheme != NO_SCHEME and marks_entities(self.known_labels)
        names = ["f1", "precision", "recall", "accuracy", "strict_f1"]
        names = names if has_entities else ["accuracy"]
        main = self.metric or names[0]
        if main not in names:
            raise ConfigError(
                f"metric {main!r} is about entities, but tags such as {self.known_labels[0]!r} "
                "mark none; use accuracy"
            )
        return (main, *(name for name in names if name != main))

    def path(self, data_dir: str | os.PathLike[str], split: str) -> Path:
        """Return the file of a split, which may be compressed.

        Raises:
            DataError: there is none, or no such split.
        """
        if split not in _STEMS:
            raise DataError(f"there is no {split} split, only {', '.join(_STEMS)}")
        given = self.names.get(split)
        names = [f"{stem}.{end}" for stem in _STEMS[split] for end in _SUFFIXES[self.format]]
        names, folder = [given] if given else names, Path(data_dir)
        if not folder.is_dir():
            raise DataError(f"{folder}: no such directory")
        for name in names:
            if (found := find_file(folder, name)) is not None:
                return found
        raise DataError(f"{folder}: no {' or '.join(names)} ({split} data)")

    def has_split(self, data_dir: str | os.PathLike[str], split: str) -> bool:
        """Return whether a split has a file."""
        try:
            return self.path(data_dir, split).is_file()
        except DataError:
            return False

    def sentences(
        self, data_dir: str | os.PathLike[str], split: str, skipped: Counter[str] | None = None
    ) -> Iterator[TaggedSentence]:
        """Yield the sentences of a split; those of ``test`` may have no tags."""
        path, optional = self.path(data_dir, split), split == "test"
        if self.format == "jsonl":
            keys, labels = (self.text_column, self.label_column), self.labels or ()
            return read_jsonl(path, *keys, labels, label_optional=optional)
        word = _column("text_column", self.text_column, 0)
        tag = _column("label_column", self.label_column, -1)
        return read_conll(path, word, tag, skipped, label_optional=optional)

    def resolve_labels(self, data_dir: str | os.PathLike[str]) -> TaggingTask:
        """Return this task with its tags and its scheme, both read from the training file.

        Raises:
            DataError: the file is missing or malformed, or has fewer than two tags.
        """
        found, path, seen = FoundLabels(), self.path(data_dir, "train"), []
        for sentence in self.sentences(data_dir, "train"):
            for tag, line in zip(sentence.tags or (), sentence.lines, strict=True):
                found.add(tag, f"{path}:{line}")
            seen.append(sentence.tags or ())
        scheme = detect_scheme(seen) if self.scheme == AUTO else self.scheme
        logger.info("%s: tag scheme %s", path, scheme)
        if self.labels is not None:
            return replace(self, scheme=scheme)
        found.warn()
        if len(found.counts) < 2:
            raise DataError(f"{path}: all words have the tag {next(iter(found.counts))!r}")
        return replace(self, labels=found.ordered(), scheme=scheme, label_origin=str(path))

    def read(self, data_dir: str | os.PathLike[str], split: str) -> TaggedSplit:
        """Read a split; its tags are checked against the labels and the scheme.

        Raises:
            DataError: a malformed file, an unknown tag, or more than 1 % of the sentences break the
                scheme.
        """
        path, skipped, counts = self.path(data_dir, split), Counter[str](), Counter[int]()
        matcher, sentences = LabelMatcher(self.known_labels), []
        tags: list[list[int]] = []
        for sentence in self.sentences(data_dir, split, skipped):
            sentences.append(sentence)
            if sentence.tags is not None:
                tags.append(self._find_ids(matcher, sentence, path))
                counts.update(tags[-1])
        is_tagged = len(tags) == len(sentences)
        self._check_scheme(sentences, path)
        report = SplitReport(
            len(sentences),
            "sentences",
            skipped={f"lines of {reason}": count for reason, count in skipped.items()},
            labels=count_labels(self.known_labels, counts) if counts else {},
            respelled=tuple((*pair, count) for pair, count in matcher.respelled.items()),
            unlabelled=len(sentences) - len(tags),
        )
        return TaggedSplit([s.words for s in sentences], tags if is_tagged else None, report)

    def score(self, gold: Sequence[Sequence[int]], found: Sequence[Sequence[int]]) -> dict:
        """Return the metrics of predicted class ids, the main one first."""
        wanted, guesses = self.name_tags(gold), self.name_tags(found)
        scores = {"accuracy": tag_accuracy(wanted, guesses)}
        if len(self.metrics) > 1:
            scores |= entity_scores(wanted, guesses)
            scheme = detect_scheme(wanted) if self.scheme == AUTO else self.scheme
            strict = {} if scheme == NO_SCHEME else entity_scores(wanted, guesses, scheme)
            scores["strict_f1"] = strict.get("f1", 0.0)
        return {name: scores[name] for name in self.metrics}

    def name_tags(self, ids: Sequence[Sequence[int]]) -> list[list[str]]:
        """Return the tags of class ids."""
        labels = self.known_labels
        return [[labels[number] for number in row] for row in ids]

    def _find_ids(self, matcher: LabelMatcher, sentence: TaggedSentence, path: Path) -> list[int]:
        ids = []
        for tag, line in zip(sentence.tags or (), sentence.lines, strict=True):
            found = matcher.find(clean_label(tag))
            if found is None:
                origin = f" (the tags of {self.label_origin})" if self.label_origin else ""
                raise DataError(
                    f"{path}:{line}: unknown tag {tag!r}; allowed: "
                    f"{join_names(self.known_labels, _SHOWN_LABELS)}{origin}"
                )
            ids.append(found)
        return ids

    def _check_scheme(self, sentences: Sequence[TaggedSentence], path: Path) -> None:
        tagged = [one for one in sentences if one.tags is not None]
        scheme = self.scheme
        if scheme == AUTO:
            scheme = detect_scheme([one.tags or () for one in tagged])
        if scheme == NO_SCHEME:
            return
        broken = []
        for one in tagged:
            place = find_violation(one.tags or (), scheme)
            if place is not None:
                broken.append(one.lines[min(place, len(one.lines) - 1)])
        if not broken:
            return
        told = (
            f"{path}:{broken[0]}: breaks the tag scheme {scheme}, as do {len(broken) - 1} more of "
            f"the {len(tagged)} sentences"
        )
        if len(broken) > max(1, _BROKEN_SHARE * len(tagged)):
            raise DataError(f"{told}; --scheme names another, or none for plain tags")
        logger.warning("%s", told)


def tagging_task(name: str | None, settings: TaggingFiles) -> TaggingTask:
    """Return the task that a command line describes.

    Raises:
        ConfigError: an unknown format, or a label is listed twice.
    """
    kind = (name or "").lower()
    if kind not in TAGGING_FORMATS:
        raise ConfigError(f"data set {name!r} is not one of {', '.join(TAGGING_FORMATS)}")
    labels = None
    if settings.labels:
        labels = tuple(map(clean_label, settings.labels.split(",")))
        if len(set(labels)) != len(labels) or "" in labels or len(labels) < 2:
            raise ConfigError(f"--labels={settings.labels}: should be two or more different tags")
    files = {"train": settings.train_file, "dev": settings.dev_file, "test": settings.test_file}
    return TaggingTask(
        kind,
        labels,
        settings.text_column,
        settings.label_column,
        settings.scheme,
        settings.metric,
        {split: file for split, file in files.items() if file},
        "--labels" if labels else "",
    )


def _column(name: str, value: str | None, default: int) -> int:
    try:
        return default if value is None else int(value)
    except ValueError:
        raise ConfigError(f"--{name}={value}: in conll a column is a position") from None
