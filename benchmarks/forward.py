"""Time a forward pass of our encoder beside transformers' Funnel and its BERT-base with SDPA.

Weights are random, inputs unpadded, precision fp32 on the CPU. The three take turns in one process,
so that a busy moment hits all of them; the median counts.

    make bench
    python benchmarks/forward.py --size=B6-6-6H768 --shapes=8x128,2x512 --threads=1 --repeats=5
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import _paths

import torch
import transformers
from torch import nn

from funnel import ModelConfig, cli
from funnel.errors import ConfigError
from funnel.files import atomic_write_json
from funnel_torch import FunnelEncoder

OURS = "ours"


def build_models(size: str) -> dict[str, nn.Module]:
    """Our encoder of a size, the same one in transformers, and BERT-base."""
    config = ModelConfig.load(_paths.REPOSITORY / "configs" / f"{size}.json")
    funnel = transformers.FunnelConfig(**config.to_hf())
    bert = transformers.BertConfig(attn_implementation="sdpa")
    models = {
        OURS: FunnelEncoder(config),
        "transformers Funnel": transformers.FunnelBaseModel(funnel),
        "BERT-base, SDPA": transformers.BertModel(bert, add_pooling_layer=False),
    }
    return {name: model.eval() for name, model in models.items()}


def parse_shapes(text: str) -> list[tuple[int, int]]:
    """``8x128,2x512`` as pairs of batch size and length."""
    try:
        return [(int(b), int(t)) for b, t in (item.split("x") for item in text.split(","))]
    except ValueError as error:
        raise ConfigError(f"--shapes={text}: write BATCHxLENGTH,..., e.g. 8x128,2x512") from error


def seconds_of(run: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(models: Mapping[str, nn.Module], batch: int, length: int, repeats: int) -> dict:
    """Median seconds of every model on one batch, after a round that is not counted."""
    vocabulary = models[OURS].config.vocab_size
    ids = torch.randint(vocabulary, (batch, length), generator=torch.Generator().manual_seed(1))
    segments = torch.zeros_like(ids)
    times: dict[str, list[float]] = {name: [] for name in models}
    with torch.inference_mode():
        for round_number in range(repeats + 1):
            for name, model in models.items():
                taken = seconds_of(lambda m=model: m(ids, token_type_ids=segments))
                if round_number:
                    times[name].append(taken)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="B6-6-6H768", help="file name in configs/")
    parser.add_argument("--shapes", default="8x128,2x512", help="BATCHxLENGTH,...")
    parser.add_argument("--repeats", type=int, default=5, help="counted rounds")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    args = parser.parse_args()
    shapes = parse_shapes(args.shapes)
    torch.set_num_threads(args.threads)
    models = build_models(args.size)
    print(f"{args.size}, fp32 forward, {args.threads} thread(s), median of {args.repeats}\n")
    print(f"| batch x length | {' | '.join(f'{name}, s' for name in models)} | ours / theirs |")
    print("|---" * (len(models) + 2) + "|")
    rows = {}
    for batch, length in shapes:
        times = measure(models, batch, length, args.repeats)
        ratios = [f"{times[OURS] / t:.2f}" for name, t in times.items() if name != OURS]
        cells = [f"{batch} x {length}", *(f"{t:.3f}" for t in times.values()), ", ".join(ratios)]
        print("| " + " | ".join(cells) + " |", flush=True)
        rows[f"{batch}x{length}"] = times
    if args.output:
        allocator = {k: v for k, v in os.environ.items() if k.startswith("MALLOC_")}
        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        about = {"size": args.size, "threads": args.threads, "machine": platform.platform()}
        atomic_write_json(args.output, {**about, **versions, **allocator, "seconds": rows})


if __name__ == "__main__":
    cli.run(main)
