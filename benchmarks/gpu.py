"""The measurements of benchmarks/gpu.sh, each within a number of seconds.

Results are written after every step, so that an interruption leaves what was measured.

    python benchmarks/gpu.py environment
    python benchmarks/gpu.py table --seconds=240
    python benchmarks/gpu.py pretraining --seconds=120
    python benchmarks/gpu.py table --dry_run         # tiny, on the CPU, to see that it works
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# Triton decides when it is imported whether it interprets its kernels.
if "--dry_run" in sys.argv:
    os.environ.setdefault("TRITON_INTERPRET", "1")

import _paths  # noqa: F401

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from funnel.utils.errors import ConfigError
from funnel.utils.main import run_main
from funnel_torch.kernels import fused_attention
from funnel_torch.models import attention
from funnel_torch.training.mfu import peak_tflops
from harness import baselines, timing
from harness.baselines import BERT, BF16, FORWARD, FP32, HF, OURS, TRAINING, Case

IMPLEMENTATIONS = {
    "ours, fused": (OURS, "fused"),
    "ours, sdpa": (OURS, "sdpa"),
    "transformers Funnel": (HF, "auto"),
    "transformers BERT": (BERT, "auto"),
}
COLUMNS = {
    "setting": "setting", "label": "implementation", "ms": "ms", "tokens_per_second": "tokens/s",
    "mfu": "MFU", "ratio_to_bert": "/ BERT", "ratio_to_hf": "/ Funnel", "peak_mib": "peak MiB",
    "note": "note",
}  # fmt: skip
PACKAGES = ("numpy", "torch", "triton", "transformers", "tokenizers", "pytest", "hypothesis")
# Sizes and lengths in the order of their importance: time may be short.
PLAN = [
    *(("B6-6-6H768", length) for length in (512, 2048, 128, 8192)),
    *(("B4-4-4H768", length) for length in (512, 2048, 128, 8192)),
]
DRY_PLAN = [("tiny", 15)]
TOKENS, DRY_TOKENS = 32768, 15


class Budget:
    """The seconds of this part."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._longest = 0.0

    @contextlib.contextmanager
    def spend(self) -> Iterator[None]:
        """Measure how long a step takes."""
        start = time.monotonic()
        yield
        self._longest = max(self._longest, time.monotonic() - start)

    @property
    def allows_more(self) -> bool:
        """Whether another step of the length of the longest one so far fits."""
        return time.monotonic() + self._longest < self._end


def check_environment(args: argparse.Namespace, device: torch.device) -> None:
    """Write what is installed, and which parts will be left out."""
    found = {name: importlib.util.find_spec(name) is not None for name in PACKAGES}
    facts = {"python": sys.version.split()[0], "torch": torch.__version__}
    facts |= {"cuda": str(torch.version.cuda), "device": str(device), "driver": _driver()}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "gpu": properties.name,
            "memory": f"{properties.total_memory / 2**30:.0f} GiB",
            "capability": ".".join(map(str, torch.cuda.get_device_capability(device))),
            "bf16": str(torch.cuda.is_bf16_supported()),
            "flash": str(torch.backends.cuda.flash_sdp_enabled()),
            "peak, bf16": f"{peak_tflops(device, 'bf16')} TFLOP/s",
        }
    missing = [name for name, is_there in found.items() if not is_there]
    facts["not installed"] = ", ".join(missing) or "nothing"
    rows = [{"item": item, "found": value} for item, value in facts.items()]
    columns = {"item": "item", "found": "found"}
    print(timing.markdown(rows, columns))
    print(timing.write_result("gpu_environment", rows, args.output_dir, {}, columns))


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError) as error:
        return f"nvidia-smi: {type(error).__name__}"
    return done.stdout.strip().replace("\n", "; ")


def measure_table(args: argparse.Namespace, device: torch.device) -> None:
    """Time all implementations, sizes, lengths and modes, as far as the time allows."""
    budget, rows, left = Budget(args.seconds), [], []
    if args.dry_run and not fused_attention.has_triton():
        raise ConfigError("--dry_run needs Triton: pip install -r requirements/dev.txt")
    chosen = {"repeats": args.repeats, "dry_run": args.dry_run}
    for size, length in DRY_PLAN if args.dry_run else PLAN:
        for mode in (FORWARD, TRAINING):
            if not budget.allows_more:
                left.append(f"{size} {mode} {length}")
                continue
            with budget.spend(), interpreted(args.dry_run):
                found = measure_setting(size, mode, length, args, device)
            rows += found
            print(f"{timing.markdown(found, COLUMNS)}\n", flush=True)
            timing.write_result("gpu_table", rows, args.output_dir, chosen, COLUMNS)
    for setting in left:
        print(f"no time for {setting}")


