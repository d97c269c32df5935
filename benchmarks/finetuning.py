"""Time an epoch of fine-tuning, compared with transformers' Trainer as in its GLUE example.

Both train a classifier of the same size on the same token ids and batch size with AdamW. Ours
groups texts of similar length and pads them as far as pooling requires; transformers' example
(run_glue) pads every text to --max_length. Reading, tokenization and evaluation are not timed.

The cost of a batch of similar lengths depends on that length, so each round trains on --steps
evenly spaced batches of the training set sorted by length; their mean number of positions is close
to that of a full epoch. Padded batches all cost the same, so --padded_steps of them suffice for the
Trainer. Seconds per epoch are seconds per text times the size of the training set. The matrix
products of our steps alone are timed, too: what no further optimization of the rest can go below.

    python benchmarks/finetuning.py --config=B4-4-4H768 --steps=6 --repeats=5
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import _paths  # noqa: F401

import numpy as np
import torch
import transformers

from funnel import ModelConfig, get_tokenizer
from funnel.features.classification import Features, encode_examples, pad_batch
from funnel.tasks import Example, get_task
from funnel.tokenization import Tokenizer
from funnel.utils.errors import ConfigError
from funnel.utils.main import run_main
from funnel_torch import FunnelForSequenceClassification
from funnel_torch.data.batching import BatchConfig, SequenceSource, TrainBatches
from funnel_torch.tasks.finetune import FineTuneConfig, fine_tune
from funnel_torch.training.distributed import DistributedConfig, start
from harness import baselines, corpora, products, timing

OURS, ALONE, TRAINER = "ours", "ours: products alone", "transformers Trainer"
COLUMNS = {
    "label": "task", "padded": "positions per text", "tokens": "tokens per text",
    "ms": "ms per text", "epoch_seconds": "s per epoch", "times_faster": "Trainer / ours",
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """Size of a task's training set, and the length in words of synthetic texts for it."""

    size: int
    words: tuple[int, ...]


KINDS = {"CoLA": Kind(8551, (8,)), "RTE": Kind(2490, (45, 9))}


