"""Time every implementation that a CPU can choose from, under every instruction set that it has.

For each instruction set a process of its own is started, whose libraries are told to use nothing
newer (ONEDNN_MAX_CPU_ISA, MKL_ENABLE_INSTRUCTIONS, ATEN_CPU_CAPABILITY). In it our encoder runs
with each matrix library forced, with other chunks of queries, and with what it chooses by itself
(auto), interleaved with transformers' Funnel and BERT. A wrong choice shows as a row that is faster
than auto. Of auto and of transformers' Funnel the matrix products alone are timed, too: whatever is
done about the rest of our model, its ratio to Funnel stays above that of its products.

    python benchmarks/branches.py
    python benchmarks/branches.py --instructions=avx2 --shapes=2x512 --modes=forward
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import _paths  # noqa: F401

import torch

from funnel.utils.errors import ConfigError, FunnelError
from funnel.utils.main import run_main
from funnel_torch.kernels.choices import choices
from funnel_torch.kernels.config import MKL, NATIVE, ONEDNN, KernelSettings
from harness import baselines, products, timing
from harness.baselines import BERT, FORWARD, HF, OURS, TRAINING, Case

# What the libraries are told, by instruction set, newest first.
INSTRUCTIONS = {
    "avx512": ("AVX512_CORE", "AVX512", "avx512"),
    "avx2": ("AVX2", "AVX2", "avx2"),
    "default": ("SSE41", "SSE4_2", "default"),
}
VARIABLES = ("ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "ATEN_CPU_CAPABILITY")
BRANCHES = {
    "ours, auto": KernelSettings(),
    "ours, MKL": KernelSettings(MKL, "128"),
    "ours, oneDNN": KernelSettings(ONEDNN, "128"),
    "ours, GELU of PyTorch": KernelSettings(gelu=NATIVE),
    "ours, oneDNN, chunks of 64": KernelSettings(ONEDNN, "64"),
    "ours, oneDNN, chunks of 256": KernelSettings(ONEDNN, "256"),
}
COLUMNS = {
    "instructions": "instructions", "setting": "setting", "label": "implementation", "ms": "ms",
    "ratio_to_hf": "/ Funnel", "ratio_to_bert": "/ BERT", "ratio_to_auto": "/ auto",
}  # fmt: skip


def available() -> list[str]:
    """Return the instruction sets of this processor that PyTorch has code for, newest first."""
    names = list(INSTRUCTIONS)
    newest = torch.backends.cpu.get_cpu_capability().lower()
    # Without AVX2 everything is the plain code; with it, that is of no interest.
    return names[names.index(newest) : 2] if newest in names[:2] else ["default"]


def environment(instructions: str) -> dict[str, str]:
    """Return the environment of a process that uses nothing newer than ``instructions``."""
    return os.environ | dict(zip(VARIABLES, INSTRUCTIONS[instructions], strict=True))


def measure(mode: str, shape: str, args: argparse.Namespace) -> list[timing.Row]:
    """Return the rows of a setting, in this process."""
    batch, length = baselines.parse_shape(shape)
    threads = args.training_threads if mode == TRAINING else args.threads
    cases = {
        model: Case(model, args.size, mode, batch, length, threads=threads)
        for model in (OURS, HF, BERT)
    }
    runs: dict[str, Callable[[], object]] = {
        baselines.LABELS[model]: baselines.prepare(cases[model]) for model in (HF, BERT)
    }
    ours = baselines.prepare(cases[OURS])
    for label, settings in BRANCHES.items():
        # Chunks differ only where there are several of them.
        if length > 128 or "chunks" not in label:
            runs[label] = _with_settings(settings, ours)
    before = choices.made()
    for label in ("ours, auto", baselines.LABELS[HF]):
        runs[f"{label}: products alone"] = products.record_products(runs[label])
    seconds = timing.interleave(runs, args.repeats, clock=args.clock)
    made = {name: found for name, found in choices.made().items() if name not in before}
    auto, hf, bert = (
        seconds[label] for label in ("ours, auto", baselines.LABELS[HF], baselines.LABELS[BERT])
    )
    return [
        {
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "setting": f"{args.size} {mode} {shape}, {threads} thread(s)",
            "label": label,
            "ms": 1e3 * statistics.median(mine),
            "ratio_to_hf": timing.median_ratio(mine, hf),
            "ratio_to_bert": timing.median_ratio(mine, bert),
            "ratio_to_auto": timing.median_ratio(mine, auto),
            "choices": made if label == "ours, auto" else {},
            "seconds": mine,
        }
        for label, mine in seconds.items()
    ]


def _with_settings(settings: KernelSettings, run: Callable[[], object]) -> Callable[[], object]:
    def with_settings() -> object:
        choices.configure(settings)
        return run()

    return with_settings


def measure_all(args: argparse.Namespace) -> list[timing.Row]:
    """Return the rows of all settings in this process, printed as they come."""
    rows: list[timing.Row] = []
    for mode in args.modes:
        for shape in args.shapes:
            found = measure(mode, shape, args)
            rows += found
            print(f"{timing.markdown(found, COLUMNS)}\n")
            for name, choice in found[2]["choices"].items():
                print(f"- {name}: {choice}")
            print(flush=True)
    return rows


def in_process_of_its_own(instructions: str, arguments: list[str]) -> list[timing.Row]:
    """Return the rows of a process that is restricted to an instruction set."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, *arguments, f"--output_dir={folder}", "--here"]
        done = subprocess.run(command, env=environment(instructions), check=False)
        if done.returncode:
            raise FunnelError(f"the process for {instructions} ended with {done.returncode}")
        return json.loads((Path(folder) / "branches.json").read_text())["rows"]


def parse_arguments() -> argparse.Namespace:
    parser = timing.parser(__doc__)
    listed = {"type": lambda text: tuple(text.split(",")), "metavar": "A,B,..."}
    parser.add_argument("--size", default="B6-6-6H768", help="file in configs/")
    parser.add_argument("--modes", default=(FORWARD, TRAINING), **listed)
    parser.add_argument("--shapes", default=("8x128", "2x512"), help="BATCHxLENGTH", **listed)
    parser.add_argument(
        "--instructions",
        default=None,
        help=f"{', '.join(INSTRUCTIONS)}; default: all here",
        **listed,
    )
    parser.add_argument(
        "--training_threads", type=int, default=os.cpu_count(), help="threads of training steps"
    )
    parser.add_argument("--here", action="store_true", help="in this process, as its libraries are")
    args = parser.parse_args()
    if args.quick:
        args.size, args.shapes, args.repeats = "tiny", ("2x16", "1x160"), 1
        args.threads = args.training_threads = 1
    for key, allowed in (("modes", (FORWARD, TRAINING)), ("instructions", tuple(INSTRUCTIONS))):
        if wrong := set(getattr(args, key) or ()) - set(allowed):
            raise ConfigError(f"--{key}={min(wrong)}: choose from {', '.join(allowed)}")
    return args


def main() -> None:
    args = parse_arguments()
    if args.here:
        rows = measure_all(args)
    else:
        rows = []
        for instructions in args.instructions or available():
            print(f"== {instructions}", flush=True)
            rows += in_process_of_its_own(instructions, sys.argv[1:])
    chosen = {"repeats": args.repeats, "quick": args.quick, "clock": args.clock}
    print(timing.write_result("branches", rows, args.output_dir, chosen, COLUMNS))


if __name__ == "__main__":
    run_main(main)
