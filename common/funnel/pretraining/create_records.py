"""Raw text -> pretraining examples in TFRecord files, which both trees read.

Text files hold one sentence per line; an empty line or the end of a file ends a document. A task
takes every ``num_task``-th file, joins its documents in random order and cuts them into examples
``[CLS] A [SEP] B [SEP]`` of exactly ``seq_len`` tokens, where B follows A (label 1) or comes from a
random place (label 0), as in the pretraining data of XLNet (Yang et al. 2019), whose recipe
Funnel-Transformer follows (Dai et al. 2020). Seed and input decide every byte.
"""

from __future__ import annotations

import glob
import logging
import os
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from funnel.config.inputs import SegmentIds
from funnel.config.pretraining import SPECIAL_TOKENS, CorpusConfig
from funnel.formats.tfrecord import encode_example, write_records_to
from funnel.tokenization import Tokenizer
from funnel.tokenization.train_vocab import read_lines
from funnel.utils.errors import ConfigError, DataError
from funnel.utils.files import atomic_path, atomic_write_json
from funnel.utils.logging import progress
from funnel.utils.processes import run_in_processes

logger = logging.getLogger(__name__)

_SENTENCES = 4096  # tokenized at once: bounds the memory held in Python lists
_META_NAME = re.compile(
    r"meta\.(?P<split>\w+)\.pass-(?P<pass>\d+)\.seq-(?P<seq>\d+)\.(?P<case>uncased|cased)"
    r"\.json-(?P<task>\d{5,})-of-(?P<tasks>\d{5,})"
)


@dataclass(frozen=True)
class RecordSet:
    """A set of record files; the names say what is in them.

    Attributes:
        split: ``train``, ``dev`` or ``test``.
        pass_id: number of the pass; another one pairs the same text anew.
        seq_len: tokens per example.
        uncased: whether the tokenizer lower-cased the text.
        num_task: number of tasks, each of which writes one file and its description.
    """

    split: str
    pass_id: int
    seq_len: int
    uncased: bool
    num_task: int

    def data_name(self, task: int) -> str:
        """Name of the TFRecord file of one task."""
        return self._name("data", "tfrecord", task)

    def meta_name(self, task: int) -> str:
        """Name of the JSON file with ``filenames`` and ``num_example`` of one task."""
        return self._name("meta", "json", task)

    @classmethod
    def of_config(cls, config: CorpusConfig, uncased: bool) -> RecordSet:
        """Return the record files that ``config`` makes."""
        return cls(config.split, config.pass_id, config.seq_len, uncased, config.num_task)

    @classmethod
    def of_meta(cls, name: str) -> tuple[RecordSet, int] | None:
        """The set and the task that :meth:`meta_name` gave this name for; None: it did not."""
        if (found := _META_NAME.fullmatch(name)) is None:
            return None
        split, case = found["split"], found["case"]
        pass_id, seq_len, task, num_task = map(int, found.group("pass", "seq", "task", "tasks"))
        return cls(split, pass_id, seq_len, case == "uncased", num_task), task

    def _name(self, kind: str, suffix: str, task: int) -> str:
        case = "uncased" if self.uncased else "cased"
        part = f"{task:05d}-of-{self.num_task:05d}"
        return f"{kind}.{self.split}.pass-{self.pass_id}.seq-{self.seq_len}.{case}.{suffix}-{part}"


class Document(NamedTuple):
    """Token ids of a document, int32 [n], and of its sentences the lengths, int64 [s]."""

    tokens: np.ndarray
    lengths: np.ndarray


@dataclass(frozen=True)
class TokenStream:
    """Documents one after another.

    Attributes:
        tokens: int32 [n].
        ends: int64 [s], where each sentence ends (exclusive), rising; the last is n.
    """

    tokens: np.ndarray
    ends: np.ndarray


class Pair(NamedTuple):
    """Two stretches of a stream (ends exclusive); ``label`` 1: B follows A, 0: it is random."""

    a_start: int
    a_end: int
    b_start: int
    b_end: int
    label: int


@dataclass(frozen=True)
class RecordShard:
    """What one task wrote, and from how much text."""

    path: Path
    num_example: int
    documents: int
    left_out: int
    tokens: int
    text_bytes: int


def create_all_records(
    config: CorpusConfig, tasks: Sequence[int], tokenizer: Tokenizer, num_proc: int = 1
) -> Iterator[RecordShard]:
    """Run :func:`create_records` for several tasks, ``num_proc`` at a time; yield as they end.

    That every task has files is checked before the first one starts. When one fails the others are
    stopped; what is complete stays.

    Raises:
        FunnelError: as there; also if a process was killed.
    """
    for task in tasks:
        task_files(config.input_glob, task, config.num_task)
    if min(num_proc, len(tasks)) <= 1:
        yield from (create_records(config, task, tokenizer) for task in tasks)
    else:
        calls = [(config, task, tokenizer, False) for task in tasks]
        shards = run_in_processes(create_records, calls, num_proc)
        yield from progress(shards, "tasks", total=len(tasks))


