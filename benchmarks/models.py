"""Time our encoder against transformers' Funnel and a BERT with fused attention (SDPA).

Forward passes and training steps for several lengths, precisions and sizes, interleaved in one
process. By default the plan for the device is measured (PLANS below); any of --sizes, --modes,
--shapes, --precisions, --models, --compile selects all combinations of the values given.

    make bench
    python benchmarks/models.py --sizes=B6-6-6H768 --shapes=2x512 --modes=forward
    python benchmarks/models.py --device=cuda --name=models-h100
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import os
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import _paths  # noqa: F401

import torch

from funnel.utils.errors import ConfigError
from funnel.utils.main import run_main
from funnel_torch.kernels.choices import choices
from harness import baselines, timing
from harness.baselines import BERT, BF16, FORWARD, FP32, HF, LABELS, OURS, TRAINING, Case

ALL = (OURS, HF, BERT)
COLUMNS = {
    "label": "model", "ms": "ms", "tokens_per_second": "tokens/s", "ratio_to_hf": "/ Funnel",
    "ratio_to_bert": "/ BERT", "peak_mib": "peak MiB", "working_mib": "without weights",
    "parameters": "parameters", "gflops": "GFLOPs",
}  # fmt: skip


@dataclass(frozen=True)
class Group:
    """All combinations of the given values.

    Attributes:
        sizes, modes, shapes, precisions, models: see :class:`baselines.Case`.
        compiled: eager, compiled or both.
        memory: whether peak memory is measured, too.
    """

    sizes: tuple[str, ...] = ("B6-6-6H768",)
    modes: tuple[str, ...] = (FORWARD, TRAINING)
    shapes: tuple[str, ...] = ("8x128", "2x512", "1x2048")
    precisions: tuple[str, ...] = (FP32,)
    models: tuple[str, ...] = ALL
    compiled: tuple[bool, ...] = (False,)
    memory: bool = True


# Plans that fit into the minutes of `make bench`. bf16 rarely pays on a CPU, so one shape suffices.
PLANS = {
    "cpu": (
        Group(),
        Group(("B4-4-4H768",), shapes=("8x128", "2x512"), memory=False),
        Group(shapes=("2x512",), precisions=(BF16,), memory=False),
    ),
    "cuda": (
        Group(("B6-6-6H768", "B4-4-4H768"), shapes=("256x128", "64x512", "4x2048"),
              precisions=(BF16,)),
        Group(shapes=("64x512",)),
        # Only ours: shows that its memory grows linearly with the length.
        Group(shapes=("1x2048", "1x4096", "1x8192"), precisions=(BF16,), models=(OURS,)),
    ),
    "quick": (Group(("tiny",), shapes=("2x16",)),),
}  # fmt: skip


def parse_arguments() -> argparse.Namespace:
    parser = timing.parser(__doc__)
    listed = {"type": lambda text: tuple(text.split(",")), "metavar": "A,B,..."}
    parser.add_argument("--sizes", help="files in configs/", **listed)
    parser.add_argument("--modes", help=f"{FORWARD}, {TRAINING}", **listed)
    parser.add_argument("--shapes", help="BATCHxLENGTH, e.g. 8x128", **listed)
    parser.add_argument("--precisions", help=f"{FP32}, {BF16} (autocast)", **listed)
    parser.add_argument("--models", help=", ".join(ALL), **listed)
    parser.add_argument(
        "--compile", action="store_true", help="also with torch.compile; takes minutes"
    )
    parser.add_argument("--no-memory", action="store_true", help="do not measure peak memory")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument(
        "--training_threads", type=int, default=os.cpu_count(), help="threads of training steps"
    )
    parser.add_argument("--name", default="models", help="name of the JSON file")
    args = parser.parse_args()
    if args.quick:
        args.repeats = args.threads = args.training_threads = 1
    return args


def plan(args: argparse.Namespace) -> tuple[Group, ...]:
    """Return the groups to measure.

    Raises:
        ConfigError: a value is not among the choices.
    """
    keys = ("sizes", "modes", "shapes", "precisions", "models")
    chosen = {key: value for key in keys if (value := getattr(args, key)) is not None}
    allowed = {"modes": (FORWARD, TRAINING), "precisions": (FP32, BF16), "models": ALL}
    for key in chosen.keys() & allowed:
        if wrong := set(chosen[key]) - set(allowed[key]):
            raise ConfigError(f"--{key}={min(wrong)}: choose from {', '.join(allowed[key])}")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device=cuda: PyTorch sees no GPU here")
    groups = PLANS["quick" if args.quick else args.device]
    if args.compile:
        chosen["compiled"] = (False, True)
    if chosen:
        groups = (dataclasses.replace(groups[0], **chosen),)
    if args.no_memory:
        groups = tuple(dataclasses.replace(group, memory=False) for group in groups)
    return groups


def settings(group: Group, args: argparse.Namespace) -> Iterator[list[Case]]:
    """Yield the cases to time together, one per model."""
    shapes = [baselines.parse_shape(text) for text in group.shapes]
    choices = (group.sizes, group.modes, group.precisions, group.compiled, shapes)
    for size, mode, precision, compiled, (batch, length) in itertools.product(*choices):
        threads = args.training_threads if mode == TRAINING else args.threads
        yield [
            Case(model, size, mode, batch, length, precision, compiled, args.device, threads)
            for model in group.models
        ]


def measure(cases: list[Case], repeats: int, memory: bool, clock: str = "wall") -> list[timing.Row]:
    """Return one row per case, with its ratios to the other models."""
    device = cases[0].device
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    peaks = [_peak(case) if memory else None for case in cases]
    runs = {case.model: baselines.prepare(case) for case in cases}
    warmup = 2 if cases[0].compiled else 1
    seconds = timing.interleave(runs, repeats, warmup, clock, synchronize)
    return [_row(case, seconds, peak) for case, peak in zip(cases, peaks, strict=True)]


def _peak(case: Case) -> int | None:
    tiny = dataclasses.replace(case, size="tiny", batch=1, length=16)
    prepare, rehearse = (functools.partial(baselines.prepare, each) for each in (case, tiny))
    return timing.peak_memory(prepare, case.device, rehearsal=rehearse)


def _row(case: Case, seconds: dict[str, list[float]], peak: int | None) -> timing.Row:
    mine = seconds[case.model]
    typical = statistics.median(mine)
    ratios = {
        f"ratio_to_{other}": timing.median_ratio(mine, seconds[other])
        for other in (HF, BERT) if other in seconds
    }  # fmt: skip
    parameters = baselines.parameters(case.model, case.size, case.length)
    # In training every weight also has a gradient and two moments.
    weights = parameters * 4 * (4 if case.mode == TRAINING else 1)
    return {
        **dataclasses.asdict(case),
        "label": LABELS[case.model],
        "ms": 1e3 * typical,
        "tokens_per_second": case.batch * case.length / typical,
        **ratios,
        "peak_mib": None if peak is None else round(peak / 2**20),
        "working_mib": None if peak is None else round((peak - weights) / 2**20),
        "parameters": parameters,
        "gflops": case.gflops,
        "seconds": mine,
    }


def title(row: timing.Row) -> str:
    """Return the heading of a table."""
    execution = "compiled" if row["compiled"] else "eager"
    shape = f"{row['batch']}x{row['length']}"
    where = row["device"] if row["device"] != "cpu" else f"{row['threads']} thread(s)"
    return f"{row['size']} {row['mode']} {shape} {row['precision']} {execution}, {where}"


def main() -> None:
    args = parse_arguments()
    groups = [(group, list(settings(group, args))) for group in plan(args)]
    chosen = {"repeats": args.repeats, "quick": args.quick, "clock": args.clock}
    rows: list[timing.Row] = []
    for group, wanted in groups:
        for cases in wanted:
            before = choices.made()
            found = measure(cases, args.repeats, group.memory, args.clock)
            rows += found
            print(f"{title(found[0])}\n\n{timing.markdown(found, COLUMNS)}\n", flush=True)
            # benchmarks/branches.py times all of them.
            for name, choice in choices.made().items() - before.items():
                print(f"- {name}: {choice}", flush=True)
            # Written after every group, so that an interrupted run keeps its results.
            path = timing.write_result(args.name, rows, args.output_dir, chosen, COLUMNS)
    print(path)


if __name__ == "__main__":
    run_main(main)
