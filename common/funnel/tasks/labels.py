"""Label texts: what counts as the same label, what is no label, and what is probably a slip."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

from funnel.utils.errors import DataError
from funnel.utils.text import join_names

logger = logging.getLogger(__name__)

PLACEHOLDER = "-1"  # label of test examples in published sets whose answers are not public
# What spreadsheets and pandas write for a value that is not there.
_MISSING = {"", "nan", "<na>", "#n/a"}
# Names of classes in some data, values that are not there in other.
_DOUBTFUL = {"none", "null", "na", "n/a"}
_EDGE = r"[\s\ufeff\u200b]+"
_EDGES = re.compile(rf"^{_EDGE}|{_EDGE}$")
_QUOTES = str.maketrans("", "", "\"'`´‘’‚“”„«»‹›")
_SURROGATE = re.compile("[\ud800-\udfff]")
_UNNAMED = re.compile(r"LABEL_\d+")
_MANY_NUMBERS = 20  # as many different numbers are hardly the names of classes
_SHOWN = 10


def clean_label(text: str) -> str:
    """Return a label without white space around it; zero-width blanks count as white space."""
    return _EDGES.sub("", text)


def fold_label(text: str) -> str:
    """Return the form in which labels are equal that differ in case and blanks only."""
    return "".join(unicodedata.normalize("NFC", text).split()).casefold()


def is_missing(text: str) -> bool:
    """Return whether a label is empty or one of the marks for a value that is not there."""
    return text.lower() in _MISSING


def name_unnamed(count: int) -> tuple[str, ...]:
    """Return the names that stand for ``count`` unnamed classes: ``LABEL_0``, ``LABEL_1``, …"""
    return tuple(f"LABEL_{index}" for index in range(count))


class LabelMatcher:
    """Finds the class of a label as it is written in a file.

    A label that differs from one class in case and blanks only is that class; :attr:`respelled`
    counts such labels. Unnamed classes (``LABEL_0`` …) are also found by their numbers.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = tuple(labels)
        self._ids = {label: index for index, label in enumerate(labels)}
        folded = Counter(map(fold_label, labels))
        self._folded = {
            fold_label(label): index
            for index, label in enumerate(labels)
            if folded[fold_label(label)] == 1
        }
        if labels and all(_UNNAMED.fullmatch(label) for label in labels):
            self._ids |= {str(index): index for index in range(len(labels))}
        self.respelled: Counter[tuple[str, str]] = Counter()

    def find(self, text: str) -> int | None:
        """Return the class id of a label; ``None`` if it is no class."""
        found = self._ids.get(text)
        if found is None and (found := self._folded.get(fold_label(text))) is not None:
            self.respelled[text, self._labels[found]] += 1
        return found


def match_order(wanted: Sequence[str], given: Sequence[str]) -> tuple[str, ...] | None:
    """Return the labels ``wanted`` in the order of ``given``, which may differ in case and blanks.

    Returns:
        ``None`` if they are not the same labels.
    """
    matcher = LabelMatcher(wanted)
    ids = [matcher.find(clean_label(label)) for label in given]
    if None in ids or sorted(ids) != list(range(len(wanted))):  # type: ignore[type-var]
        return None
    return tuple(wanted[index] for index in ids if index is not None)


class FoundLabels:
    """The labels of a training file, with the number and the place of each."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._places: dict[str, str] = {}

    def add(self, text: str | None, where: str) -> None:
        """Count the label of the record at ``where`` (``file:line``).

        Raises:
            DataError: it is empty, a mark for a value that is not there, or holds a tab, line end
                or half of a surrogate pair, which the files of predictions cannot hold.
        """
        label = clean_label(text or "")
        if not label or "\t" in label or "\n" in label:
            raise DataError(f"{where}: label {text or ''!r} is empty or holds a tab or line end")
        if _SURROGATE.search(label):
            raise DataError(
                f"{where}: label {text!r} holds half of a surrogate pair, which is no character, "
                "so that files cannot hold it; correct the escape"
            )
        if is_missing(label):
            raise DataError(
                f"{where}: label {text!r} stands for a missing value: give the line a label or "
                "delete it (a class of that name has to be in --labels)"
            )
        self.counts[label] += 1
        self._places.setdefault(label, where)

    def ordered(self) -> tuple[str, ...]:
        """Return the labels: sorted by value if all are different integers, else as text."""
        try:
            values = {int(label) for label in self.counts}
        except ValueError:
            return tuple(sorted(self.counts))
        is_numeric = len(values) == len(self.counts)
        return tuple(sorted(self.counts, key=int if is_numeric else str))

    def warn(self) -> None:
        """Log, with file and line, the labels that are probably slips."""
        similar = self._similar()
        for label, usual in similar.items():
            logger.warning(
                "%s: label %r (%s) differs from %r (%s) in case, blanks or quotes only, and is a "
                "class of its own",
                *(self._places[label], label, _count_lines(self.counts[label])),
                *(usual, _count_lines(self.counts[usual])),
            )
        once = [label for label, count in self.counts.items() if count == 1]
        if len(once) < len(self.counts):
            shown = [f"{label!r} ({self._places[label]})" for label in once if label not in similar]
            if shown:
                logger.warning("labels of one line only: %s", join_names(shown, _SHOWN))
        for label in self.counts:
            if label.lower() in _DOUBTFUL:
                logger.warning(
                    "%s: label %r (%s) is a class; does it stand for a missing value?",
                    *(self._places[label], label, _count_lines(self.counts[label])),
                )
        self._warn_of_numbers()

    def _similar(self) -> dict[str, str]:
        """Return the more frequent label that each rarer spelling resembles."""
        usual: dict[str, str] = {}
        for label, _ in self.counts.most_common():
            usual.setdefault(_fold_loosely(label), label)
        others = {label: usual[_fold_loosely(label)] for label in self.counts}
        return {label: other for label, other in others.items() if label != other}

    def _warn_of_numbers(self) -> None:
        try:
            values = [float(label) for label in self.counts]
        except ValueError:
            return
        label, where = next(iter(self._places.items()))
        if len(values) > _MANY_NUMBERS and not all(value.is_integer() for value in values):
            logger.warning(
                "%s: %d different numbers such as %r are classes; --regression predicts numbers",
                *(where, len(values), label),
            )
        # -1, 0 and 1 alone may be negative, neutral and positive.
        if PLACEHOLDER in self.counts and "2" in self.counts and min(values) == -1.0:
            logger.warning(
                "%s: label -1 (%s) is a class; published data mark lines without label by it",
                *(self._places[PLACEHOLDER], _count_lines(self.counts[PLACEHOLDER])),
            )


def _fold_loosely(label: str) -> str:
    """Return the form in which labels are alike that probably mean the same."""
    return fold_label(unicodedata.normalize("NFKC", label).translate(_QUOTES)) or label


def _count_lines(count: int) -> str:
    return "1 line" if count == 1 else f"{count} lines"


def describe_labels(labels: Sequence[str]) -> str:
    """Return the classes for a message: ``0 = no, 1 = yes``."""
    return join_names([f"{index} = {label}" for index, label in enumerate(labels)], 2 * _SHOWN)


def count_labels(labels: Sequence[str], counts: Mapping[int, int]) -> dict[str, int]:
    """Return the number of examples of every class by its name."""
    return {label: counts.get(index, 0) for index, label in enumerate(labels)}
