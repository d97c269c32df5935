"""Create pretraining records (TFRecord files for both backends) from raw text.

Text files contain one sentence per line; an empty line or the end of the file ends a document. A
task takes every ``num_task``-th file, concatenates its documents in random order and cuts them into
examples ``[CLS] A [SEP] B [SEP]`` of exactly ``seq_len`` tokens, where B follows A (label 1) or
comes from a random place (label 0), as in the pretraining data of XLNet (Yang et al. 2019), whose
recipe Funnel-Transformer follows (Dai et al. 2020). The output is a function of seed and input.
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
from funnel.pretraining.record_origin import describe_origin
from funnel.tokenization import Tokenizer
from funnel.tokenization.train_vocab import read_lines
from funnel.utils.errors import ConfigError, DataError
from funnel.utils.files import atomic_path, atomic_write_json
from funnel.utils.logging import progress
from funnel.utils.processes import run_in_processes
from funnel.utils.text import is_empty_line

logger = logging.getLogger(__name__)

_SENTENCES = 4096  # tokenized together: bounds the memory of Python lists
_META_NAME = re.compile(
    r"meta\.(?P<split>\w+)\.pass-(?P<pass>\d+)\.seq-(?P<seq>\d+)\.(?P<case>uncased|cased)"
    r"\.json-(?P<task>\d{5,})-of-(?P<tasks>\d{5,})"
)


@dataclass(frozen=True)
class RecordSet:
    """A set of record files and the naming scheme of its files.

    Attributes:
        split: ``train``, ``dev`` or ``test``.
        pass_id: number of the pass; every pass pairs the same text differently.
        seq_len: tokens per example.
        uncased: whether the tokenizer lower-cased the text.
        num_task: number of tasks, each of which writes one record file and its metadata file.
    """

    split: str
    pass_id: int
    seq_len: int
    uncased: bool
    num_task: int

    def data_name(self, task: int) -> str:
        """Return the name of the TFRecord file of a task."""
        return self._name("data", "tfrecord", task)

    def meta_name(self, task: int) -> str:
        """Return the name of the JSON file with ``filenames`` and ``num_example`` of a task."""
        return self._name("meta", "json", task)

    @classmethod
    def from_config(cls, config: CorpusConfig, uncased: bool) -> RecordSet:
        """Return the set of record files that ``config`` describes."""
        return cls(config.split, config.pass_id, config.seq_len, uncased, config.num_task)

    @classmethod
    def parse_meta_name(cls, name: str) -> tuple[RecordSet, int] | None:
        """Return the set and the task of a :meth:`meta_name`, or None for another file name."""
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
    """Token ids of a document, int32 [n], and the lengths of its sentences, int64 [s]."""

    tokens: np.ndarray
    lengths: np.ndarray


@dataclass(frozen=True)
class TokenStream:
    """Concatenated documents.

    Attributes:
        tokens: int32 [n].
        ends: int64 [s], exclusive end of each sentence, ascending; the last one is n.
    """

    tokens: np.ndarray
    ends: np.ndarray


class Pair(NamedTuple):
    """Two segments of a token stream (ends exclusive); ``label`` 1: B follows A, 0: random B."""

    a_start: int
    a_end: int
    b_start: int
    b_end: int
    label: int


@dataclass(frozen=True)
class RecordShard:
    """Result of one task: its record file and the amount of text read for it."""

    path: Path
    num_example: int
    documents: int
    left_out: int
    tokens: int
    text_bytes: int


def create_all_records(
    config: CorpusConfig, tasks: Sequence[int], tokenizer: Tokenizer, num_proc: int = 1
) -> Iterator[RecordShard]:
    """Run :func:`create_records` for several tasks in ``num_proc`` processes.

    All tasks are checked to have files before the first one starts. When a task fails the others
    are stopped; files that are complete are kept.

    Yields:
        The result of each task, in order of completion.

    Raises:
        FunnelError: see :func:`create_records`; also if a process was killed.
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
    """Write the record file of one task and, once that is complete, its metadata file.

    Both are written atomically, and an old metadata file is removed before its records are
    replaced. The text of the task is held in memory as token ids, 4 bytes per token (8 bytes while
    documents are concatenated).

    Raises:
        ConfigError: there is no such task, or it has no files.
        DataError: a file cannot be read or is not UTF-8, or the text is too short for an example.
        FunnelError: the files cannot be written.
    """
    files = task_files(config.input_glob, task, config.num_task)
    documents_read = encode_documents(files, tokenizer)
    # A disabled bar would not do: even that holds a semaphore, which a killed process leaks.
    found = list(progress(documents_read, "reading documents") if show_progress else documents_read)
    kept = [d for d in found if len(d.tokens) >= max(1, config.min_doc_len)]
    documents, left_out = len(kept), len(found) - len(kept)
    # The seed of the original: it orders the documents and, unlike there, also samples the pairs.
    seed = 100 * task + config.pass_id
    stream = join_documents(kept, seed)
    del found, kept  # the stream is a copy: free the originals before the examples are written
    if len(stream.tokens) <= config.seq_len - SPECIAL_TOKENS:
        raise DataError(
            f"task {task} of {config.num_task}: its {len(files)} files from {config.input_glob} "
            f"hold {len(stream.tokens)} tokens, too few for one example of {config.seq_len}"
        )
    example = ExampleFormat.from_tokenizer(tokenizer, config.seq_len, config.segments)
    pairs = sample_pairs(stream.ends, config.seq_len, random.Random(seed))
    examples = (encode_example(example.features(stream.tokens, pair)) for pair in pairs)
    names = RecordSet.from_config(config, tokenizer.uncased)
    data, meta = (Path(config.save_dir, f(task)) for f in (names.data_name, names.meta_name))
    with atomic_path(data) as temporary:
        with temporary.open("wb") as file:
            written = progress(examples, "writing examples") if show_progress else examples
            count = write_records_to(file, written)
        meta.unlink(missing_ok=True)
    described = {"filenames": [data.name], "num_example": count}
    atomic_write_json(meta, described | describe_origin(config, tokenizer))
    text_bytes = sum(os.path.getsize(path) for path in files)
    return RecordShard(data, count, documents, left_out, len(stream.tokens), text_bytes)


