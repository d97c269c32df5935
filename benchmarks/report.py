"""Turn the results of all benchmarks into tables and a plot.

Reads every JSON file in the results directory; writes README.md there, and a plot of the
time of our encoder relative to the baselines.

    python benchmarks/report.py --results=benchmarks/results --plot=docs/benchmarks.png
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _paths  # noqa: F401

from funnel.utils.errors import DataError
from funnel.utils.files import atomic_path, atomic_write_text
from funnel.utils.main import run_main
from harness import timing

TITLES = {
    "models": "Encoders",
    "branches": "CPU branches",
    "bench_text": "Text",
    "input_pipeline": "Input of pretraining",
    "tensorflow_step": "TensorFlow",
    "finetuning": "Fine-tuning",
    "int8": "int8",
    "prediction": "Prediction",
    "tpu": "TPU, by the compiler's account",
}
SETTING = ("size", "mode", "batch", "length", "precision", "compiled", "device", "threads")
COLUMNS = {
    "setting": "", "ms": "ours, ms", "tokens_per_second": "tokens/s", "ratio_to_hf": "/ Funnel",
    "ratio_to_bert": "/ BERT", "flops_to_bert": "FLOPs / BERT", "peak_mib": "peak, MiB",
    "memory_to_hf": "peak / Funnel", "memory_to_bert": "peak / BERT",
}  # fmt: skip
LABELS = {"hf": "transformers Funnel", "bert": "transformers BERT, SDPA", "ours": "ours"}
Result = dict[str, Any]
Setting = tuple[Any, ...]


def load_results(folder: Path) -> dict[str, Result]:
    """Return the results by name, in the order of TITLES, others (e.g. of a GPU) last.

    Raises:
        DataError: no results, or a file is not a result.
    """
    results = {}
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            complete = isinstance(content["machine"], dict) and len(content["rows"]) > 0
        except (ValueError, KeyError, TypeError):
            complete = False
        if not complete:
            raise DataError(f"{path}: not what timing.write_result writes")
        results[path.stem] = content
    if not results:
        raise DataError(f"{folder}: no results in it; `make bench` makes them")
    order = list(TITLES)
    places = {name: order.index(name) if name in TITLES else len(order) for name in results}
    return dict(sorted(results.items(), key=lambda item: places[item[0]]))


def by_setting(rows: Sequence[timing.Row]) -> dict[Setting, dict[str, timing.Row]]:
    """Return the rows of benchmarks/models.py by setting and model."""
    found: dict[Setting, dict[str, timing.Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in SETTING), {})[row["model"]] = row
    return found


def compared(rows: Sequence[timing.Row]) -> list[timing.Row]:
    """Return one row per setting: our figures, and ratios to the other models."""
    table = []
    for models in by_setting(rows).values():
        if (ours := models.get("ours")) is None:
            continue
        row = {**ours, "setting": describe(ours)}
        for other in ("hf", "bert"):
            theirs = models.get(other, {})
            if ours["peak_mib"] and theirs.get("peak_mib"):
                row[f"memory_to_{other}"] = ours["peak_mib"] / theirs["peak_mib"]
        if "bert" in models:
            row["flops_to_bert"] = ours["gflops"] / models["bert"]["gflops"]
        table.append(row)
    return table


def describe(row: timing.Row) -> str:
    """Describe a setting."""
    parts = [row["size"], row["mode"], f"{row['batch']}×{row['length']}", row["precision"]]
    return " ".join(parts + ["compiled"] * row["compiled"])


def section(name: str, result: Result) -> str:
    """Format a result as Markdown: title, machine, settings, table."""
    kind = next((kind for kind in TITLES if name.startswith(kind)), name)
    title = TITLES.get(kind, name) + ("" if name == kind else f" ({name.removeprefix(kind)[1:]})")
    rows = result["rows"]
    if kind == "models":
        table = timing.markdown(compared(rows), COLUMNS)
    else:
        table = timing.markdown(rows, result.get("columns") or _plain_columns(rows[0]))
    settings = ", ".join(f"{key} {value}" for key, value in result["settings"].items())
    parts = [f"## {title}", machine_line(result["machine"]), settings, table]
    return "\n\n".join(filter(None, parts)) + "\n"


def _plain_columns(row: timing.Row) -> dict[str, str]:
    return {key: key for key, value in row.items() if not isinstance(value, list | dict)}


def machine_line(machine: dict[str, Any]) -> str:
    """Describe machine and date of a measurement."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    hardware = f"{machine['cpu']}, {machine['cores']} cores"
    if gpu := machine.get("gpu"):
        hardware = f"{gpu} ({hardware})"
    return f"{machine['date']}, revision {machine['revision']}; {hardware}; {versions}"


