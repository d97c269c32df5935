"""Create pretraining records (TFRecord files for both backends) from raw text.

Text files contain one sentence per line; an empty line or the end of the file ends a document. A
task takes every ``num_task``-th file, concatenates its documents in random order and cuts them into
examples ``[CLS] A [SEP] B [SEP]`` of exactly ``seq_len`` tokens, where B follows A (label 1) or
comes from a random place (label 0), as in the pretraining data of XLNet (Yang et al. 2019), whose
recipe Funnel-Transformer follows (Dai et al. 2020). Examples of the text that these cut off come
last. The output is a function of seed and input.
"""

from __future__ import annotations

import contextlib
import glob
import os
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from funnel.config.inputs import SegmentIds
from funnel.config.pretraining import SPECIAL_TOKENS, CorpusConfig
from funnel.formats.tfrecord import encode_example, write_records_to
from funnel.pretraining.pairs import Pair, sample_pairs, sample_unused_pairs
from funnel.pretraining.record_origin import describe_origin
from funnel.pretraining.token_stream import (
    DocumentPart,
    DocumentStore,
    TokenStream,
    count_lost,
    unused_text,
)
from funnel.tokenization import Tokenizer
from funnel.tokenization.train_vocab import read_lines
from funnel.utils.errors import ConfigError, DataError
from funnel.utils.files import atomic_path, atomic_write_json
from funnel.utils.logging import progress
from funnel.utils.processes import run_in_processes
from funnel.utils.scratch import ScratchArray
from funnel.utils.text import is_empty_line

# Tokenized together: bounds the memory of Python lists.
_SENTENCES = 4096
_CHARACTERS = 1 << 20
_EXAMPLES = 64  # after so many, mapped pages of temporary files are released
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


