"""Time the prediction of many short lines, compared with transformers' pipeline.

All predict lines of the same text on the CPU, with the same classifier of random weights, which we
save and all load, on as many threads. Ours is Predictor, whose batches have as many lines as suits
their length. Theirs is pipeline("text-classification") fed with a data set, with every size of
--batch_size: 1 is its default, and it pads a batch to its longest line. Tokenization is part of
both, reading a file and writing rows of neither.

The lines are divided into --repeats parts. In a round every case predicts the next part, the
pipeline a sample of it (its first lines, fewer the smaller the batch), so that 100,000 lines take
minutes; lines are in random order, and a sample of some hundred has the same lengths. No line has
fewer than four words: on fewer than five tokens transformers' Funnel raises an error.

Memory is that of predict.py, from a file to a file: the most anonymous memory (RssAnon) of its
process, for 1,000, 20,000 and all lines. --quick does not measure it.

    python benchmarks/prediction.py --lines=100000
    python benchmarks/prediction.py --lines=2000 --repeats=1 --clock=cpu    # a check that it runs
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import _paths  # noqa: F401

import numpy as np
import torch
import transformers

from funnel import get_tokenizer
from funnel.utils.errors import ConfigError, FunnelError
from funnel.utils.main import run_main
from funnel_torch import FunnelForSequenceClassification, Predictor
from harness import baselines, corpora, timing

OURS, PROGRAM = "Predictor", "predict.py, file to file"
COLUMNS = {
    "label": "", "lines": "lines", "lines_per_second": "lines/s", "times_faster": "ours / this",
    "difference": "largest difference of a probability", "peak_mib": "RssAnon, MiB",
}  # fmt: skip
LABELS = ("negative", "positive")
# Lines of a part that the pipeline predicts, by batch size: about equal times for all.
SAMPLES, MOST = {1: 200, 8: 800}, 1000
MIN_WORDS = 4
Run = Callable[[Sequence[str]], list[float]]


def make_lines(data: Path | None, count: int, words: int) -> list[str]:
    """Return lines of about ``words`` words, of very different lengths."""
    rng = np.random.default_rng(0)
    lengths = 1 + rng.poisson(rng.gamma(2.0, (words - 1) / 2.0, count))
    lengths = np.maximum(lengths, MIN_WORDS)
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


def pipeline_name(batch_size: int) -> str:
    """Return the label of the pipeline's row."""
    return f"transformers pipeline, batch size {batch_size}{' (default)' * (batch_size == 1)}"


def load_cases(folder: Path, args: argparse.Namespace) -> dict[str, Run]:
    """Return functions that predict lines and return the probabilities, by label."""
    predictor = Predictor.from_pretrained(folder, max_length=args.max_length, device="cpu")
    transformers.logging.set_verbosity_error()
    pipe = transformers.pipeline(
        "text-classification", str(folder), device="cpu", model_kwargs=dict(baselines.HF_ATTENTION)
    )

    def ours(lines: Sequence[str]) -> list[float]:
        return [row["probability"] for row in predictor.stream(lines)]

    def theirs(batch_size: int, lines: Sequence[str]) -> list[float]:
        # The data set that the documentation of the pipeline recommends.
        rows = transformers.pipelines.pt_utils.KeyDataset([{"text": x} for x in lines], "text")
        settings = {"batch_size": batch_size, "truncation": True, "max_length": args.max_length}
        return [found["score"] for found in pipe(rows, **settings)]

    others = {pipeline_name(size): partial(theirs, size) for size in args.batch_size}
    return {OURS: ours} | others


def sample_sizes(part: int, args: argparse.Namespace) -> dict[str, int]:
    """Return how many lines of a part each case predicts."""
    most = {pipeline_name(size): SAMPLES.get(size, MOST) for size in args.batch_size}
    return {OURS: part} | {name: min(part, count) for name, count in most.items()}


