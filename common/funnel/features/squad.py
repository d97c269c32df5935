"""SQuAD questions as overlapping windows of tokens (Devlin et al. 2019, section 4.2).

``[CLS] question [SEP] paragraph [SEP]`` with segment id 2 on [CLS], 1 (b) on the question and 0 (a)
on the paragraph, each with its [SEP]; in classification the first text has 0. Character offsets of
tokens come from the tokenizer, so answers need no alignment of text with tokens.
"""

from __future__ import annotations

import logging
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from funnel.config.squad import WindowConfig
from funnel.features.pair_sequences import PairSequences, cut_windows, flatten
from funnel.tasks.squad import Question, SquadData
from funnel.utils.errors import DataError
from funnel.utils.processes import run_in_processes
from funnel.utils.scratch import ScratchArray, concatenate
from funnel.utils.split_report import NO_TEXTS, SplitReport, TextCounts, count_texts

if TYPE_CHECKING:
    from funnel.tokenization import Tokenizer

logger = logging.getLogger(__name__)

FIRST_UNIQUE_ID = 1_000_000_000
_TEXTS_AT_ONCE = 1024  # encoded before their tokens are stored


@dataclass(frozen=True)
class EncodedParagraphs:
    """Token ids of paragraphs with character offsets.

    Attributes:
        ids: int32 [total]; paragraph p is ``ids[offsets[p]:offsets[p + 1]]``. A paragraph without
            questions has no tokens.
        starts, ends: int32 [total], characters of the paragraph, end exclusive.
        offsets: int64 [P + 1].
    """

    ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    offsets: np.ndarray

    def find_overlapping(self, paragraph: int, start: int, end: int) -> tuple[int, int] | None:
        """Return the first and last token that overlap characters ``start .. end - 1``, if any."""
        part = slice(self.offsets[paragraph], self.offsets[paragraph + 1])
        found = np.flatnonzero((self.starts[part] < end) & (self.ends[part] > start))
        return (int(found[0]), int(found[-1])) if len(found) else None

    def characters(self, paragraph: int, first: int, last: int) -> tuple[int, int]:
        """Return the characters (start, end) of tokens ``first .. last`` of a paragraph."""
        begin = self.offsets[paragraph]
        return int(self.starts[begin + first]), int(self.ends[begin + last])