def create_records(
    config: CorpusConfig, task: int, tokenizer: Tokenizer, show_progress: bool = True
) -> RecordShard:
    """Write the record file of one task, and its description when that is complete.

    Both files are atomic, and an old description is gone before its records are replaced. The
    text of the task is held in memory as token ids, 4 bytes a token (twice that for a moment).

    Raises:
        ConfigError: no such task, or it has no files.
        DataError: a file cannot be read or is not UTF-8, or the text is too short for an example.
        FunnelError: the files cannot be written.
    """
    files = task_files(config.input_glob, task, config.num_task)
    # Not a bar switched off: even that holds a semaphore, which a killed process would leave.
    bar = progress if show_progress else lambda items, _: items
    found = list(bar(encode_documents(files, tokenizer), "reading documents"))
    kept = [d for d in found if len(d.tokens) >= max(1, config.min_doc_len)]
    documents, left_out = len(kept), len(found) - len(kept)
    seed = 100 * task + config.pass_id
    stream = join_documents(kept, seed)
    del found, kept  # the stream is a copy: without this, memory is twice as much until the end
    if len(stream.tokens) <= config.seq_len - SPECIAL_TOKENS:
        raise DataError(
            f"task {task} of {config.num_task}: its {len(files)} files from {config.input_glob} "
            f"hold {len(stream.tokens)} tokens, too few for one example of {config.seq_len}"
        )
    example = ExampleFormat.of(tokenizer, config.seq_len, config.segments)
    pairs = draw_pairs(stream.ends, config.seq_len, random.Random(seed))
    examples = (encode_example(example.features(stream.tokens, pair)) for pair in pairs)
    names = RecordSet.of_config(config, tokenizer.uncased)
    data, meta = (Path(config.save_dir, f(task)) for f in (names.data_name, names.meta_name))
    with atomic_path(data) as temporary:
        with temporary.open("wb") as file:
            count = write_records_to(file, bar(examples, "writing examples"))
        meta.unlink(missing_ok=True)
    atomic_write_json(meta, {"filenames": [data.name], "num_example": count})
    text_bytes = sum(os.path.getsize(path) for path in files)
    return RecordShard(data, count, documents, left_out, len(stream.tokens), text_bytes)


def task_files(pattern: str, task: int, num_task: int) -> list[str]:
    """The files of a task: of all that match, in alphabetical order, every ``num_task``-th.

    Raises:
        ConfigError: no such task, or fewer files than tasks.
        DataError: no file matches.
    """
    if not 0 <= task < num_task:
        raise ConfigError(f"task {task}: of {num_task} tasks, it must be 0 to {num_task - 1}")
    found = sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
    if not found:
        raise DataError(f"{pattern}: no such file")
    if task >= len(found):
        raise ConfigError(
            f"{pattern}: task {task} of {num_task} has no file, as only {len(found)} match; "
            f"use at most {len(found)} tasks or split the text into more files"
        )
    return found[task::num_task]


def read_documents(path: str | os.PathLike[str]) -> Iterator[list[str]]:
    """Yield the documents of a text file, each a list of sentences without blanks around them.

    Raises:
        DataError: the file cannot be read or is not UTF-8; names the file and the line.
    """
    sentences: list[str] = []
    for line in read_lines([path]):
        if sentence := line.strip():
            sentences.append(sentence)
        elif sentences:
            yield sentences
            sentences = []
    if sentences:
        yield sentences


def encode_documents(
    files: Iterable[str | os.PathLike[str]], tokenizer: Tokenizer
) -> Iterator[Document]:
    """Yield every document of the files in token ids; a sentence without tokens is left out."""
    for sentences in chain.from_iterable(map(read_documents, files)):
        tokens: list[np.ndarray] = []
        lengths: list[int] = []
        for start in range(0, len(sentences), _SENTENCES):
            rows = tokenizer.encode_batch(sentences[start : start + _SENTENCES])
            tokens.append(np.fromiter(chain.from_iterable(rows), np.int32))
            lengths.extend(len(row) for row in rows if row)
        yield Document(np.concatenate(tokens), np.array(lengths, np.int64))


