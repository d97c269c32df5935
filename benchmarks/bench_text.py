"""Time text preprocessing on one core.

Tokenization and writing of pretraining records in MB of text per second and SQuAD preprocessing in
questions per second, compared with the `tokenizers` and `transformers` libraries.

    python benchmarks/bench_text.py --megabytes=2 --questions=2000
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core; the library reads it on first use

import _paths  # noqa: F401

import transformers
from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from funnel import get_tokenizer
from funnel.features.squad import WindowConfig, build_windows
from funnel.pretraining.create_records import CorpusConfig, create_records
from funnel.tasks.squad import read_squad
from funnel.tokenization import Tokenizer
from funnel.utils.errors import FunnelError
from funnel.utils.main import run_main
from harness import corpora, timing

COLD, WARM, RECORDS = "ours, nothing seen yet", "ours, same text again", "ours, records written"
LIBRARY = "tokenizers"
FAST, SLOW = "transformers BertTokenizer", "transformers BertTokenizerLegacy (pure Python)"
OURS, EXAMPLE = "ours", "transformers BertTokenizer, as in its example"
WINDOWS = WindowConfig()
COLUMNS = {"task": "task", "label": "by", "rate": "rate", "unit": "unit", "ratio": "time / ours"}
_SYMBOLS = {
    "unk_token": "<unk>", "cls_token": "<cls>", "sep_token": "<sep>", "pad_token": "<pad>",
    "mask_token": "<mask>",
}  # fmt: skip
Cases = dict[str, Callable[[], Any]]


def tokenization_cases(lines: list[str], vocabulary: Path, rounds: int) -> Cases:
    """Return callables that tokenize all lines.

    Raises:
        FunnelError: the token ids of a library differ from ours, so times are not comparable.
    """
    fresh = [get_tokenizer("word_piece", vocabulary) for _ in range(rounds)]
    used = get_tokenizer("word_piece", vocabulary)
    library = library_tokenizer(vocabulary)
    fast = transformers.BertTokenizer(vocab=str(vocabulary), **_SYMBOLS)
    slow = transformers.BertTokenizerLegacy(vocab_file=str(vocabulary), **_SYMBOLS)
    cases: Cases = {
        COLD: lambda: fresh.pop().encode_batch(lines),
        WARM: lambda: used.encode_batch(lines),
        LIBRARY: lambda: [encoding.ids for encoding in library.encode_batch_fast(lines)],
        FAST: lambda: fast(lines, add_special_tokens=False)["input_ids"],
        SLOW: lambda: [slow.convert_tokens_to_ids(slow.tokenize(line)) for line in lines],
    }
    wanted = used.encode_batch(lines)
    for name in (LIBRARY, FAST, SLOW):
        if cases[name]() != wanted:
            raise FunnelError(f"{name}: its ids are not ours; no use in timing it")
    return cases


def library_tokenizer(vocabulary: Path) -> LibraryTokenizer:
    """Return the `tokenizers` library's BERT tokenizer, without our cache."""
    pieces = vocabulary.read_text(encoding="utf-8").splitlines()
    ids = {piece: index for index, piece in enumerate(pieces)}
    model = WordPiece(ids, unk_token="<unk>", max_input_chars_per_word=200)
    tokenizer = LibraryTokenizer(model)
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return tokenizer


def record_cases(corpus: Path, vocabulary: Path, rounds: int) -> Cases:
    """Return callables that write pretraining records of 512 tokens with an empty token cache."""
    fresh = [get_tokenizer("word_piece", vocabulary) for _ in range(rounds)]
    config = CorpusConfig(str(corpus), str(corpus.parent / "records"), seq_len=512)
    return {RECORDS: lambda: create_records(config, 0, fresh.pop(), show_progress=False)}


