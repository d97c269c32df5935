"""Time the pretraining input pipeline, compared with the model that consumes its batches.

The pipeline reads, shuffles and masks records and creates tensors on one core; the model (ELECTRA
and masked language modelling, fp32) runs complete training steps on all cores. The result is the
ratio of the two rates.

    python benchmarks/input_pipeline.py --config=small-cpu --seq_len=128 --batch_size=32
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import _paths  # noqa: F401

import torch

from funnel import ModelConfig
from funnel.config.heads import PretrainingConfig
from funnel.config.training.optimizer import OptimizerConfig
from funnel.pretraining.masking import SAMPLE_STRATEGIES, Masker, MaskingConfig, truncation_stride
from funnel.pretraining.record_index import RecordCollection
from funnel.tokenization import Tokenizer
from funnel.utils.main import run_main
from funnel_torch.data.pretraining_loader import PretrainBatchConfig, PretrainBatches
from funnel_torch.models.electra import ElectraPretraining, MLMPretraining, PretrainingBatch
from funnel_torch.training.optimizer import build_optimizer, set_learning_rate
from harness import baselines, corpora, timing

ELECTRA, MLM = "ELECTRA", "MLM"
HEADS = {ELECTRA: ElectraPretraining, MLM: MLMPretraining}
COLUMNS = {
    "label": "what", "cores": "cores", "rate": "examples/s", "times_electra": f"feeds {ELECTRA} x",
    "times_mlm": f"feeds {MLM} x",
}  # fmt: skip
TARGETS_PER_TOKEN = 85 / 512


def make_batches(
    records: RecordCollection,
    tokenizer: Tokenizer,
    strategy: str,
    config: ModelConfig,
    args: argparse.Namespace,
) -> Iterator[PretrainingBatch]:
    """Yield the masked batches of a training run, without end."""
    masking = MaskingConfig(
        args.seq_len,
        max(1, round(TARGETS_PER_TOKEN * args.seq_len)),
        strategy,
        truncate_stride=truncation_stride(config),
    )
    masker = Masker(masking, tokenizer.special, tokenizer.vocab_size)
    steps = PretrainBatches(records, masker, PretrainBatchConfig(args.batch_size)).stream()
    return (batch for step in steps for batch in step)


def training_step(
    head: type[ElectraPretraining | MLMPretraining],
    config: ModelConfig,
    pretraining: PretrainingConfig,
    batch: PretrainingBatch,
) -> Callable[[], None]:
    """Return a callable for a training step on one batch, with the pretraining optimizer."""
    torch.manual_seed(0)
    model = head(config, pretraining).train()
    optimizer = build_optimizer(model, OptimizerConfig(name="funnel_adamw"))
    set_learning_rate(optimizer, baselines.LEARNING_RATE)

    def run() -> None:
        model(batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def measure(args: argparse.Namespace, folder: Path) -> list[timing.Row]:
    """Return one row per masking strategy, and one per model."""
    config = baselines.load_config(args.config)
    data, size = corpora.find_data(args.data_dir), int(1e6 * args.megabytes)
    records, tokenizer = corpora.write_records(data, config.vocab_size, args.seq_len, size, folder)
    streams = {
        strategy: make_batches(records, tokenizer, strategy, config, args)
        for strategy in SAMPLE_STRATEGIES
    }
    batch = next(streams[SAMPLE_STRATEGIES[0]])
    pipelines = {
        strategy: lambda stream=stream: [next(stream) for _ in range(args.steps)]
        for strategy, stream in streams.items()
    }
    shrink = PretrainingConfig(width_shrink=args.width_shrink)
    models = {name: training_step(head, config, shrink, batch) for name, head in HEADS.items()}
    seconds = timing.interleave(pipelines | models, args.repeats, clock=args.clock)
    each = {name: args.batch_size * (args.steps if name in streams else 1) for name in seconds}
    rows = [_row(name, seconds, each) for name in pipelines]
    for row in rows:
        row |= {"label": f"input, {row['label']}", "cores": 1}
    return rows + [_row(name, seconds, each) | {"cores": args.threads} for name in models]


def _row(name: str, seconds: dict[str, list[float]], each: dict[str, int]) -> timing.Row:
    """Return the row of a case: examples per second and the ratio to each model's rate."""
    mine = [taken / each[name] for taken in seconds[name]]
    row = {"label": name, "rate": 1 / statistics.median(mine)}
    for model in HEADS:
        theirs = [taken / each[model] for taken in seconds[model]]
        row[f"times_{model.lower()}"] = timing.median_ratio(theirs, mine)
    return row | {"examples": each[name], "seconds": seconds[name]}


def parse_arguments() -> argparse.Namespace:
    parser = timing.parser(__doc__)
    parser.set_defaults(threads=os.cpu_count())
    parser.add_argument("--config", default="small-cpu", help="size of the model, in configs/")
    parser.add_argument(
        "--width_shrink", type=float, default=0.25, help="width of ELECTRA's generator"
    )
    parser.add_argument("--seq_len", type=int, default=128)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20, help="batches read per round")
    parser.add_argument("--megabytes", type=float, default=4.0, help="size of the text")
    parser.add_argument("--data_dir", type=Path, help="real text, see harness/corpora.py")
    args = parser.parse_args()
    if args.quick:
        args.config, args.seq_len, args.batch_size, args.steps = "tiny", 32, 4, 2
        args.megabytes, args.width_shrink = 0.05, 0.5
        args.repeats = args.threads = 1
    return args


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(args, Path(folder))
    print(f"{timing.markdown(rows, COLUMNS)}\n")
    names = ("config", "seq_len", "batch_size", "repeats", "quick", "clock")
    chosen = {name: getattr(args, name) for name in names}
    print(timing.write_result("input_pipeline", rows, args.output_dir, chosen, COLUMNS))


if __name__ == "__main__":
    run_main(main)