def plot(results: dict[str, Result], path: Path) -> bool:
    """Plot the time relative to BERT by length, one row of axes per file.

    Shows eager runs of the first size, in bf16 for GPUs and fp32 otherwise. Returns whether there
    was anything to plot.
    """
    from matplotlib.figure import (
        Figure,
    )  # not pyplot, which keeps global state and selects a display

    shown = {
        name: found for name, result in results.items()
        if name.startswith("models") and (found := _drawable(result["rows"]))
    }  # fmt: skip
    if not shown:
        return False
    figure = Figure(figsize=(9, 3.2 * len(shown)), layout="constrained")
    grid = figure.subplots(len(shown), 2, squeeze=False, sharey="row")
    for axes, (name, found) in zip(grid, shown.items(), strict=True):
        for place, mode in zip(axes, ("forward", "training"), strict=True):
            _draw_bars(place, [models for models in found if models["ours"]["mode"] == mode])
            machine = results[name]["machine"]
            place.set_title(f"{mode}, {machine.get('gpu') or machine['cpu']}", fontsize=10)
        axes[0].set_ylabel("time, BERT = 1")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, ncols=len(labels), loc="outside upper center")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100)
    return True


def _drawable(rows: Sequence[timing.Row]) -> list[dict[str, timing.Row]]:
    size = rows[0]["size"]
    precision = {"cuda": "bf16", "cpu": "fp32"}
    return [
        models for models in by_setting(rows).values()
        if set(models) == set(LABELS)
        and models["ours"]["size"] == size
        and models["ours"]["precision"] == precision[models["ours"]["device"]]
        and not models["ours"]["compiled"]
    ]  # fmt: skip


def _draw_bars(axes: Any, found: Sequence[dict[str, timing.Row]]) -> None:
    width = 0.8 / len(LABELS)
    for number, (model, label) in enumerate(LABELS.items()):
        places = [place + (number - 1) * width for place in range(len(found))]
        heights = [models[model]["ratio_to_bert"] for models in found]
        bars = axes.bar(places, heights, width * 0.92, label=label, color=f"C{number}")
        axes.bar_label(bars, fmt="%.2f", fontsize=8)
    shapes = [f"{m['ours']['batch']}×{m['ours']['length']}" for m in found]
    sizes = {m["ours"]["size"] for m in found}
    axes.set_xticks(range(len(found)), shapes)
    axes.set_xlabel(f"batch × length{', ' if sizes else ''}{', '.join(sizes)}")
    axes.margins(y=0.12)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=timing.RESULTS, help="directory of results")
    picture = timing.REPOSITORY / "docs" / "benchmarks.png"
    parser.add_argument("--plot", type=Path, default=picture, help="file of the plot")
    args = parser.parse_args()
    results = load_results(args.results)
    sections = [section(name, result) for name, result in results.items()]
    head = "# Results\n\nWritten by `make bench`; ../README.md explains the figures.\n"
    atomic_write_text(args.results / "README.md", "\n".join([head, *sections]))
    print("\n".join(sections))
    print(args.results / "README.md")
    if plot(results, args.plot):
        print(args.plot)


if __name__ == "__main__":
    run_main(main)