def encode_paragraphs(
    texts: Sequence[str],
    tokenizer: Tokenizer,
    wanted: set[int] | None = None,
    num_proc: int = 1,
) -> EncodedParagraphs:
    """Encode every paragraph once, or only those with an index in ``wanted``.

    ``num_proc`` above 1 distributes the work to processes, which take a second or two to start.
    """
    size = _TEXTS_AT_ONCE if num_proc == 1 else max(1, -(-len(texts) // num_proc))
    begins = range(0, len(texts), size)
    calls = (
        (begin, [texts[i] if wanted is None or i in wanted else "" for i in part], tokenizer)
        for begin in begins
        if (part := range(begin, min(begin + size, len(texts))))
    )
    parts: Iterable[tuple[int, list[np.ndarray], list[np.ndarray]]]
    if num_proc == 1:
        parts = (_encode_part(*call) for call in calls)
    else:
        found = run_in_processes(_encode_part, list(calls), num_proc)
        parts = sorted(found, key=lambda part: part[0])
    ids, starts, ends = (ScratchArray(tempfile.gettempdir(), np.int32) for _ in range(3))
    offsets = array("q", [0])
    for _, rows, spans in parts:
        for row, span in zip(rows, spans, strict=True):
            offsets.append(offsets[-1] + len(row))
            ids.append(row)
            starts.append(span[:, 0])
            ends.append(span[:, 1])
    return EncodedParagraphs(
        ids.read(), starts.read(), ends.read(), np.frombuffer(offsets, np.int64)
    )


def _encode_part(
    begin: int, texts: Sequence[str], tokenizer: Tokenizer
) -> tuple[int, list[np.ndarray], list[np.ndarray]]:
    """Return ``begin``, and the ids and the character offsets [tokens, 2] of each text."""
    rows, spans = [], []
    for text in texts:
        ids, offsets = tokenizer.encode_with_offsets(text) if text else ([], [])
        # Arrays at once: as Python objects the offsets of a file take ten times its size.
        rows.append(np.array(ids, np.int32))
        spans.append(np.array(offsets, np.int32).reshape(-1, 2))
    return begin, rows, spans


@dataclass(frozen=True)
class SquadWindows:
    """W windows; those of a question are consecutive.

    Attributes:
        sequences: token ids and segment ids.
        paragraphs: ids and character offsets of the paragraphs' tokens.
        question: int64 [W], index into ``SquadData.questions``.
        paragraph: int64 [W], index into ``SquadData.paragraphs``.
        first_token: int64 [W], paragraph token at position ``paragraph_begin`` of the window.
        context_begin, context_end: int64 [W], range of start positions that count in this window
            (end exclusive).
        start_positions, end_positions: int64 [W], first and last position of the answer, 0 ([CLS])
            where the window does not contain the complete answer; ``None`` except for training.
        texts: counts of the questions that are cut, and of all tokens.
    """

    sequences: PairSequences
    paragraphs: EncodedParagraphs
    question: np.ndarray
    paragraph: np.ndarray
    first_token: np.ndarray
    context_begin: np.ndarray
    context_end: np.ndarray
    start_positions: np.ndarray | None = None
    end_positions: np.ndarray | None = None
    texts: TextCounts = NO_TEXTS

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each window, int64 [W]."""
        return self.sequences.lengths

    @property
    def paragraph_begin(self) -> np.ndarray:
        """Position of the first paragraph token, int64 [W]."""
        return self.sequences.first_lengths + 2

    @property
    def paragraph_end(self) -> np.ndarray:
        """Position of the [SEP] after the last paragraph token, int64 [W]."""
        return self.lengths - 1

    @property
    def unique_ids(self) -> np.ndarray:
        """Id of each window in record files, int64 [W]."""
        return FIRST_UNIQUE_ID + np.arange(len(self))

    def report(self, data: SquadData) -> SplitReport:
        """Return what became of the questions of ``data``, from which the windows were cut."""
        used = np.unique(self.question)
        labels = {"answerable": 0, "unanswerable": 0}
        for index in used.tolist():
            if (answers := data.questions[index].answers) is not None:
                labels["answerable" if answers else "unanswerable"] += 1
        missing = len(data.questions) - len(used)
        return SplitReport(
            len(used),
            f"questions in {len(self)} windows",
            skipped={"answer not found": missing} if missing else {},
            labels=labels if any(labels.values()) else {},
            texts=self.texts,
        )

    def pad(
        self, indices: Sequence[int] | np.ndarray, length: int, pad_id: int
    ) -> dict[str, np.ndarray]:
        """Return the windows ``indices`` (B of them) padded on the right to ``length`` = L.

        Returns:
            int64 arrays: ``input_ids``, ``attention_mask`` (1 = real token), ``token_type_ids`` and
            ``p_mask`` (0 on [CLS] and the paragraph, 1 elsewhere) [B, L];
            ``cls_index`` [B]; for training also ``start_positions``, ``end_positions`` and
            ``is_impossible`` [B].

        Raises:
            ValueError: a window is longer than ``length``.
        """
        indices = np.asarray(indices, np.int64)
        batch = self.sequences.pad(indices, length, pad_id)
        position = np.arange(length)
        begin = self.sequences.first_lengths[indices, None] + 2
        end = begin + self.sequences.second_lengths[indices, None]
        batch["p_mask"] = ((position < begin) | (position >= end)).astype(np.int64)
        batch["p_mask"][:, :1] = 0
        batch["cls_index"] = np.zeros(len(indices), np.int64)
        if self.start_positions is not None and self.end_positions is not None:
            batch["start_positions"] = self.start_positions[indices]
            batch["end_positions"] = self.end_positions[indices]
            batch["is_impossible"] = (batch["start_positions"] == 0).astype(np.int64)
        return batch


def build_windows(
    data: SquadData,
    tokenizer: Tokenizer,
    config: WindowConfig = WindowConfig(),
    training: bool = False,
    seed: int | None = None,
    num_proc: int = 1,
) -> SquadWindows:
    """Cut every question into windows.

    Args:
        data: the questions.
        tokenizer: encodes questions and paragraphs.
        config: lengths and segment ids.
        training: add the positions of the first answer. Questions whose first answer cannot be
            found are left out and logged.
        seed: seed for shuffling the questions before they are cut; ``None`` keeps their order.
        num_proc: as in :func:`encode_paragraphs`.

    Raises:
        DataError: for training, a question has no answer on file, or none is left.
    """
    order = np.arange(len(data.questions))
    if seed is not None:
        order = np.random.default_rng(seed).permutation(order)
    wanted = {question.paragraph for question in data.questions}
    paragraphs = encode_paragraphs(data.paragraphs, tokenizer, wanted, num_proc)
    spans: dict[int, tuple[int, int]] = {}
    if training:
        spans = _find_answer_spans(data, paragraphs)
        order = np.array([index for index in order.tolist() if index in spans], np.int64)
    queries = _encode_queries(data.questions, order, tokenizer, config.max_query_length)
    windows = _assemble(queries, paragraphs, tokenizer, config)
    tokens = windows.sequences.tokens
    unknown = int((tokens == tokenizer.special.unk_id).sum())
    sizes, limit = queries.sizes.tolist(), config.max_query_length
    texts = count_texts(sizes, limit, tokens=len(tokens), unknown=unknown)
    windows = replace(windows, texts=replace(texts, unit="questions"))
    return _add_targets(windows, spans) if training else windows


class _Queries(NamedTuple):
    """Token ids of n questions.

    Attributes:
        question: int64 [n], index into ``SquadData.questions``.
        paragraph: int64 [n], index into ``SquadData.paragraphs``.
        ids: int32 [total]; query i is ``ids[offsets[i]:offsets[i + 1]]``.
        offsets: int64 [n + 1].
        sizes: int64 [n], tokens of each question before it was cut.
    """

    question: np.ndarray
    paragraph: np.ndarray
    ids: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray


def _encode_queries(
    questions: Sequence[Question], order: np.ndarray, tokenizer: Tokenizer, limit: int
) -> _Queries:
    """Return the first ``limit`` tokens of the questions ``order``."""
    ids = ScratchArray(tempfile.gettempdir(), np.int32)
    paragraphs, sizes, offsets = array("q"), array("q"), array("q", [0])
    for start in range(0, len(order), _TEXTS_AT_ONCE):
        part = [questions[index] for index in order[start : start + _TEXTS_AT_ONCE].tolist()]
        encoded = tokenizer.encode_batch([question.text for question in part])
        paragraphs.extend(question.paragraph for question in part)
        sizes.extend(map(len, encoded))
        tokens, ends = flatten([query[:limit] for query in encoded])
        ids.append(tokens)
        offsets.extend((offsets[-1] + ends[1:]).tolist())
    columns = (np.frombuffer(values, np.int64) for values in (offsets, sizes))
    return _Queries(order, np.frombuffer(paragraphs, np.int64), ids.read(), *columns)


def _assemble(
    queries: _Queries, paragraphs: EncodedParagraphs, tokenizer: Tokenizer, config: WindowConfig
) -> SquadWindows:
    """Return the windows of questions."""
    sizes = np.diff(paragraphs.offsets)
    rows = array("q")  # as Python objects they take four times as much memory
    used = np.diff(queries.offsets)
    for row in range(len(queries.question)):
        source = int(queries.paragraph[row])
        room = config.max_seq_length - int(used[row]) - 3
        for window in cut_windows(int(sizes[source]), room, config.doc_stride):
            rows.extend((row, *window))
    columns = np.frombuffer(rows, np.int64).reshape(-1, 5).T.copy()
    query, first, length, context_first, context_end = columns
    paragraph = queries.paragraph[query]
    sequences = PairSequences(
        tokens=concatenate([paragraphs.ids, queries.ids], np.int32),
        first_begins=len(paragraphs.ids) + queries.offsets[query],
        first_lengths=used[query],
        second_begins=paragraphs.offsets[paragraph] + first,
        second_lengths=length,
        cls_id=tokenizer.special.cls_id,
        sep_id=tokenizer.special.sep_id,
        segments=replace(config.segments, a=config.segments.b, b=config.segments.a),
    )
    shift = sequences.first_lengths + 2 - first
    return SquadWindows(
        sequences,
        paragraphs,
        queries.question[query],
        paragraph,
        first_token=first,
        context_begin=context_first + shift,
        context_end=context_end + shift,
    )


_UNANSWERABLE = (-1, -1)


def _find_answer_spans(
    data: SquadData, paragraphs: EncodedParagraphs
) -> dict[int, tuple[int, int]]:
    """Return the first and last token of the first answer, or ``_UNANSWERABLE``, by question."""
    spans: dict[int, tuple[int, int]] = {}
    for index, question in enumerate(data.questions):
        if question.answers is None:
            raise DataError(f"{data.path}: {question.where}.answers is missing, needed to train")
        if not question.answers:
            spans[index] = _UNANSWERABLE
            continue
        text, start = question.answers[0]
        found = None
        if start is not None:
            found = paragraphs.find_overlapping(question.paragraph, start, start + len(text))
        if found is None:
            where = f"{question.where} ({question.id})"
            logger.warning("%s: %s: its answer cannot be found, left out", data.path, where)
        else:
            spans[index] = found
    if not spans:
        raise DataError(f"{data.path}: no question is left to train on")
    return spans


def _add_targets(windows: SquadWindows, spans: dict[int, tuple[int, int]]) -> SquadWindows:
    """Add answer positions; they are 0 ([CLS]) unless the window contains the complete answer."""
    first, last = np.array([spans[index] for index in windows.question.tolist()]).T
    end = windows.first_token + windows.sequences.second_lengths
    is_inside = (first >= windows.first_token) & (last < end)
    shift = windows.paragraph_begin - windows.first_token
    return replace(
        windows,
        start_positions=np.where(is_inside, first + shift, 0),
        end_positions=np.where(is_inside, last + shift, 0),
    )
