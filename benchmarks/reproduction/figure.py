"""Tables and the figure of ``benchmarks/reproduce.py``."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from harness import timing

COLUMNS = {
    "task": "task", "blocks": "blocks", "change": "change", "initial": "weights",
    "gflops": "GFLOPs per example", "seconds": "s of training", "metric": "metric",
    "baseline": "guessing", "score": "score", "error": "standard error", "seeds": "seeds",
    "others": "other metrics",
}  # fmt: skip
_GROUP = ("task", "blocks", "change", "initial")


def summarize(rows: Iterable[timing.Row]) -> list[timing.Row]:
    """Return mean score, its standard error and the median seconds of the seeds of each case."""
    groups = defaultdict(list)
    for row in rows:
        groups[tuple(row[name] for name in _GROUP)].append(row)
    table = []
    for key, runs in groups.items():
        scores = [run["score"] for run in runs]
        error = statistics.stdev(scores) / len(scores) ** 0.5 if len(scores) > 1 else None
        table.append(
            dict(zip(_GROUP, key, strict=True))
            | {"score": statistics.mean(scores), "error": error, "seeds": len(runs)}
            | {"seconds": statistics.median(run["seconds"] for run in runs)}
            | {"gflops": runs[0]["gflops"], "metric": runs[0]["metric"]}
            | {"baseline": runs[0].get("baseline"), "others": _describe_others(runs)}
        )
    return table


def _describe_others(runs: list[timing.Row]) -> str | None:
    """Return the means of further metrics as text; None if there are none."""
    names = runs[0].get("other_scores", {})
    means = {name: statistics.mean(run["other_scores"][name] for run in runs) for name in names}
    return ", ".join(f"{name} {mean:.3f}" for name, mean in means.items()) or None


def plot_sizes(table: Iterable[timing.Row], path: Path) -> None:
    """Plot score over FLOPs (left) and over seconds of training (right), a row per task."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in table if not row["change"]]
    tasks = sorted({row["task"] for row in rows})
    size = (9, 3.2 * len(tasks))
    figure, axes = pyplot.subplots(len(tasks), 2, figsize=size, squeeze=False, sharey="row")
    for task, (left, right) in zip(tasks, axes, strict=True):
        for is_funnel, color in ((False, "tab:gray"), (True, "tab:blue")):
            for initial in sorted({row["initial"] for row in rows}):
                line = [
                    row
                    for row in rows
                    if (row["task"], row["initial"]) == (task, initial)
                    and ("_" in row["blocks"]) == is_funnel
                ]
                line.sort(key=lambda row: row["gflops"])
                name = f"{'Funnel' if is_funnel else 'Transformer'}, {initial}"
                style = {"color": color, "marker": "o", "capsize": 3, "label": name}
                style |= {"linestyle": ":" if initial == "random" else "-"}
                scores = [row["score"] for row in line]
                errors = [row["error"] or 0.0 for row in line]
                left.errorbar([row["gflops"] for row in line], scores, errors, **style)
                right.errorbar([row["seconds"] for row in line], scores, errors, **style)
        left.set(title=task, xlabel="GFLOPs per text, forward", ylabel=line_label(rows, task))
        right.set(title=task, xlabel="seconds of fine-tuning")
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def line_label(rows: Iterable[timing.Row], task: str) -> str:
    """Return the name of a task's metric."""
    return next(row["metric"] for row in rows if row["task"] == task)