def squad_cases(path: Path, vocabulary: Path, rounds: int) -> Cases:
    """Return callables that turn a question file into windows of 512 tokens with offsets."""
    fresh = [get_tokenizer("word_piece", vocabulary) for _ in range(rounds)]
    theirs = transformers.BertTokenizer(vocab=str(vocabulary), **_SYMBOLS)
    return {
        OURS: lambda: build_windows(read_squad(path), fresh.pop(), WINDOWS),
        EXAMPLE: lambda: example_windows(path, theirs),
    }


def example_windows(path: Path, tokenizer: Tokenizer) -> Mapping[str, Any]:
    """Preprocess as transformers' question-answering example: every question with its paragraph."""
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    pairs = [(qa["question"], p["context"]) for p in paragraphs for qa in p["qas"]]
    questions, contexts = map(list, zip(*pairs, strict=True))
    return tokenizer(
        questions, contexts, truncation="only_second", max_length=WINDOWS.max_seq_length,
        stride=WINDOWS.max_seq_length - WINDOWS.doc_stride - WINDOWS.max_query_length - 3,
        return_overflowing_tokens=True, return_offsets_mapping=True, padding="max_length",
    )  # fmt: skip


def measure(
    task: str, cases: Cases, amount: float, unit: str, args: argparse.Namespace
) -> list[timing.Row]:
    """Return one row per case; each call processes ``amount`` units, and the first case is ours."""
    seconds = timing.interleave(cases, args.repeats, clock=args.clock)
    ours = seconds[next(iter(cases))]
    return [
        {
            "task": task,
            "label": name,
            "rate": amount / statistics.median(taken),
            "unit": unit,
            "ratio": timing.median_ratio(taken, ours),
            "amount": amount,
            "seconds": taken,
        }
        for name, taken in seconds.items()
    ]


def parse_arguments() -> argparse.Namespace:
    parser = timing.parser(__doc__)
    parser.add_argument("--megabytes", type=float, default=2.0, help="size of the text")
    parser.add_argument(
        "--questions", type=int, default=2000, help="minimum number; complete articles"
    )
    parser.add_argument("--vocab_size", type=int, default=30522)
    parser.add_argument("--data_dir", type=Path, help="real text, see harness/corpora.py")
    args = parser.parse_args()
    if args.quick:
        args.megabytes, args.questions, args.vocab_size = 0.02, 20, 500
        args.repeats = args.threads = 1
    return args


def work(args: argparse.Namespace, folder: Path) -> list[timing.Row]:
    """Return all rows; temporary files are written to ``folder``."""
    data = corpora.find_data(args.data_dir)
    lines = corpora.corpus_lines(data, int(1e6 * args.megabytes))
    corpus = corpora.write_corpus(lines, folder / "corpus.txt")
    squad = corpora.write_squad(data, args.questions, folder / "squad.json")
    vocabulary = corpora.write_vocabulary(data, args.vocab_size, folder / "vocab.txt")
    megabytes, asked = corpus.stat().st_size / 1e6, len(read_squad(squad).questions)
    rounds = args.repeats + 1  # one round of warm-up
    rows = []
    for task, cases, amount, unit in (
        ("tokenization", tokenization_cases(lines, vocabulary, rounds), megabytes, "MB/s"),
        ("pretraining records", record_cases(corpus, vocabulary, rounds), megabytes, "MB/s"),
        ("SQuAD windows", squad_cases(squad, vocabulary, rounds), asked, "questions/s"),
    ):
        rows += measure(task, cases, amount, unit, args)
    return rows


def main() -> None:
    args = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        rows = work(args, Path(folder))
    print(f"{timing.markdown(rows, COLUMNS)}\n")
    real = corpora.find_data(args.data_dir) is not None
    chosen = {"repeats": args.repeats, "quick": args.quick, "clock": args.clock}
    chosen |= {"vocab_size": args.vocab_size, "real_text": real}
    print(timing.write_result("bench_text", rows, args.output_dir, chosen, COLUMNS))


if __name__ == "__main__":
    run_main(main)