def measure(folder: Path, lines: list[str], args: argparse.Namespace) -> list[timing.Row]:
    """Return a row for each case: rates by round, and the median of their ratios."""
    cases, now = load_cases(folder, args), timing.CLOCKS[args.clock]
    part = len(lines) // args.repeats
    sizes = sample_sizes(part, args)
    rates: dict[str, list[float]] = {name: [] for name in cases}
    differences = dict.fromkeys(cases, 0.0)
    for run in cases.values():
        run(lines[:32])  # libraries load code on first use
    for start in range(0, part * args.repeats, part):
        found: dict[str, np.ndarray] = {}
        for name, run in cases.items():
            chosen = lines[start : start + sizes[name]]
            begin = now()
            found[name] = np.array(run(chosen))
            rates[name].append(len(chosen) / (now() - begin))
            gap = np.abs(found[OURS][: len(chosen)] - found[name]).max()
            differences[name] = max(differences[name], float(gap))
    return [
        {
            "label": name,
            "lines": sizes[name] * args.repeats,
            "lines_per_second": statistics.median(rates[name]),
            "times_faster": timing.median_ratio(rates[OURS], rates[name]),
            "difference": differences[name],
            "rates": rates[name],
        }
        for name in cases
    ]


def run_program(
    folder: Path, lines: Sequence[str], scratch: Path, args: argparse.Namespace
) -> timing.Row:
    """Return a row of predict.py: lines/s with its start, and its peak of anonymous memory."""
    source, target = scratch / "lines.txt", scratch / "rows.jsonl"
    corpora.write_corpus(list(lines), source)
    program = timing.REPOSITORY / "pytorch" / "predict.py"
    command = [
        sys.executable, str(program), f"--model={folder}", f"--input={source}",
        f"--output={target}", f"--max_length={args.max_length}", "--device_id=-1",
    ]  # fmt: skip
    begin, peak = time.perf_counter(), 0
    with (scratch / "log.txt").open("w") as log:
        # The programs take the number of threads from the environment.
        environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
        process = subprocess.Popen(command, stderr=log, env=environment)
        while process.poll() is None:
            peak = max(peak, anonymous_memory(process.pid))
            time.sleep(0.02)
    seconds = time.perf_counter() - begin
    if process.returncode:
        raise FunnelError(f"predict.py: {(scratch / 'log.txt').read_text()[-500:]}")
    with target.open() as stream:
        rows = sum(1 for _ in stream)
    if rows != len(lines):
        raise FunnelError(f"predict.py: wrote {rows} rows for {len(lines)} lines")
    return {
        "label": PROGRAM,
        "lines": len(lines),
        "lines_per_second": len(lines) / seconds,
        "peak_mib": peak / 2**20 or None,
        "seconds": seconds,
    }


def anonymous_memory(pid: int) -> int:
    """Return RssAnon of a process in bytes; 0 where the system does not tell it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 0


def parse_arguments() -> argparse.Namespace:
    parser = timing.parser(__doc__)
    parser.set_defaults(repeats=10)
    parser.add_argument("--lines", type=int, default=100_000, help="lines to predict")
    parser.add_argument("--words", type=int, default=12, help="mean number of words of a line")
    parser.add_argument("--size", default="small-cpu", help="file in configs/")
    parser.add_argument(
        "--batch_size", type=int, nargs="+", default=[1, 8, 32], help="of the pipeline"
    )
    parser.add_argument("--max_length", type=int, default=128, help="tokens per line")
    parser.add_argument("--data_dir", type=Path, help="real text, see harness/corpora.py")
    args = parser.parse_args()
    if args.quick:
        args.size, args.lines, args.batch_size, args.repeats = "tiny", 120, [1, 8], 2
    if args.repeats < 1 or args.lines < 10 * args.repeats:
        raise ConfigError(
            f"--lines={args.lines}: must be at least ten times --repeats={args.repeats}"
        )
    if min(args.batch_size) < 1:
        raise ConfigError(f"--batch_size={min(args.batch_size)}: must be positive")
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
        lines = make_lines(data, args.lines, args.words)
        rows = measure(folder, lines, args)
        counts = [] if args.quick else [n for n in (1000, 20_000) if n < len(lines)] + [len(lines)]
        rows += [run_program(folder, lines[:n], Path(name), args) for n in counts]
    print(f"{timing.markdown(rows, COLUMNS)}\n")
    names = ("size", "batch_size", "words", "max_length", "threads", "repeats", "quick", "clock")
    chosen = {name: getattr(args, name) for name in names}
    chosen["text"] = "synthetic" if data is None else "real"
    print(timing.write_result("prediction", rows, args.output_dir, chosen, COLUMNS))


if __name__ == "__main__":
    run_main(main)