def join_documents(documents: Sequence[Document], seed: int) -> TokenStream:
    """Return the documents one after another, in the order that ``numpy.random.seed`` decides."""
    shuffled = list(documents)
    np.random.RandomState(seed).shuffle(shuffled)
    tokens = [np.zeros(0, np.int32), *(document.tokens for document in shuffled)]
    lengths = [np.zeros(0, np.int64), *(document.lengths for document in shuffled)]
    return TokenStream(np.concatenate(tokens), np.cumsum(np.concatenate(lengths)))


def draw_pairs(ends: np.ndarray, seq_len: int, rng: random.Random) -> Iterator[Pair]:
    """Yield pairs A, B of ``seq_len - 3`` tokens together, until the stream is used up.

    A starts where the last pair ended. With label 1 (an even chance, where there is a sentence end
    to divide at) A and B are what follows up to a sentence end, divided at a random one. With label
    0, A ends at a random sentence end and B comes from anywhere. What is too long is cut off token
    by token and lost.

    Args:
        ends: int64 [s], the sentence ends of a :class:`TokenStream`.
        rng: where all chance comes from; it is drawn from in the order of the pairs.
    """
    size = int(ends[-1]) if len(ends) else 0
    room = seq_len - SPECIAL_TOKENS
    start = 0
    while start + room < size:
        # Ends number first .. last - 1 lie inside (start, start + room); end number `last` does
        # not, and exists since the stream itself ends at one.
        first, last = map(int, np.searchsorted(ends, (start, start + room - 1), side="right"))
        limit = int(ends[last])
        if first == last or rng.random() < 0.5:
            a_end = limit if first == last else int(ends[rng.choice(range(first, last))])
            b_start, b_end = _random_stretch(ends, max(1, room - (a_end - start)), rng)
            yield _cut(Pair(start, a_end, b_start, b_end, 0), room, rng)
            start = a_end
        else:
            a_end = int(ends[rng.choice(range(first, last))])
            yield _cut(Pair(start, a_end, a_end, limit, 1), room, rng)
            start = limit


def _random_stretch(ends: np.ndarray, length: int, rng: random.Random) -> tuple[int, int]:
    """Return the whole sentences that ``length`` tokens at a random place touch."""
    begin = rng.randint(0, int(ends[-1]) - length)
    sentence = int(np.searchsorted(ends, begin, side="right"))
    last = int(np.searchsorted(ends, begin + length))
    return int(ends[sentence - 1]) if sentence else 0, int(ends[last])


def _cut(pair: Pair, room: int, rng: random.Random) -> Pair:
    """Cut the longer side, token by token, until both fit: A at its right, B at a random end."""
    a_start, a_end, b_start, b_end, label = pair
    while (a := a_end - a_start) + (b := b_end - b_start) > room:
        if a > b:
            a_end -= 1
        elif rng.random() < 0.5:
            b_start += 1
        else:
            b_end -= 1
    return Pair(a_start, a_end, b_start, b_end, label)


@dataclass(frozen=True)
class ExampleFormat:
    """How a pair becomes the features of a record.

    Attributes:
        seq_len: tokens per example.
        cls_id, sep_id: ids of the symbols around A and B.
        segments: ids of the parts.
        starts_word: bool [vocab_size], the ordinary tokens that start a word.
    """

    seq_len: int
    cls_id: int
    sep_id: int
    segments: SegmentIds
    starts_word: np.ndarray

    @classmethod
    def of(cls, tokenizer: Tokenizer, seq_len: int, segments: SegmentIds) -> ExampleFormat:
        """The format of examples made with a tokenizer."""
        starts = [
            tokenizer.is_start_id(i) and not tokenizer.is_func_id(i)
            for i in range(tokenizer.vocab_size)
        ]
        special = tokenizer.special
        return cls(seq_len, special.cls_id, special.sep_id, segments, np.array(starts))

    def features(self, tokens: np.ndarray, pair: Pair) -> dict[str, np.ndarray]:
        """Return the features of an example, int64 all.

        Returns:
            ``input`` [seq_len] (``[CLS] A [SEP] B [SEP]``), ``seg_id`` [seq_len], ``boundary``
            [words + 1] (where words start, then ``seq_len``) and ``label`` [1].
        """
        a, b = tokens[pair.a_start : pair.a_end], tokens[pair.b_start : pair.b_end]
        ids = np.concatenate(([self.cls_id], a, [self.sep_id], b, [self.sep_id]), dtype=np.int64)
        kinds = (self.segments.cls, self.segments.a, self.segments.b)
        words = np.flatnonzero(self.starts_word[ids])
        return {
            "input": ids,
            "seg_id": np.repeat(kinds, (1, len(a) + 1, len(b) + 1)),
            "boundary": np.append(words, self.seq_len),
            "label": np.array([pair.label]),
        }
