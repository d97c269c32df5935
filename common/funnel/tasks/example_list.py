"""A list of examples that does not hold their texts in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar, overload

import numpy as np

from funnel.utils.scratch import ScratchArray

_CHUNK = 1024  # examples decoded at a time
# Lone surrogates, from broken JSON escapes, have no UTF-8 encoding of their own.
_ERRORS = "surrogatepass"

Label = int | float | tuple[int, ...] | None


class TextExample(Protocol):
    """An example of one text or two."""

    @property
    def text_a(self) -> str:
        """The first text."""
        ...

    @property
    def text_b(self) -> str | None:
        """The second text of a pair."""
        ...

    @property
    def label(self) -> Label:
        """Class id or number, if known."""
        ...


E = TypeVar("E", bound=TextExample)


class ExampleList(Sequence[E], Generic[E]):
    """Examples in their order; the texts of many are in a temporary file.

    Examples are appended first and then read. It equals a list of the same examples.

    Args:
        make: makes an example of the two texts and the label.
    """

    def __init__(self, make: Callable[[str, str | None, Label], E]) -> None:
        self._make = make
        folder = tempfile.gettempdir()
        self._texts = ScratchArray(folder, np.uint8)
        self._ends = ScratchArray(folder, np.int64)  # of both texts; negative: no second text
        self._labels: list[Label] = []
        self._size = 0

    def append(self, example: E) -> None:
        """Add an example; not allowed once one was read.

        Raises:
            FunnelError: the temporary file cannot be written.
        """
        first = example.text_a.encode("utf-8", _ERRORS)
        second = (example.text_b or "").encode("utf-8", _ERRORS)
        middle = self._size + len(first)
        self._size = middle + len(second)
        self._texts.append(np.frombuffer(first + second, np.uint8))
        self._ends.append(np.array([middle, -1 if example.text_b is None else self._size]))
        self._labels.append(example.label)

    @property
    def labels(self) -> Sequence[Label]:
        """The labels, without reading the texts."""
        return self._labels

    def drop_labels(self) -> None:
        """Make all examples unlabelled."""
        self._labels = [None] * len(self)

    def __len__(self) -> int:
        return len(self._labels)

    def __iter__(self) -> Iterator[E]:
        for start in range(0, len(self), _CHUNK):
            yield from self[start : start + _CHUNK]

    @overload
    def __getitem__(self, index: int) -> E: ...

    @overload
    def __getitem__(self, index: slice) -> list[E]: ...

    def __getitem__(self, index: int | slice) -> E | list[E]:
        chosen = range(len(self))[index]  # raises IndexError as a list does
        if isinstance(chosen, int):
            return self._read(chosen)
        found = [self._read(number) for number in chosen]
        self._texts.release()
        self._ends.release()
        return found

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(mine == yours for mine, yours in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self[:3])}{', ...' if len(self) > 3 else ''})"

    def _read(self, number: int) -> E:
        texts, ends = self._texts.read(), self._ends.read()
        # The previous example ends with its second text or, without one, with its first.
        begin = max(map(int, ends[2 * number - 2 : 2 * number]), default=0) if number else 0
        middle, end = int(ends[2 * number]), int(ends[2 * number + 1])
        first = texts[begin:middle].tobytes().decode("utf-8", _ERRORS)
        second = None if end < 0 else texts[middle:end].tobytes().decode("utf-8", _ERRORS)
        return self._make(first, second, self._labels[number])