@dataclass(frozen=True)
class RecordShard:
    """Result of one task: its record file and what became of its text.

    Attributes:
        path: the record file.
        num_example: number of examples.
        documents: number of documents used.
        left_out: number of documents that are too short.
        tokens: number of tokens of the documents used.
        text_bytes: size of the text files.
        repeated: number of examples that were made of text which the others cut off.
        unknown: number of unknown tokens in all text.
        unused: number of tokens that are in no example, left-out documents included.
        total_tokens: number of tokens of all text.
    """

    path: Path
    num_example: int
    documents: int
    left_out: int
    tokens: int
    text_bytes: int
    repeated: int
    unknown: int
    unused: int
    total_tokens: int


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
    replaced. The text is held as token ids in temporary files in ``save_dir``, so memory does not
    grow with it.

    Raises:
        ConfigError: there is no such task, or it has no files.
        DataError: a file cannot be read or is not UTF-8, or the text is too short for an example.
        FunnelError: the files cannot be written.
    """
    files = task_files(config.input_glob, task, config.num_task)
    parts: Iterable[DocumentPart] = encode_documents(files, tokenizer)
    # A disabled bar would not do: even that holds a semaphore, which a killed process leaks.
    parts = progress(parts, "reading documents") if show_progress else parts
    store = DocumentStore(config.save_dir, config.min_doc_len)
    with contextlib.closing(store):
        unknown = 0
        for part in parts:
            unknown += int(np.count_nonzero(part.tokens == tokenizer.special.unk_id))
            store.add(part)
        if store.num_tokens <= config.seq_len - SPECIAL_TOKENS:
            raise DataError(
                f"task {task} of {config.num_task}: its {len(files)} files from "
                f"{config.input_glob} hold {store.num_tokens} tokens, too few for one example of "
                f"{config.seq_len}"
            )
        # The seed of the original: it orders the documents and, unlike there, samples the pairs.
        seed = 100 * task + config.pass_id
        stream = store.shuffled(seed)
    example = ExampleFormat.from_tokenizer(tokenizer, config.seq_len, config.segments)
    maker = _ExampleMaker(config, stream, example, random.Random(seed))
    data, count = _write_files(config, task, tokenizer, maker.examples(show_progress))
    return RecordShard(
        data,
        count,
        store.documents,
        store.left_out,
        store.num_tokens,
        sum(os.path.getsize(path) for path in files),
        repeated=maker.repeated,
        unknown=unknown,
        unused=maker.unused + store.left_out_tokens,
        total_tokens=store.num_tokens + store.left_out_tokens,
    )


def _write_files(
    config: CorpusConfig, task: int, tokenizer: Tokenizer, examples: Iterable[bytes]
) -> tuple[Path, int]:
    """Write the records and their metadata; return the path of the records and their number."""
    names = RecordSet.from_config(config, tokenizer.uncased)
    data, meta = (Path(config.save_dir, f(task)) for f in (names.data_name, names.meta_name))
    with atomic_path(data) as temporary:
        with temporary.open("wb") as file:
            count = write_records_to(file, examples)
        meta.unlink(missing_ok=True)
    described = {"filenames": [data.name], "num_example": count}
    atomic_write_json(meta, described | describe_origin(config, tokenizer))
    return data, count


class _ExampleMaker:
    """Makes the examples of a stream, and counts what they leave out.

    Attributes:
        repeated: number of examples of text that the others cut off.
        unused: number of tokens in no example.
    """

    def __init__(
        self,
        config: CorpusConfig,
        stream: TokenStream,
        example: ExampleFormat,
        rng: random.Random,
    ) -> None:
        self._config, self._stream, self._example, self._rng = config, stream, example, rng
        self.repeated = self.unused = 0

    def examples(self, show_progress: bool) -> Iterator[bytes]:
        """Yield the serialized examples: those of the original, then those of unused text."""
        config, stream = self._config, self._stream
        used = ScratchArray.zeros(config.save_dir, len(stream.tokens), bool)
        marks = used.read()
        pairs: Iterable[Pair] = sample_pairs(stream.ends, config.seq_len, self._rng)
        pairs = progress(pairs, "writing examples") if show_progress else pairs
        for number, pair in enumerate(pairs):
            marks[pair.a_start : pair.a_end] = marks[pair.b_start : pair.b_end] = True
            yield encode_example(self._example.features(stream.tokens, pair))
            if number % _EXAMPLES == 0:
                used.release()
                stream.release()
        if not config.use_all_text:
            self.unused = count_lost(used)
            return
        room = config.seq_len - SPECIAL_TOKENS
        rest = unused_text(stream, used, room, config.save_dir)
        for pair in sample_unused_pairs(rest.ends, config.seq_len, self._rng):
            yield encode_example(self._example.features(rest.tokens, pair))
            self.repeated += 1
            if self.repeated % _EXAMPLES == 0:
                rest.release()


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
    for part, ends_document in _read_parts(path):
        sentences += part
        if ends_document:
            yield sentences
            sentences = []


def _read_parts(path: str | os.PathLike[str]) -> Iterator[tuple[list[str], bool]]:
    """Yield parts of documents, and whether a part is the last one of its document."""
    sentences: list[str] = []
    characters = 0
    for line in read_lines([path]):
        if not is_empty_line(line):
            sentence = line.strip()
            if len(sentences) >= _SENTENCES or characters > _CHARACTERS:
                yield sentences, False
                sentences, characters = [], 0
            sentences.append(sentence)
            characters += len(sentence)
        elif sentences:
            yield sentences, True
            sentences, characters = [], 0
    if sentences:
        yield sentences, True


def encode_documents(
    files: Iterable[str | os.PathLike[str]], tokenizer: Tokenizer
) -> Iterator[DocumentPart]:
    """Yield the documents of the files as token ids; sentences without tokens are skipped."""
    for sentences, ends_document in chain.from_iterable(map(_read_parts, files)):
        rows = tokenizer.encode_batch(sentences)
        tokens = np.fromiter(chain.from_iterable(rows), np.int32)
        lengths = np.array([len(row) for row in rows if row], np.int64)
        yield DocumentPart(tokens, lengths, ends_document)


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