def task_files(pattern: str, task: int, num_task: int) -> list[str]:
    """Return the text files of a task: every ``num_task``-th match in alphabetical order.

    Raises:
        ConfigError: there is no such task, or there are fewer files than tasks.
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
    """Yield the documents of a text file, each a list of stripped sentences.

    Raises:
        DataError: the file cannot be read or is not UTF-8; the message names file and line.
    """
    sentences: list[str] = []
    for line in read_lines([path]):
        if not is_empty_line(line):
            sentences.append(line.strip())
        elif sentences:
            yield sentences
            sentences = []
    if sentences:
        yield sentences


def encode_documents(
    files: Iterable[str | os.PathLike[str]], tokenizer: Tokenizer
) -> Iterator[Document]:
    """Yield the documents of the files as token ids; sentences without tokens are skipped."""
    for sentences in chain.from_iterable(map(read_documents, files)):
        tokens: list[np.ndarray] = []
        lengths: list[int] = []
        for start in range(0, len(sentences), _SENTENCES):
            rows = tokenizer.encode_batch(sentences[start : start + _SENTENCES])
            tokens.append(np.fromiter(chain.from_iterable(rows), np.int32))
            lengths.extend(len(row) for row in rows if row)
        yield Document(np.concatenate(tokens), np.array(lengths, np.int64))


def join_documents(documents: Sequence[Document], seed: int) -> TokenStream:
    """Concatenate documents in an order that depends on ``seed`` alone."""
    # The order of the original: `np.random.seed(seed); np.random.shuffle(documents)`.
    shuffled = list(documents)
    np.random.RandomState(seed).shuffle(shuffled)
    tokens = [np.zeros(0, np.int32), *(document.tokens for document in shuffled)]
    lengths = [np.zeros(0, np.int64), *(document.lengths for document in shuffled)]
    return TokenStream(np.concatenate(tokens), np.cumsum(np.concatenate(lengths)))


def sample_pairs(ends: np.ndarray, seq_len: int, rng: random.Random) -> Iterator[Pair]:
    """Yield pairs A, B of together ``seq_len - 3`` tokens until the stream is used up.

    A starts where the previous pair ended. With label 1 (probability 0.5, if there is a sentence
    end to split at), A and B are the following text up to a sentence end, split at a random
    sentence end. With label 0, A ends at a random sentence end and B is taken from a random place.
    Excess tokens are cut off one by one and not used again.

    Args:
        ends: int64 [s], the sentence ends of a :class:`TokenStream`.
        seq_len: tokens per example.
        rng: the only source of randomness.
    """
    size = int(ends[-1]) if len(ends) else 0
    room = seq_len - SPECIAL_TOKENS
    start = 0
    while start + room < size:
        # Sentence ends `first` to `last - 1` are inside (start, start + room). End `last` is the
        # first one beyond; it exists because the last sentence ends where the stream ends.
        first, last = map(int, np.searchsorted(ends, (start, start + room - 1), side="right"))
        limit = int(ends[last])
        if first == last or rng.random() < 0.5:
            a_end = limit if first == last else int(ends[rng.choice(range(first, last))])
            b_start, b_end = _random_segment(ends, max(1, room - (a_end - start)), rng)
            yield _truncate(Pair(start, a_end, b_start, b_end, 0), room, rng)
            start = a_end
        else:
            a_end = int(ends[rng.choice(range(first, last))])
            yield _truncate(Pair(start, a_end, a_end, limit, 1), room, rng)
            start = limit


def _random_segment(ends: np.ndarray, length: int, rng: random.Random) -> tuple[int, int]:
    """Return ``length`` tokens at a random place, extended to complete sentences on both sides."""
    begin = rng.randint(0, int(ends[-1]) - length)
    sentence = int(np.searchsorted(ends, begin, side="right"))
    last = int(np.searchsorted(ends, begin + length))
    return int(ends[sentence - 1]) if sentence else 0, int(ends[last])


def _truncate(pair: Pair, room: int, rng: random.Random) -> Pair:
    """Truncate the longer segment token by token until both fit: A at its end, B at either end."""
    a_start, a_end, b_start, b_end, label = pair
    # One token at a time, since each draws a random number; a tie truncates B, as in the original.
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
    """Conversion of a pair to the features of a record.

    Attributes:
        seq_len: tokens per example.
        cls_id: id of [CLS].
        sep_id: id of [SEP].
        segments: segment ids.
        starts_word: bool [vocab_size], True for tokens that start a word and are not special.
    """

    seq_len: int
    cls_id: int
    sep_id: int
    segments: SegmentIds
    starts_word: np.ndarray

    @classmethod
    def from_tokenizer(
        cls, tokenizer: Tokenizer, seq_len: int, segments: SegmentIds
    ) -> ExampleFormat:
        """Return the format of examples in the vocabulary of ``tokenizer``."""
        starts = [
            tokenizer.is_start_id(i) and not tokenizer.is_func_id(i)
            for i in range(tokenizer.vocab_size)
        ]
        special = tokenizer.special
        return cls(seq_len, special.cls_id, special.sep_id, segments, np.array(starts))

    def features(self, tokens: np.ndarray, pair: Pair) -> dict[str, np.ndarray]:
        """Return the features of an example, all int64.

        Returns:
            ``input`` [seq_len] (``[CLS] A [SEP] B [SEP]``), ``seg_id`` [seq_len], ``boundary``
            [words + 1] (positions at which words start, then ``seq_len``) and ``label`` [1].
        """
        a, b = tokens[pair.a_start : pair.a_end], tokens[pair.b_start : pair.b_end]
        ids = np.concatenate(([self.cls_id], a, [self.sep_id], b, [self.sep_id]), dtype=np.int64)
        # As in XLNet and Funnel-Transformer, [CLS] has a segment of its own.
        kinds = (self.segments.cls, self.segments.a, self.segments.b)
        # Boundaries are word starts only, so the last word of A or B includes the [SEP] behind it;
        # masking never selects special tokens.
        words = np.flatnonzero(self.starts_word[ids])
        return {
            "input": ids,
            "seg_id": np.repeat(kinds, (1, len(a) + 1, len(b) + 1)),
            "boundary": np.append(words, self.seq_len),
            "label": np.array([pair.label]),
        }