def training_set(name: str, data: Path | None, made_up: int) -> list[Example]:
    """Return the training examples of a task; synthetic ones without ``data``."""
    if data is not None:
        task = get_task(name).resolve_labels(str(data / "glue" / name))
        return task.load(str(data / "glue" / name), "train")
    rng = np.random.default_rng(0)
    lengths = KINDS[name].words
    needed = 4 * made_up * sum(lengths)
    words = iter(itertools.cycle(" ".join(corpora.corpus_lines(None, 12 * needed)).split()))

    def text(mean: int) -> str:
        return " ".join(itertools.islice(words, int(rng.integers(mean // 2, 3 * mean // 2))))

    made = [[text(mean) for mean in lengths] for _ in range(made_up)]
    return [Example(parts[0], (*parts, None)[1], i % 2) for i, parts in enumerate(made)]


def evenly_spaced(lengths: np.ndarray, batch_size: int, steps: int) -> np.ndarray:
    """Return the indices of ``steps`` batches, evenly spaced in the order of lengths."""
    order = np.argsort(lengths, kind="stable")
    whole = len(order) // batch_size
    chosen = ((np.arange(steps) + 0.5) * whole / steps).astype(int)
    return np.concatenate([order[i * batch_size : (i + 1) * batch_size] for i in chosen])


def our_epoch(
    config: ModelConfig, features: Features, tokenizer: Tokenizer, args: argparse.Namespace
) -> tuple[Callable[[], object], float]:
    """Return a callable that trains as classifier.py does, and the mean positions per text."""
    model = FunnelForSequenceClassification(config, num_labels=baselines.CLASSES)
    source = SequenceSource(features, config, args.max_length, tokenizer.special.pad_id)
    settings = FineTuneConfig(BatchConfig(args.batch_size), lr=baselines.LEARNING_RATE, epochs=1)
    plan = TrainBatches(source, settings.batches).plan(0)
    positions = sum(source.collate(step)["input_ids"].size for step in plan)

    def run() -> None:
        with start(DistributedConfig(device_id=-1)) as world:
            fine_tune(model, source, [], settings, world)

    return run, positions / len(features)


def padded_rows(features: Features, length: int, pad_id: int) -> list[dict]:
    """Return the examples as lists padded to one length."""
    batch = pad_batch(features, np.arange(len(features)), length, pad_id)
    batch = {name: array.tolist() for name, array in batch.items()}
    return [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]


def trainer_steps(
    config: ModelConfig, rows: list[dict], args: argparse.Namespace, folder: Path
) -> Callable[[], object]:
    """Return a callable for some steps of transformers' Trainer."""
    settings = baselines.hf_config(config, num_labels=baselines.CLASSES)
    trainer = transformers.Trainer(
        transformers.FunnelForSequenceClassification(settings),
        transformers.TrainingArguments(
            str(folder),
            per_device_train_batch_size=args.batch_size,
            learning_rate=baselines.LEARNING_RATE,
            max_steps=args.padded_steps,
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=rows,
        data_collator=transformers.default_data_collator,
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer.train


def measure(
    name: str, data: Path | None, tokenizer: Tokenizer, args: argparse.Namespace, folder: Path
) -> list[timing.Row]:
    """Return the rows of a task."""
    config = baselines.load_config(args.config)
    examples = training_set(name, data, 2 * args.steps * args.batch_size)
    lengths = encode_examples(examples, tokenizer, args.max_length).lengths
    chosen = evenly_spaced(lengths, args.batch_size, args.steps)
    features = encode_examples([examples[i] for i in chosen], tokenizer, args.max_length)
    rows = padded_rows(features, args.max_length, tokenizer.special.pad_id)
    ours, positions = our_epoch(config, features, tokenizer, args)
    cases = {OURS: ours, ALONE: products.record_products(ours)}
    cases[TRAINER] = trainer_steps(config, rows, args, folder)
    seconds = timing.interleave(cases, args.repeats, clock=args.clock)
    counts = dict.fromkeys(cases, len(features)) | {TRAINER: args.padded_steps * args.batch_size}
    each = {who: [taken / counts[who] for taken in seconds[who]] for who in cases}
    return [
        {
            "label": f"{name}, {who}",
            "task": name,
            "padded": padded,
            "tokens": float(features.lengths.mean()),
            "ms": 1e3 * statistics.median(each[who]),
            "epoch_seconds": KINDS[name].size * statistics.median(each[who]),
            "times_faster": (
                timing.median_ratio(each[TRAINER], each[who]) if who != TRAINER else None
            ),
            "examples": counts[who],
            "seconds": seconds[who],
        }
        for who, padded in zip(cases, (positions, positions, float(args.max_length)), strict=True)
    ]


def parse_arguments() -> argparse.Namespace:
    parser = timing.parser(__doc__)
    parser.set_defaults(threads=os.cpu_count())
    parser.add_argument("--tasks", default=",".join(KINDS), help="comma-separated list of tasks")
    parser.add_argument("--config", default="B4-4-4H768", help="size of the model, in configs/")
    parser.add_argument("--max_length", type=int, default=128)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=6, help="our steps per round")
    parser.add_argument("--padded_steps", type=int, default=2, help="the Trainer's steps per round")
    parser.add_argument("--vocab_size", type=int, default=30522, help="size of the vocabulary")
    parser.add_argument("--data_dir", type=Path, help="real text, see harness/corpora.py")
    args = parser.parse_args()
    if args.quick:
        args.config, args.max_length, args.batch_size = "tiny", 32, 4
        args.steps = args.padded_steps = args.repeats = args.threads = 1
        args.vocab_size = 400
    if wrong := set(args.tasks.split(",")) - set(KINDS):
        raise ConfigError(f"--tasks={min(wrong)}: choose from {', '.join(KINDS)}")
    return args


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    data, rows = corpora.find_data(args.data_dir), []
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = corpora.write_vocabulary(data, args.vocab_size, Path(folder) / "vocab.txt")
        tokenizer = get_tokenizer("word_piece", vocabulary)
        for name in args.tasks.split(","):
            rows += measure(name, data, tokenizer, args, Path(folder))
    print(f"{timing.markdown(rows, COLUMNS)}\n")
    names = ("config", "max_length", "batch_size", "repeats", "quick", "clock", "vocab_size")
    settings = {name: getattr(args, name) for name in names} | {"real_text": data is not None}
    print(timing.write_result("finetuning", rows, args.output_dir, settings, COLUMNS))


if __name__ == "__main__":
    run_main(main)
