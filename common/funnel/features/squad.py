"""SQuAD questions -> windows of tokens (Devlin et al. 2019, section 4.2, for the windows).

``[CLS] question [SEP] paragraph [SEP]`` with segment id 2 on [CLS], 1 (b) on the question and 0 (a)
on the paragraph, each with its [SEP]: the other way round than in classification. A paragraph that
is too long is cut into overlapping windows. Tokens carry their place in the paragraph's characters,
so no text is ever aligned with tokens.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from funnel.config.squad import WindowConfig
from funnel.features.pair_sequences import PairSequences, flatten
from funnel.tasks.squad import Question, SquadData
from funnel.utils.errors import DataError
from funnel.utils.processes import run_in_processes

if TYPE_CHECKING:
    from funnel.tokenization import Tokenizer

logger = logging.getLogger(__name__)

FIRST_UNIQUE_ID = 1_000_000_000


class Window(NamedTuple):
    """Tokens ``first .. first + count - 1`` of a paragraph.

    A span that begins at a token of ``context_first .. context_end - 1`` has more context here
    than in any other window: it counts in this one alone.
    """

    first: int
    count: int
    context_first: int
    context_end: int


@functools.lru_cache(maxsize=1 << 14)
def cut_windows(tokens: int, room: int, stride: int) -> tuple[Window, ...]:
    """Cut ``tokens`` tokens into windows of at most ``room``, each ``stride`` after the one before.

    The context of a token in a window is the smaller number of tokens to its left and right, plus
    0.01 times the window's length; of equals the first window counts. A paragraph without tokens
    has one empty window: its questions are still answered (with nothing).
    """
    cuts = [(0, min(tokens, room))]
    while sum(cuts[-1]) < tokens:
        first = cuts[-1][0] + min(cuts[-1][1], stride)
        cuts.append((first, min(tokens - first, room)))
    best = np.full(tokens, -1, np.int64)
    winner = np.zeros(tokens, np.int64)
    for index, (first, count) in enumerate(cuts):
        part = slice(first, first + count)
        context = 100 * np.minimum(np.arange(count), np.arange(count)[::-1]) + count
        better = context > best[part]
        best[part][better] = context[better]
        winner[part][better] = index
    # Both beginnings and ends of the windows increase, so a token's winner never precedes that of
    # the token before: the tokens a window wins are neighbours.
    index = np.arange(len(cuts))
    firsts = np.searchsorted(winner, index, "left").tolist()
    ends = np.searchsorted(winner, index, "right").tolist()
    return tuple(Window(*cut, *won) for *won, cut in zip(firsts, ends, cuts, strict=True))


@dataclass(frozen=True)
class EncodedParagraphs:
    """Token ids of paragraphs and the characters each token stands for.

    Attributes:
        ids: int32 [total]; paragraph p is ``ids[offsets[p]:offsets[p + 1]]``. A paragraph that no
            question asks about has no tokens.
        starts, ends: int32 [total], place in the paragraph's characters, end exclusive.
        offsets: int64 [P + 1].
    """

    ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    offsets: np.ndarray

    def overlapping(self, paragraph: int, start: int, end: int) -> tuple[int, int] | None:
        """Return the first and last token that overlap characters ``start .. end - 1``, if any."""
        part = slice(self.offsets[paragraph], self.offsets[paragraph + 1])
        found = np.flatnonzero((self.starts[part] < end) & (self.ends[part] > start))
        return (int(found[0]), int(found[-1])) if len(found) else None

    def characters(self, paragraph: int, first: int, last: int) -> tuple[int, int]:
        """Return the place (start, end) of tokens ``first .. last`` of a paragraph."""
        begin = self.offsets[paragraph]
        return int(self.starts[begin + first]), int(self.ends[begin + last])


def encode_paragraphs(
    texts: Sequence[str],
    tokenizer: Tokenizer,
    wanted: set[int] | None = None,
    num_proc: int = 1,
) -> EncodedParagraphs:
    """Encode every paragraph once, or those with an index in ``wanted``.

    With ``num_proc`` above 1 processes share the work; each takes a second or two to start.
    """
    if wanted is not None:
        texts = [text if index in wanted else "" for index, text in enumerate(texts)]
    size = max(1, -(-len(texts) // num_proc))
    begins = range(0, len(texts), size)
    calls = [(begin, texts[begin : begin + size], tokenizer) for begin in begins]
    if num_proc == 1:
        parts = [_encode_part(*call) for call in calls]
    else:
        parts = sorted(run_in_processes(_encode_part, calls, num_proc), key=lambda part: part[0])
    places = [np.empty((0, 2), np.int32), *(place for part in parts for place in part[2])]
    starts, ends = np.concatenate(places).T.copy()
    ids_in_a_row, offsets = flatten([row for part in parts for row in part[1]])
    return EncodedParagraphs(ids_in_a_row, starts, ends, offsets)


def _encode_part(
    begin: int, texts: Sequence[str], tokenizer: Tokenizer
) -> tuple[int, list[list[int]], list[np.ndarray]]:
    """Return ``begin``, and the ids and the places [tokens, 2] of each text."""
    pairs = [tokenizer.encode_with_offsets(text) if text else ([], []) for text in texts]
    places = [np.array(spans, np.int32).reshape(-1, 2) for _, spans in pairs]
    return begin, [ids for ids, _ in pairs], places


@dataclass(frozen=True)
class SquadWindows:
    """W windows; those of one question are neighbours.

    Attributes:
        sequences: token ids and segment ids.
        paragraphs: ids and places of the paragraphs' tokens.
        question: int64 [W], index into ``SquadData.questions``.
        paragraph: int64 [W], index into ``SquadData.paragraphs``.
        first_token: int64 [W], paragraph token at position ``paragraph_begin`` of the window.
        context_begin, context_end: int64 [W], the positions at which a span has to begin to count
            in this window (end exclusive).
        start_positions, end_positions: int64 [W], first and last position of the answer, 0 ([CLS])
            where the window holds no whole answer; ``None`` if not made for training.
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
        """Position of the [SEP] behind the last paragraph token, int64 [W]."""
        return self.lengths - 1

    @property
    def unique_ids(self) -> np.ndarray:
        """The name of each window in record files, int64 [W]."""
        return FIRST_UNIQUE_ID + np.arange(len(self))

    def pad(
        self, indices: Sequence[int] | np.ndarray, length: int, pad_id: int
    ) -> dict[str, np.ndarray]:
        """Return the windows ``indices`` (B of them) padded on the right to ``length`` = L.

        Returns:
            int64 arrays: ``input_ids``, ``attention_mask`` (1 = real token), ``token_type_ids`` and
            ``p_mask`` (0 on [CLS] and the paragraph, 1 wherever no answer can be) [B, L];
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
        tokenizer: turns text into ids and places.
        config: lengths and segment ids.
        training: add the position of the first answer. Questions whose first answer cannot be
            found are then left out, and the log names them.
        seed: shuffle the questions before windows are cut; ``None`` keeps their order.
        num_proc: as in :func:`encode_paragraphs`.

    Raises:
        DataError: for training, a question has no answer on file, or none is left.
    """
    asked = range(len(data.questions))
    order = list(asked) if seed is None else np.random.default_rng(seed).permutation(asked).tolist()
    wanted = {question.paragraph for question in data.questions}
    paragraphs = encode_paragraphs(data.paragraphs, tokenizer, wanted, num_proc)
    spans: dict[int, tuple[int, int]] = {}
    if training:
        spans = _answer_spans(data, paragraphs)
        order = [index for index in order if index in spans]
    queries = tokenizer.encode_batch([data.questions[index].text for index in order])
    queries = [query[: config.max_query_length] for query in queries]
    windows = _assemble(data.questions, order, queries, paragraphs, tokenizer, config)
    return _with_targets(windows, spans) if training else windows


