"""Interleaved timing, peak memory, machine description, result files and tables.

Ratios are meaningful only between cases that are interleaved in one process, where load from
outside affects all of them. A ratio is therefore the median of the ratios of all rounds; the times
of all rounds are stored, too.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import importlib.metadata
import multiprocessing
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import _paths  # noqa: F401

from funnel.utils.errors import FunnelError
from funnel.utils.files import atomic_write_json
from funnel.utils.processes import count_cores

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = REPOSITORY / "benchmarks" / "results"
PACKAGES = (
    "numpy", "tokenizers", "torch", "transformers", "triton", "tensorflow", "tensorflow-cpu",
)  # fmt: skip
# Load from other processes affects CPU time less than wall time. CPU time sums over threads, so it
# serves comparisons on one thread only.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
Row = dict[str, Any]
Step = Callable[[], object]


def parser(doc: str) -> argparse.ArgumentParser:
    """Return a parser with the flags of every benchmark; ``doc`` is the script's docstring."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--repeats", type=int, default=5, help="counted rounds")
    made.add_argument("--threads", type=int, default=1, help="threads of the framework")
    made.add_argument("--clock", choices=tuple(CLOCKS), default="wall", help="cpu: one thread only")
    made.add_argument("--quick", action="store_true", help="tiny settings, to check that it runs")
    made.add_argument("--output_dir", type=Path, default=RESULTS, help="directory of the JSON file")
    return made


