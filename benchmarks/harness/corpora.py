"""Text for the benchmarks: real text where available, otherwise synthetic.

Real text is the test data directory (``--data_dir``, ``FUNNEL_TEST_DATA`` or ../shared/data).
Synthetic text has words of 3 to 14 letters with Zipfian frequencies, so that token caches are as
effective as on natural text.
"""

from __future__ import annotations

import itertools
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import _paths  # noqa: F401

from funnel import get_tokenizer
from funnel.pretraining.create_records import CorpusConfig, create_records
from funnel.pretraining.record_index import RecordCollection, find_records
from funnel.tokenization import Tokenizer
from funnel.tokenization.train_vocab import VocabularyConfig, build_vocabulary, read_lines
from funnel.utils.errors import DataError
from funnel.utils.files import atomic_write_json, atomic_write_text
from harness import timing

CORPUS, SQUAD = "corpus/wiki_articles.txt", "squad/dev-v2.0.json"
_VOCABULARY_TEXT = 16_000_000  # maximum number of characters that a vocabulary is built from
_WORDS, _SYLLABLES = 20_000, 60


def find_data(given: Path | None) -> Path | None:
    """Return the directory of real text, or None.

    Raises:
        DataError: ``given`` does not exist.
    """
    if given is not None and not given.is_dir():
        raise DataError(f"--data_dir={given}: no such folder")
    named = os.environ.get("FUNNEL_TEST_DATA")
    usual = Path(named) if named else timing.REPOSITORY.parent / "shared" / "data"
    folder = given or usual
    return folder if (folder / CORPUS).is_file() and (folder / SQUAD).is_file() else None


def corpus_lines(data: Path | None, size: int) -> list[str]:
    """Return about ``size`` characters of sentences; an empty line ends a document."""
    lines, total = [], 0
    for line in read_lines([data / CORPUS]) if data else _synthetic_lines():
        total += len(line) + 1
        if total > size:
            break
        lines.append(line)
    return lines


def write_vocabulary(data: Path | None, size: int, path: Path) -> Path:
    """Build a WordPiece vocabulary of at most ``size`` entries from more text than is measured."""
    lines = corpus_lines(data, min(_VOCABULARY_TEXT, 500 * size))
    build_vocabulary(lines, path, VocabularyConfig(vocab_size=size))
    return path


def write_corpus(lines: list[str], path: Path) -> Path:
    """Write the lines to a file and return its path."""
    atomic_write_text(path, "\n".join(lines) + "\n")
    return path


def write_records(
    data: Path | None, vocab_size: int, seq_len: int, size: int, folder: Path
) -> tuple[RecordCollection, Tokenizer]:
    """Write pretraining records of about ``size`` characters; return them and the tokenizer."""
    vocabulary = write_vocabulary(data, vocab_size, folder / "vocab.txt")
    tokenizer = get_tokenizer("word_piece", vocabulary)
    corpus = write_corpus(corpus_lines(data, size), folder / "corpus.txt")
    records = str(folder / "records")
    create_records(CorpusConfig(str(corpus), records, seq_len), 0, tokenizer, show_progress=False)
    return find_records(records, "train", seq_len, tokenizer.uncased), tokenizer


def write_squad(data: Path | None, questions: int, path: Path) -> Path:
    """Write a SQuAD file of the first articles with at least ``questions`` questions in total."""
    if data:
        articles = json.loads((data / SQUAD).read_text(encoding="utf-8"))["data"]
    else:
        articles = _synthetic_articles()
    kept, count = [], 0
    for article in articles:
        if count >= questions:
            break
        kept.append(article)
        count += sum(len(paragraph["qas"]) for paragraph in article["paragraphs"])
    atomic_write_json(path, {"version": "v2.0", "data": kept})
    return path


def _synthetic_lines() -> Iterator[str]:
    """Yield synthetic sentences without end; every twentieth line is empty."""
    rng = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    syllables = ["".join(rng.choices(letters, k=rng.randint(1, 4))) for _ in range(_SYLLABLES)]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(_WORDS)]
    weights = list(itertools.accumulate(1 / rank for rank in range(1, _WORDS + 1)))
    for number in itertools.count(1):
        chosen = rng.choices(words, cum_weights=weights, k=rng.randint(8, 40))
        yield "" if number % 20 == 0 else " ".join(chosen).capitalize() + "."


def _synthetic_articles() -> Iterator[dict]:
    """Yield synthetic articles of ten paragraphs with ten questions each, without end."""
    sentences = filter(None, _synthetic_lines())
    for number in itertools.count():
        paragraphs = []
        for place in range(10):
            asked = [next(sentences)[:60] + "?" for _ in range(10)]
            qas = [
                {"id": f"{number}-{place}-{i}", "question": text, "answers": []}
                for i, text in enumerate(asked)
            ]
            context = " ".join(next(sentences) for _ in range(6))
            paragraphs.append({"context": context, "qas": qas})
        yield {"title": str(number), "paragraphs": paragraphs}
