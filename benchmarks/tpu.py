"""Compile the training steps of the published sizes for TPUs, and keep the compiler's figures.

No TPU is needed: see tensorflow/tpu_compile.py. Every step has a process of its own, which compiles
it for one TPU after the other. Figures are in the results file as soon as they are there, so a run
may be cut and started again: it compiles what is missing, in the order of the list, and with
--outdated also what was compiled from other code than that of today.

    python benchmarks/tpu.py                        # all of them: many hours on two cores
    python benchmarks/tpu.py --list                 # which are there, outdated and missing
    python benchmarks/tpu.py --only='B4-4-4H768 electra*'
    python benchmarks/tpu.py --merge=elsewhere/tpu.json
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import _paths  # noqa: F401

from funnel.utils.errors import DataError
from funnel.utils.files import atomic_write_json
from funnel.utils.main import run_main
from harness import timing

PROGRAM = timing.REPOSITORY / "tensorflow" / "tpu_compile.py"
PACKAGES = ("jax", "libtpu", "tensorflow", "tensorflow-cpu")
SIZES = ("B4-4-4H768", "B6-6-6H768", "B6-3x2-3x2H768", "B8-8-8H1024", "B10-10-10H1024")
TOPOLOGIES = ("v3-8", "v4-8", "v5e-4", "v6e-4")
# Program and length, with the batch of a core: 16 in pretraining, else an eighth of the recommended
# batch of a step, for the eight cores of a v3-8.
BATCHES = {
    ("electra", 512): 16,
    ("mlm", 512): 16,
    ("classifier", 128): 8,
    ("classifier", 512): 4,
    ("squad", 128): 6,
    ("squad", 512): 6,
    ("race", 512): 2,
}
COLUMNS = {
    "case": "size, program, length, TPU", "batch_per_core": "batch per core",
    "memory_gib": "memory, GiB", "teraflops": "TFLOP", "gigabytes": "GB accessed",
    "hbm_gigabytes": "of HBM", "milliseconds": "ms by peak", "cycle_milliseconds": "ms by cycles",
    "sequences_per_second": "sequences/s",
}  # fmt: skip
GIB = 2**30
_POLL_SECONDS = 0.2
# Otherwise each of the compiler's threads keeps freed memory of its own: a sixth more at the peak.
_ENVIRONMENT = {"MALLOC_ARENA_MAX": "1"}


@dataclass(frozen=True)
class Case:
    """A step to compile."""

    size: str
    program: str
    seq_len: int
    topology: str
    batch_per_core: int

    @property
    def name(self) -> str:
        """Key in the results file."""
        return f"{self.size} {self.program} {self.seq_len} {self.topology}"

    def flags(self) -> list[str]:
        """Return the flags of ``tpu_compile.py`` for the step, without those for the TPU."""
        return [
            f"--model_config={self.size}",
            f"--program={self.program}",
            f"--seq_len={self.seq_len}",
            f"--batch_per_core={self.batch_per_core}",
        ]


def list_cases() -> list[Case]:
    """Return all cases, those that are wanted most first, each once."""
    return list(dict.fromkeys(_ordered_cases()))


def _ordered_cases() -> Iterator[Case]:
    def cases(
        sizes: Sequence[str], steps: Sequence[tuple[str, int]], topologies: Sequence[str]
    ) -> Iterator[Case]:
        for size in sizes:
            for step in steps:
                for topology in topologies:
                    yield Case(size, *step, topology, BATCHES[step])

    small, electra = SIZES[:2], ("electra", 512)
    fine_tuning = [step for step in BATCHES if step[0] not in ("electra", "mlm")]
    yield from cases(SIZES[:1], [electra], TOPOLOGIES)
    yield from cases(SIZES[1:2], [electra], TOPOLOGIES[:1])
    yield from cases(small, fine_tuning, TOPOLOGIES[:1])
    yield from cases(SIZES, [electra], TOPOLOGIES[:1])
    yield from cases(SIZES, [electra], TOPOLOGIES)
    # A v2 core has half the memory: do the recommended batches of fine-tuning fit?
    yield from cases(SIZES, [("squad", 512), ("race", 512)], ["v2-8"])
    yield from cases(SIZES, fine_tuning, TOPOLOGIES)
    yield from cases(SIZES, [("mlm", 512)], TOPOLOGIES)


def source_fingerprint() -> str:
    """Return a hash of the code that decides what a step computes."""
    package = timing.REPOSITORY / "tensorflow" / "funnel_tf"
    files = [*package.glob("models/*.py"), package / "training" / "optimizer.py"]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def group_cases(cases: Sequence[Case]) -> list[list[Case]]:
    """Return the cases in lists of one step each, which only has to be lowered once."""
    groups: dict[tuple[str, ...], list[Case]] = {}
    for case in cases:
        groups.setdefault(tuple(case.flags()), []).append(case)
    return list(groups.values())


def compile_cases(cases: Sequence[Case], timeout: float, nice: int) -> Iterator[timing.Row]:
    """Compile the cases of a step in one process, and yield a row of each as it is ready.

    Args:
        cases: the same step for several TPUs.
        timeout: seconds for one of them.
        nice: added to the niceness of the process.

    Yields:
        A row; one with ``error`` is the last.
    """
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder) / "report.json", Path(folder) / "stderr"
        names = ",".join(case.topology for case in cases)
        command = [sys.executable, str(PROGRAM), *cases[0].flags()]
        command += [f"--topology={names}", f"--output={output}"]
        with errors.open("w") as stderr:
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=stderr, env=os.environ | _ENVIRONMENT,
                preexec_fn=lambda: os.nice(nice),
            )  # fmt: skip
        try:
            for place, case in enumerate(cases):
                reports = _await_report(process, output, place, timeout)
                if len(reports) > place:
                    yield _row(case) | read_report(reports[place])
                    continue
                code = process.poll()
                late = f"not ready after {timeout:.0f} s"
                error = late if code is None else f"exit code {code}: {_last_line(errors)}"
                yield _row(case) | {"error": error}
                return
        finally:
            process.kill()
            process.wait()


def _await_report(
    process: subprocess.Popen[bytes], output: Path, place: int, timeout: float
) -> list[dict[str, Any]]:
    """Wait for a further report, for the end of the process, or until the time is over."""
    end = time.monotonic() + timeout
    while True:
        has_ended = process.poll() is not None
        content = json.loads(output.read_text(encoding="utf-8")) if output.exists() else []
        reports = content if isinstance(content, list) else [content]
        if len(reports) > place or has_ended or time.monotonic() > end:
            return reports
        time.sleep(_POLL_SECONDS)


def _last_line(errors: Path) -> str:
    lines = errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "no message"


def _row(case: Case) -> timing.Row:
    row: timing.Row = {"case": case.name, **asdict(case), "source": source_fingerprint()}
    row["date"] = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return row | {"versions": _versions()}


def read_report(report: dict[str, Any]) -> timing.Row:
    """Return the part of a row that comes from the report of ``tpu_compile.py``."""
    kept = ("fits", "memory_of_device", "compile_seconds", "compile_cpu_seconds")
    row: timing.Row = {name: report[name] for name in kept}
    row |= {"devices": report["settings"]["devices"], "options": report["settings"]}
    figures = report["figures"]
    if figures is None:
        return row
    figures.pop("operations", None)
    row |= {"figures": figures, "memory_gib": figures["memory"] / GIB}
    row |= {"teraflops": figures["flops"] / 1e12, "gigabytes": figures["bytes_accessed"] / 1e9}
    row["hbm_gigabytes"] = figures["hbm_bytes"] / 1e9
    row["cycle_milliseconds"] = 1e3 * figures["cycle_seconds"]
    if figures["seconds"]:
        row["milliseconds"] = 1e3 * figures["seconds"]
    return row | {"sequences_per_second": report["sequences_per_second"]}


def load_rows(path: Path) -> dict[str, timing.Row]:
    """Return the rows of a results file by case; none if there is no such file.

    Raises:
        DataError: the file is not one that this program wrote.
    """
    if not path.exists():
        return {}
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        return {row["case"]: row for row in rows}
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path}: not what benchmarks/tpu.py writes") from None


def save_rows(path: Path, rows: dict[str, timing.Row]) -> None:
    """Write a results file, the rows in the order of :func:`list_cases`, others last."""
    places = {case.name: place for place, case in enumerate(list_cases())}
    ordered = sorted(rows.values(), key=lambda row: places.get(row["case"], len(places)))
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": timing.machine(), "settings": {}, "columns": COLUMNS, "rows": ordered}
    atomic_write_json(path, content)


def merge_rows(*parts: dict[str, timing.Row]) -> dict[str, timing.Row]:
    """Return the rows of all parts; of two for a case the later one, unless it failed."""
    merged: dict[str, timing.Row] = {}
    for row in (row for part in parts for row in part.values()):
        known = merged.get(row["case"])
        if known is None or _rank(row) >= _rank(known):
            merged[row["case"]] = row
    return merged


def _rank(row: timing.Row) -> tuple[bool, str]:
    return "error" not in row, row["date"]


def find_state(row: timing.Row | None, source: str) -> str:
    """Return ``missing``, ``failed``, ``outdated`` or ``there``."""
    if row is None:
        return "missing"
    if "error" in row:
        return "failed"
    return "there" if row["source"] == source else "outdated"


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    path = timing.RESULTS / "tpu.json"
    parser.add_argument("--output", type=Path, default=path, help="results file")
    parser.add_argument(
        "--only", default="*", help="cases to compile or list, e.g. '*electra*v3-8'"
    )
    parser.add_argument("--list", action="store_true", help="print the state of every case")
    parser.add_argument("--outdated", action="store_true", help="compile outdated cases, too")
    parser.add_argument("--merge", type=Path, help="add the rows of this file; compile nothing")
    parser.add_argument("--timeout", type=float, default=7200, help="seconds for a case")
    parser.add_argument("--nice", type=int, default=10, help="added to the compiler's niceness")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    rows, source = load_rows(args.output), source_fingerprint()
    if args.merge:
        if not args.merge.exists():
            raise DataError(f"--merge={args.merge}: there is no such file")
        rows = merge_rows(rows, load_rows(args.merge))
        save_rows(args.output, rows)
    chosen = [case for case in list_cases() if fnmatch(case.name, args.only)]
    if not chosen:
        raise DataError(f"--only={args.only}: no such case; --list prints all of them")
    if args.list or args.merge:
        for case in chosen:
            print(f"{find_state(rows.get(case.name), source):<10}{case.name}")
        return
    redone = ("missing", "failed", "outdated") if args.outdated else ("missing", "failed")
    # A compiler that is left alone would take its gigabytes until it is done.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    todo = [case for case in chosen if find_state(rows.get(case.name), source) in redone]
    for group in group_cases(todo):
        for row in compile_cases(group, args.timeout, args.nice):
            # Read again: another process may have added to the file.
            save_rows(args.output, merge_rows(load_rows(args.output), {row["case"]: row}))
            text = timing.markdown([row], COLUMNS).splitlines()[-1]
            print(text, row.get("error", ""), flush=True)


if __name__ == "__main__":
    run_main(main)
