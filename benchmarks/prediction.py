"""Time the prediction of many short lines, compared with transformers' pipeline.

Both predict the same lines on the CPU with the same classifier of random weights, which we save and
either loads. Ours is Predictor, whose batches have as many lines as suits their length; theirs is
pipeline("text-classification") with --batch_size, which pads a batch to its longest line.
Tokenization is part of both, reading a file and writing rows of neither. Memory is the peak of a
process that does nothing else, minus that before; --quick does not measure it.

    python benchmarks/prediction.py --lines=100000
    python benchmarks/prediction.py --lines=2000 --repeats=1 --clock=cpu    # a check that it runs
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import _paths  # noqa: F401

import numpy as np
import torch
import transformers

from funnel import get_tokenizer
from funnel.utils.errors import ConfigError
from funnel.utils.main import run_main
from funnel_torch import FunnelForSequenceClassification, Predictor
from harness import baselines, corpora, timing

OURS, PIPELINE = "Predictor", "transformers pipeline"
COLUMNS = {
    "label": "", "lines": "lines", "lines_per_second": "lines/s", "times_faster": "pipeline / ours",
    "peak_mib": "peak, MiB", "peak_small_mib": "peak with a tenth of the lines, MiB",
    "difference": "largest difference of a probability",
}  # fmt: skip
LABELS = ("negative", "positive")
Step = Callable[[], list[float]]


def make_lines(data: Path | None, count: int, words: int) -> list[str]:
    """Return lines of about ``words`` words, of very different lengths."""
    rng = np.random.default_rng(0)
    lengths = 1 + rng.poisson(rng.gamma(2.0, (words - 1) / 2.0, count))
    stock = " ".join(corpora.corpus_lines(data, 8 * count * words)).split()
    ends = np.cumsum(lengths)
    starts = (ends - lengths) % max(1, len(stock) - int(lengths.max()))
    return [" ".join(stock[a : a + n]) for a, n in zip(starts, lengths, strict=True)]


def save_model(size: str, vocabulary: Path, folder: Path) -> None:
    """Write a classifier with random weights, its labels and its tokenizer."""
    torch.manual_seed(0)
    tokenizer = get_tokenizer("word_piece", vocabulary)
    config = baselines.load_config(size).replace(vocab_size=tokenizer.vocab_size)
    model = FunnelForSequenceClassification(config, num_labels=len(LABELS))
    model.save_pretrained(folder, tokenizer=tokenizer, labels=LABELS)


def ours(folder: Path, lines: list[str], args: argparse.Namespace) -> Step:
    """Return a callable that predicts all lines; it returns the probabilities."""
    torch.set_num_threads(args.threads)
    predictor = Predictor.from_pretrained(folder, max_length=args.max_length, device="cpu")
    return lambda: [row["probability"] for row in predictor.stream(lines)]


def pipeline(folder: Path, lines: list[str], args: argparse.Namespace) -> Step:
    """Return a callable that predicts all lines; it returns the probabilities."""
    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    run = transformers.pipeline("text-classification", str(folder), device="cpu")
    settings = {"batch_size": args.batch_size, "truncation": True, "max_length": args.max_length}
    return lambda: [found["score"] for found in run(iter_lines(lines), **settings)]


def iter_lines(lines: list[str]) -> transformers.pipelines.pt_utils.KeyDataset:
    """Return the lines as the data set that the pipeline's documentation recommends."""
    rows = [{"text": line} for line in lines]
    return transformers.pipelines.pt_utils.KeyDataset(rows, "text")


CASES = {OURS: ours, PIPELINE: pipeline}


def peak_mib(name: str, folder: Path, lines: list[str], args: argparse.Namespace) -> float | None:
    """Return the peak memory of a case in MiB."""
    if args.quick:
        return None
    build, first = CASES[name], lines[: args.batch_size]
    rehearsal = partial(build, folder, first, args)
    found = timing.peak_memory(partial(build, folder, lines, args), runs=1, rehearsal=rehearsal)
    return None if found is None else found / 2**20


def measure(folder: Path, lines: list[str], args: argparse.Namespace) -> list[timing.Row]:
    """Return a row for either."""
    cases = {name: build(folder, lines, args) for name, build in CASES.items()}
    found = {name: np.array(run()) for name, run in cases.items()}
    seconds = timing.interleave(cases, args.repeats, warmup=0, clock=args.clock)
    ratio = timing.median_ratio(seconds[PIPELINE], seconds[OURS])
    difference = float(np.abs(found[OURS] - found[PIPELINE]).max())
    return [
        {
            "label": name,
            "lines": len(lines),
            "lines_per_second": len(lines) / statistics.median(seconds[name]),
            "times_faster": ratio if name == OURS else None,
            "peak_mib": peak_mib(name, folder, lines, args),
            "peak_small_mib": peak_mib(name, folder, lines[: len(lines) // 10], args),
            "difference": difference if name == OURS else None,
            "seconds": seconds[name],
        }
        for name in cases
    ]


def parse_arguments() -> argparse.Namespace:
    parser = timing.parser(__doc__)
    parser.set_defaults(repeats=3)
    parser.add_argument("--lines", type=int, default=100_000, help="lines to predict")
    parser.add_argument("--words", type=int, default=12, help="mean number of words of a line")
    parser.add_argument("--size", default="small-cpu", help="file in configs/")
    parser.add_argument("--batch_size", type=int, default=32, help="of the pipeline")
    parser.add_argument("--max_length", type=int, default=128, help="tokens per line")
    parser.add_argument("--data_dir", type=Path, help="real text, see harness/corpora.py")
    args = parser.parse_args()
    if args.quick:
        args.size, args.lines, args.batch_size, args.repeats = "tiny", 120, 8, 1
    if args.lines < 10:
        raise ConfigError(f"--lines={args.lines}: must be at least 10")
    return args


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    data = corpora.find_data(args.data_dir)
    with tempfile.TemporaryDirectory() as name:
        folder, vocabulary = Path(name) / "model", Path(name) / "vocab.txt"
        size = 400 if args.quick else baselines.load_config(args.size).vocab_size
        corpora.write_vocabulary(data, size, vocabulary)
        save_model(args.size, vocabulary, folder)
        rows = measure(folder, make_lines(data, args.lines, args.words), args)
    print(f"{timing.markdown(rows, COLUMNS)}\n")
    names = ("size", "batch_size", "words", "max_length", "threads", "repeats", "quick", "clock")
    chosen = {name: getattr(args, name) for name in names}
    chosen["text"] = "synthetic" if data is None else "real"
    print(timing.write_result("prediction", rows, args.output_dir, chosen, COLUMNS))


if __name__ == "__main__":
    run_main(main)
