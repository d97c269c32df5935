"""Time int8 inference against our own fp32, and compare the outputs.

The encoder has random weights for the timing. With --checkpoint, a fine-tuned classifier, the main
metric of the task is also compared, on the dev data in --data_dir.

    python benchmarks/int8.py
    python benchmarks/int8.py --checkpoint=runs/ag/best --task=AG --data_dir=data/ag
"""

from __future__ import annotations

import argparse
import copy
import statistics
from pathlib import Path

import _paths  # noqa: F401

import numpy as np
import torch
from torch import nn

from funnel import get_tokenizer
from funnel.checkpoints import load_checkpoint
from funnel.checkpoints.saved_head import describe_heads
from funnel.checkpoints.vocabulary import find_vocabulary
from funnel.tasks import get_task
from funnel.tasks.metrics import compute
from funnel.tasks.saved_labels import take_labels
from funnel.utils.errors import ConfigError
from funnel.utils.main import run_main
from funnel_torch import FunnelForSequenceClassification
from funnel_torch.kernels.quantization import quantize_int8
from funnel_torch.tasks.classification import DataConfig, build_source, decisions, load_splits
from funnel_torch.tasks.finetune import predict
from funnel_torch.training.distributed import DistributedConfig, start
from harness import baselines, timing
from harness.baselines import parse_shape

FLOAT, INT8 = "fp32", "int8"
COLUMNS = {
    "label": "what", "fp32_ms": "fp32, ms", "int8_ms": "int8, ms", "times_faster": "fp32 / int8",
    "difference": "relative difference", "metric": "metric", "fp32_score": "fp32",
    "int8_score": "int8", "changed": "decisions changed",
}  # fmt: skip


def time_shape(
    models: dict[str, nn.Module], batch: int, length: int, args: argparse.Namespace
) -> timing.Row:
    """Time both on one random batch; also return the difference of their outputs."""
    vocabulary = models[FLOAT].config.vocab_size
    ids = torch.randint(vocabulary, (batch, length), generator=torch.Generator().manual_seed(1))
    segments = torch.zeros_like(ids)

    def forward(model: nn.Module) -> torch.Tensor:
        with torch.inference_mode():
            return model(ids, token_type_ids=segments).last_hidden_state

    exact, found = (forward(models[name]) for name in (FLOAT, INT8))
    cases = {name: lambda model=model: forward(model) for name, model in models.items()}
    seconds = timing.interleave(cases, args.repeats, clock=args.clock)
    return {
        "label": f"{args.size}, {batch}x{length}",
        "fp32_ms": 1e3 * statistics.median(seconds[FLOAT]),
        "int8_ms": 1e3 * statistics.median(seconds[INT8]),
        "times_faster": timing.median_ratio(seconds[FLOAT], seconds[INT8]),
        "difference": ((found - exact).norm() / exact.norm()).item(),
        "seconds": seconds,
    }


def compare_scores(args: argparse.Namespace) -> timing.Row:
    """Return the main metric of a fine-tuned checkpoint with and without int8."""
    checkpoint = load_checkpoint(args.checkpoint)
    (head,) = describe_heads(checkpoint).values()
    task = take_labels(get_task(args.task), head, args.data_dir)
    vocabulary = find_vocabulary(Path(args.checkpoint))
    if vocabulary is None:
        raise ConfigError(
            f"--checkpoint={args.checkpoint}: no vocabulary in the directory of the weights"
        )
    tokenizer = get_tokenizer("word_piece", str(vocabulary))
    config = DataConfig(args.data_dir, max_length=args.max_length)
    split = task.eval_splits[0]
    features = load_splits(task, [split], config, tokenizer)[split]
    model = FunnelForSequenceClassification.from_checkpoint(checkpoint)
    source = build_source(features, model.config, config, tokenizer)
    with start(DistributedConfig(device_id=-1)) as world:
        exact = predict(model, source, ["logits"], world)["logits"]
        found = predict(quantize_int8(model), source, ["logits"], world)["logits"]
    before, after = (decisions(task, logits) for logits in (exact, found))
    metric, score = next(iter(compute(task, before, features.labels).items()))
    return {
        "label": f"{task.name} {split}, {len(features)} examples",
        "metric": metric,
        "fp32_score": score,
        "int8_score": compute(task, after, features.labels)[metric],
        "changed": None if task.is_regression else float(np.mean(before != after)),
        "difference": float(np.linalg.norm(found - exact) / np.linalg.norm(exact)),
        "largest_difference": float(np.abs(found - exact).max()),
        "mean_difference": float(np.abs(found - exact).mean()),
    }


def parse_arguments() -> argparse.Namespace:
    parser = timing.parser(__doc__)
    parser.add_argument("--size", default="B6-6-6H768", help="file in configs/")
    parser.add_argument("--shapes", default="2x512,8x128", help="BATCHxLENGTH,...")
    parser.add_argument("--checkpoint", help="fine-tuned classifier whose scores to compare")
    parser.add_argument("--task", default="CoLA", help="task it was fine-tuned on")
    parser.add_argument("--data_dir", default="", help="directory with the files of that task")
    parser.add_argument("--max_length", type=int, default=128, help="tokens per example")
    args = parser.parse_args()
    if args.checkpoint and not args.data_dir:
        raise ConfigError("--data_dir is needed with --checkpoint")
    if args.quick:
        args.size, args.shapes, args.repeats = "tiny", "2x16,1x33", 1
    return args


def main() -> None:
    args = parse_arguments()
    shapes = [parse_shape(text) for text in args.shapes.split(",")]
    torch.set_num_threads(args.threads)
    model = baselines.build(baselines.OURS, args.size, 512).eval()
    models = {FLOAT: model, INT8: quantize_int8(copy.deepcopy(model))}
    rows = [time_shape(models, *shape, args) for shape in shapes]
    if args.checkpoint:
        rows.append(compare_scores(args))
    print(f"{timing.markdown(rows, COLUMNS)}\n")
    chosen = {name: getattr(args, name) for name in ("threads", "repeats", "quick", "clock")}
    print(timing.write_result("int8", rows, args.output_dir, chosen, COLUMNS))


if __name__ == "__main__":
    run_main(main)