def interleave(
    cases: Mapping[str, Step],
    repeats: int = 5,
    warmup: int = 1,
    clock: str = "wall",
    synchronize: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """Return the seconds of every case in every counted round; the cases are interleaved.

    Every round has an order of its own: what ran before leaves memory and caches in a state that
    favours some, and that must not be the same ones always.

    Args:
        cases: callables by name.
        repeats: counted rounds.
        warmup: rounds before the counted ones.
        clock: one of CLOCKS.
        synchronize: waits for asynchronous work (``torch.cuda.synchronize``).
    """
    if repeats < 1:
        raise FunnelError(f"--repeats={repeats}: must be at least 1")
    now = CLOCKS[clock]
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for round_number in range(warmup + repeats):
        order = list(cases)
        random.Random(round_number).shuffle(order)
        for name in order:
            gc.collect()
            synchronize()
            begin = now()
            cases[name]()
            synchronize()
            if round_number >= warmup:
                seconds[name].append(now() - begin)
    return seconds


def median_ratio(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the median of the ratios ``a / b`` of all rounds."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def peak_memory(
    prepare: Callable[[], Step],
    device: str = "cpu",
    runs: int = 2,
    rehearsal: Callable[[], Step] | None = None,
) -> int | None:
    """Return the peak memory of a case in bytes, including weights and optimizer state.

    On a CPU a separate process builds and runs the case; the result is its peak resident memory
    minus the memory before. There glibc returns every large block as soon as it is freed, so that
    fragmentation does not count. On a GPU, PyTorch's allocator is read in this process.

    Args:
        prepare: builds the case and returns a callable; picklable (a ``functools.partial`` of a
            function of a module).
        device: ``cpu`` or ``cuda``.
        runs: number of calls; the first one allocates the optimizer state.
        rehearsal: a tiny case to run first, since libraries load code on first use.

    Returns:
        None where the system does not provide it (no ``/proc``).
    """
    if device != "cpu":
        return _peak_on_gpu(prepare, runs)
    with _exact_allocator():
        return _memory_server().submit(_peak_in_fork, prepare, runs, rehearsal).result()


def machine() -> dict[str, Any]:
    """Return date, hardware, versions and settings that a figure depends on."""
    facts: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "revision": _revision(),
        "cpu": _cpu_model(),
        "cores": count_cores(),
        "load_average": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
    if (torch := sys.modules.get("torch")) is not None:
        facts["threads"] = torch.get_num_threads()
        facts["instructions"] = torch.backends.cpu.get_cpu_capability()
        if torch.cuda.is_available():
            facts["gpu"] = torch.cuda.get_device_name()
            facts["cuda"] = torch.version.cuda
    facts["versions"] = {name: v for name in PACKAGES if (v := _version(name))}
    names = sorted(
        name
        for name in os.environ
        if re.match("MALLOC_|OMP_NUM|TF_ENABLE_ONE|ONEDNN_MAX|MKL_ENABLE|ATEN_CPU", name)
    )
    facts["environment"] = {name: os.environ[name] for name in names}
    return facts


def write_result(
    name: str,
    rows: Sequence[Row],
    directory: str | os.PathLike[str] = RESULTS,
    settings: Mapping[str, Any] | None = None,
    columns: Mapping[str, str] | None = None,
) -> Path:
    """Write ``directory/name.json`` and return its path.

    The file contains the rows, the machine, the ``settings`` of the measurement, and the
    ``columns`` of a table of the rows (see :func:`markdown`).
    """
    path = Path(directory) / f"{name}.json"
    content = {"machine": machine(), "settings": dict(settings or {})}
    atomic_write_json(path, content | {"columns": dict(columns or {}), "rows": list(rows)})
    return path


def markdown(rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    """Format ``rows`` as a Markdown table; ``columns`` are keys with their headings.

    Numbers are rounded to three significant digits; missing values are dashes.
    """
    lines = [f"| {' | '.join(columns.values())} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(_cell(row.get(key)) for key in columns)} |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, int) or (isinstance(value, float) and abs(value) >= 1000):
        return f"{value:,.0f}"
    if isinstance(value, float):
        digits = 2 if abs(value) >= 1 else 3
        return f"{value:.{digits}f}" if abs(value) < 10 else f"{value:.3g}"
    return str(value)


def _peak_on_gpu(prepare: Callable[[], Step], runs: int) -> int:
    import torch

    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run = prepare()
    for _ in range(runs):
        run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


@functools.cache
def _memory_server() -> ProcessPoolExecutor:
    """Return a server process that imports the libraries once and forks for every case.

    The benchmark process itself cannot fork, because PyTorch's threads do not survive a fork.
    """
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def _peak_in_fork(*arguments: Any) -> int | None:
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(1, mp_context=fork) as pool:
        return pool.submit(_peak_in_child, *arguments).result()


def _peak_in_child(
    prepare: Callable[[], Step], runs: int, rehearsal: Callable[[], Step] | None
) -> int | None:
    if not Path("/proc/self/status").exists():
        return None
    if rehearsal is not None:
        rehearsal()()
        gc.collect()
    before = _resident("VmRSS")
    run = prepare()
    with contextlib.suppress(OSError):  # resetting the peak is not supported everywhere
        Path("/proc/self/clear_refs").write_text("5")
    for _ in range(runs):
        run()
    return _resident("VmHWM") - before


def _resident(key: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"^{key}:\s+(\d+) kB", status, re.MULTILINE).group(1)) * 1024


@contextlib.contextmanager
def _exact_allocator() -> Iterator[None]:
    """Make glibc in child processes return freed blocks above 64 KiB immediately."""
    before = dict(os.environ)
    for name in [name for name in before if name.startswith("MALLOC_")]:
        del os.environ[name]
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(1 << 16)
    try:
        yield
    finally:
        del os.environ["MALLOC_MMAP_THRESHOLD_"]
        os.environ.update(before)


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
        if found:
            return found.group(1)
    return platform.processor() or platform.machine()


def _revision() -> str | None:
    """Return the commit, with a plus sign if the working tree differs from it."""
    git = ["git", "-C", str(REPOSITORY)]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        run = {"capture_output": True, "text": True, "check": True}
        commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], **run).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], **run).stdout.strip()
        return commit + ("+" if changed else "")
    return None


def _version(package: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None