def _assemble(
    questions: Sequence[Question],
    order: list[int],
    queries: list[list[int]],
    paragraphs: EncodedParagraphs,
    tokenizer: Tokenizer,
    config: WindowConfig,
) -> SquadWindows:
    """Return the windows of the questions ``order``, whose own tokens are ``queries``."""
    sizes = np.diff(paragraphs.offsets).tolist()
    rows = []
    for place, (index, query) in enumerate(zip(order, queries, strict=True)):
        paragraph = questions[index].paragraph
        room = config.max_seq_length - len(query) - 3
        for window in cut_windows(sizes[paragraph], room, config.doc_stride):
            rows.append((place, index, paragraph, *window))
    columns = np.array(rows, np.int64).reshape(-1, 7).T.copy()
    place, question, paragraph, first, count, context_first, context_end = columns
    query_ids, query_offsets = flatten(queries)
    sequences = PairSequences(
        tokens=np.concatenate([paragraphs.ids, query_ids]),
        first_begins=len(paragraphs.ids) + query_offsets[place],
        first_lengths=np.diff(query_offsets)[place],
        second_begins=paragraphs.offsets[paragraph] + first,
        second_lengths=count,
        cls_id=tokenizer.special.cls_id,
        sep_id=tokenizer.special.sep_id,
        segments=replace(config.segments, a=config.segments.b, b=config.segments.a),
    )
    shift = sequences.first_lengths + 2 - first
    return SquadWindows(
        sequences,
        paragraphs,
        question,
        paragraph,
        first_token=first,
        context_begin=context_first + shift,
        context_end=context_end + shift,
    )


_UNANSWERABLE = (-1, -1)


def _answer_spans(data: SquadData, paragraphs: EncodedParagraphs) -> dict[int, tuple[int, int]]:
    """Return question -> first and last token of its first answer, or ``_UNANSWERABLE``."""
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
            found = paragraphs.overlapping(question.paragraph, start, start + len(text))
        if found is None:
            where = f"{question.where} ({question.id})"
            logger.warning("%s: %s: its answer cannot be found, left out", data.path, where)
        else:
            spans[index] = found
    if not spans:
        raise DataError(f"{data.path}: no question is left to train on")
    return spans


def _with_targets(windows: SquadWindows, spans: dict[int, tuple[int, int]]) -> SquadWindows:
    """Add the positions of the answers; a window without the whole of it points at [CLS]."""
    first, last = np.array([spans[index] for index in windows.question.tolist()]).T
    end = windows.first_token + windows.sequences.second_lengths
    is_inside = (first >= windows.first_token) & (last < end)
    shift = windows.paragraph_begin - windows.first_token
    return replace(
        windows,
        start_positions=np.where(is_inside, first + shift, 0),
        end_positions=np.where(is_inside, last + shift, 0),
    )