@contextlib.contextmanager
def interpreted(is_dry_run: bool) -> Iterator[None]:
    """In a dry run let Triton's interpreter run the fused kernels, on the CPU."""
    before = attention.why_not_fused
    if is_dry_run:
        attention.why_not_fused = lambda q, ratio: None
    yield
    attention.why_not_fused = before


def measure_setting(
    size: str, mode: str, length: int, args: argparse.Namespace, device: torch.device
) -> list[timing.Row]:
    """Return one row per implementation; one that fails (out of memory) has a note instead."""
    batch = max(1, (DRY_TOKENS if args.dry_run else TOKENS) // length)
    # The interpreter of the fused kernels has no bfloat16.
    precision = FP32 if args.dry_run else BF16
    has_others = importlib.util.find_spec("transformers") is not None
    cases = {
        label: Case(model, size, mode, batch, length, precision, False, device.type, 1, kernel)
        for label, (model, kernel) in IMPLEMENTATIONS.items()
        if model == OURS or has_others
    }
    runs: dict[str, Callable[[], object]] = {}
    peaks, notes = {}, {}
    for label, case in cases.items():
        try:
            runs[label], peaks[label], notes[label] = prepare(case, device)
        # One implementation that fails must not end the run of all.
        except Exception as error:
            notes[label] = f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"
        empty_cache(device)
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    seconds = timing.interleave(runs, args.repeats, 0, args.clock, synchronize) if runs else {}
    empty_cache(device)
    peak = peak_tflops(device, precision)
    return [
        _row(label, case, seconds, peaks.get(label), peak) | {"note": notes[label]}
        for label, case in cases.items()
    ]


def prepare(case: Case, device: torch.device) -> tuple[Callable[[], object], int | None, str]:
    """Return a case that has run twice, its peak memory in bytes, and which attention it uses."""
    before = 0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    run, note = baselines.prepare(case), ""
    if case.model == BERT:
        run, note = with_flash(run)
    for _ in range(2 if device.type == "cuda" else 1):
        run()
    if device.type != "cuda":
        return run, None, note
    torch.cuda.synchronize()
    return run, torch.cuda.max_memory_allocated() - before, note


def with_flash(run: Callable[[], object]) -> tuple[Callable[[], object], str]:
    """Return ``run`` with flash attention and nothing else, or as it is where that is refused."""

    def restricted() -> object:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return run()

    try:
        restricted()
    except RuntimeError:
        return run, "flash refused"
    return restricted, "flash"


def _row(
    label: str,
    case: Case,
    seconds: dict[str, list[float]],
    peak_bytes: int | None,
    peak: float | None,
) -> timing.Row:
    setting = f"{case.size} {case.mode} {case.batch}x{case.length} {case.precision}"
    row: timing.Row = {**dataclasses.asdict(case), "setting": setting, "label": label}
    if label not in seconds:
        return row
    mine = seconds[label]
    typical = statistics.median(mine)
    for other, name in (("bert", "transformers BERT"), ("hf", "transformers Funnel")):
        if name in seconds:
            row[f"ratio_to_{other}"] = timing.median_ratio(mine, seconds[name])
    return row | {
        "ms": 1e3 * typical,
        "tokens_per_second": case.batch * case.length / typical,
        "mfu": None if peak is None else case.gflops / typical / 1e3 / peak,
        "peak_mib": None if peak_bytes is None else round(peak_bytes / 2**20),
        "seconds": mine,
    }


def empty_cache(device: torch.device) -> None:
    """Return the memory of what is gone to the GPU."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def measure_pretraining(args: argparse.Namespace, device: torch.device) -> None:
    """Time pretraining as the program does it and the bare model step, in turns."""
    import pretraining_rate

    budget = Budget(args.seconds)
    settings = pretraining_rate.DRY if args.dry_run else pretraining_rate.GPU
    with tempfile.TemporaryDirectory() as folder:
        pretraining_rate.run(settings, args, device, Path(folder), lambda: budget.allows_more)


PARTS = {
    "environment": check_environment,
    "table": measure_table,
    "pretraining": measure_pretraining,
}


def main() -> None:
    parser = timing.parser(__doc__)
    parser.add_argument("part", choices=tuple(PARTS), help="what to measure")
    parser.add_argument("--seconds", type=float, default=240.0, help="time for this part")
    parser.add_argument("--dry_run", action="store_true", help="tiny sizes, on the CPU")
    args = parser.parse_args()
    if not (args.dry_run or torch.cuda.is_available()):
        raise ConfigError("PyTorch sees no GPU here; --dry_run tries the same code on the CPU")
    if args.dry_run:
        args.repeats = 1
        torch.set_num_threads(1)
    PARTS[args.part](args, torch.device("cpu" if args.dry_run else "cuda"))


if __name__ == "__main__":
    run_main(main)
