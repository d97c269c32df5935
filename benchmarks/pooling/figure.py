"""Table and figure of ``benchmarks/pooled_blocks.py``."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness import timing
from pooling.variants import ELECTRA, VARIANTS

COLUMNS = {
    "change": "change", "loss": "held-out loss", "worth": "worth of the pooled blocks",
    "skip": "skip connection's share", "texts": "cosine, other texts", "rank": "rank",
    "update": "update, pooled / first", "seeds": "seeds",
}  # fmt: skip
Run = Mapping[str, Any]


def summarize(runs: Iterable[Run]) -> list[timing.Row]:
    """Return a row for each variant: means over the seeds, after the last step.

    ``texts`` and ``rank`` describe the output of the last block, ``update`` is the relative size of
    its last updates over that of the first block.
    """
    groups = defaultdict(list)
    for run in runs:
        groups[run["variant"]].append(run["measurements"])
    rows = []
    for name in [name for name in VARIANTS if name in groups]:
        last = [measurements[-1] for measurements in groups[name]]
        deepest = [end["states"][max(end["states"])] for end in last]
        rows.append(
            {
                "variant": name, "change": VARIANTS[name].change, "seeds": len(last),
                "loss": statistics.mean(end["loss"] for end in last),
                "worth": statistics.mean(end["worth"] for end in last),
                "skip": statistics.mean(end["skip_share"] for end in last),
                "texts": statistics.mean(states["texts"] for states in deepest),
                "rank": statistics.mean(states["rank"] for states in deepest),
                "update": statistics.mean(_update_ratio(m) for m in groups[name]),
            }
        )  # fmt: skip
    return rows


def _update_ratio(measurements: list[Mapping[str, Any]]) -> float:
    """Return the median over training of the deepest block's relative update over the first's."""
    ratios = []
    for row in measurements:
        if norms := row.get("norms"):
            deepest = max(name for name in norms if name.startswith("block"))
            ratios.append(norms[deepest]["update"] / norms["block 1"]["update"])
    return statistics.median(ratios)


def draw(runs: Iterable[Run], path: Path) -> None:
    """Draw curves over the share of training, the mean of the seeds: loss, worth, cosine, rank."""
    from matplotlib.figure import Figure

    groups = defaultdict(list)
    for run in runs:
        if VARIANTS[run["variant"]].loss_type != ELECTRA:  # another loss
            groups[run["variant"]].append(run["measurements"])
    figure = Figure(figsize=(10, 8), layout="constrained")
    panels = figure.subplots(2, 2).ravel()
    values = {
        "held-out loss": lambda row: row["loss"],
        "worth of the pooled blocks (loss without them, minus loss)": lambda row: row["worth"],
        "last block: cosine between texts, same position": lambda row: _deepest(row)["texts"],
        "last block: rank of its outputs": lambda row: _deepest(row)["rank"],
    }
    for axes, (title, value) in zip(panels, values.items(), strict=True):
        # Ten colours, so the eleventh variant is dashed.
        for index, (name, variant) in enumerate(VARIANTS.items()):
            if name in groups:
                rows = zip(*groups[name], strict=True)
                means = [statistics.mean(map(value, seeds)) for seeds in rows]
                steps = [row["step"] / groups[name][0][-1]["step"] for row in groups[name][0]]
                width = 2.5 if name in ("plain", "stack", "stack_late") else 1.0
                style = {"color": f"C{index % 10}", "linestyle": "--" if index >= 10 else "-"}
                axes.plot(steps, means, label=variant.change, linewidth=width, **style)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("share of training")
        axes.grid(alpha=0.3)
    lines = panels[0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=3, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _deepest(row: Mapping[str, Any]) -> Mapping[str, float]:
    return row["states"][max(row["states"])]
