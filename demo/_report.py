"""The demo's table, picture and conclusion."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import _paths  # noqa: F401

from _baselines import Score
from funnel.utils.files import atomic_path

ROOT = Path(__file__).resolve().parents[1]
Results = Mapping[str, Mapping[str, Score]]
COLUMNS = ("test accuracy", "training", "1,000 predictions")
COLOURS = {"Transformer": "C0", "Funnel": "C1"}
NEXT = """\
Next steps:
  look at the curves   {bin}tensorboard --logdir {output}
  predict a text       {python} pytorch/predict.py --model={output}/topic/funnel_pretrained \
--input=texts.txt --output=predictions.csv
  your own csv files   {python} pytorch/classifier.py --dataset=csv --data_dir=DIR \
--text_column=text --label_column=label --tokenizer_path=demo/pretrained/vocab.txt \
--init_ckpt=demo/pretrained --overwrite_keys=dropout,dropatt,block_size --block_size=2_2_2 \
--lr={lr:g} --model_dir=runs/mine
  a released model     {python} pytorch/classifier.py --dataset=RTE --data_dir=GLUE/RTE \
--init_ckpt=B4-4-4H768-ELEC-PT --tokenizer_path=B4-4-4H768-ELEC-PT/vocab.uncased.txt \
--lr=2e-5 --model_dir=runs/rte"""


def standard_error(accuracy: float, count: int) -> float:
    """Return the standard error of a share among ``count`` texts."""
    return math.sqrt(accuracy * (1 - accuracy) / count)


def format_table(results: Results, titles: Mapping[str, str], count: int) -> str:
    """Return the table: for each task accuracy with standard error, and seconds.

    Args:
        results: {task: {model: score}}.
        titles: {task: heading}.
        count: test texts.
    """
    cells = [["", *COLUMNS * len(results)]]
    for name in next(iter(results.values())):
        line = [name]
        for scores in results.values():
            line += _cells(scores[name], count)
        cells.append(line)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for first, *others in cells:
        padded = (text.rjust(width) for text, width in zip(others, widths[1:], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *padded]).rstrip())
    group = sum(widths[1 : 1 + len(COLUMNS)]) + 2 * (len(COLUMNS) - 1)
    head = "  ".join(titles[task].center(group) for task in results)
    return "\n".join(
        [f"{'':{widths[0]}}  {head}".rstrip(), lines[0], "-" * len(lines[0]), *lines[1:]]
    )


def _cells(score: Score, count: int) -> list[str]:
    """Return accuracy, training seconds and prediction seconds as text."""
    error = 100 * standard_error(score.accuracy, count)
    train, predict = score.train_seconds, score.predict_seconds
    return [
        f"{100 * score.accuracy:.1f} % +- {error:.1f}",
        "" if train is None else f"{train:.1f} s",
        "" if predict is None else f"{predict:.2f} s",
    ]


def summarize(results: Results, count: int) -> str:
    """Return the gain of pretraining, and Funnel against Transformer, on each task."""
    lines = []
    for task, scores in results.items():
        for model in COLOURS:
            gain = _points(scores[f"{model}, random"], scores[f"{model}, pretrained"], count)
            lines.append(f"{task}: {model}, pretrained against random: {gain}")
        full, pooled = scores["Transformer, pretrained"], scores["Funnel, pretrained"]
        text = f"{task}: Funnel against Transformer, pretrained: {_points(full, pooled, count)}"
        if full.train_seconds and pooled.train_seconds:
            share = 100 * pooled.train_seconds / full.train_seconds
            text += f", {share:.0f} % of the training time"
        if full.predict_seconds and pooled.predict_seconds:
            share = 100 * pooled.predict_seconds / full.predict_seconds
            text += f", {share:.0f} % of the prediction time"
        lines.append(text)
    return "\n".join(lines)


def _points(before: Score, after: Score, count: int) -> str:
    """Return the difference with its standard error, as of two independent samples."""
    errors = (standard_error(score.accuracy, count) for score in (before, after))
    difference = 100 * (after.accuracy - before.accuracy)
    return f"{difference:+.1f} points (+- {100 * math.hypot(*errors):.1f})"


def draw(results: Results, titles: Mapping[str, str], count: int, output_png: Path) -> None:
    """Draw test accuracy over seconds of training, a panel per task; baselines are lines."""
    from matplotlib.figure import Figure  # not pyplot, which has global state and needs a display

    figure = Figure(figsize=(5.4 * len(results), 3.9), layout="constrained")
    panels = figure.subplots(1, len(results), squeeze=False)[0]
    for axes, (task, scores) in zip(panels, results.items(), strict=True):
        is_model = {name: name.partition(", ")[0] in COLOURS for name in scores}
        _draw_baselines(axes, {name: s for name, s in scores.items() if not is_model[name]})
        for model, colour in COLOURS.items():
            ends = []
            for weights in ("random", "pretrained"):
                name = f"{model}, {weights}"
                ends.append(_draw_model(axes, name, scores[name], count))
            arrow = {"arrowstyle": "->", "color": colour, "alpha": 0.5, "shrinkA": 9, "shrinkB": 9}
            axes.annotate("", ends[1], xytext=ends[0], arrowprops=arrow)
        longest = max(s.train_seconds or 0 for s in scores.values())
        axes.set_xlim(0, 1.75 * longest)
        axes.set_ylim(0, 14 + 100 * max(s.accuracy for s in scores.values()))
        axes.set_xlabel("seconds of training on a CPU")
        axes.set_title(titles[task], fontsize=10)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("test accuracy in %")
    with atomic_path(output_png) as temporary:
        figure.savefig(temporary, dpi=110)


def _draw_model(axes: Any, name: str, score: Score, count: int) -> tuple[float, float]:
    """Draw a point with its standard error, hollow for random weights; return its place."""
    model, _, weights = name.partition(", ")
    percent, seconds = 100 * score.accuracy, score.train_seconds or 0.0
    axes.errorbar(
        seconds,
        percent,
        yerr=100 * standard_error(score.accuracy, count),
        fmt="o",
        color=COLOURS[model],
        markerfacecolor=COLOURS[model] if weights == "pretrained" else "white",
        markersize=9,
        capsize=4,
    )
    axes.annotate(
        f"{name}\n{percent:.1f} %, {seconds:.0f} s",
        (seconds, percent),
        # To the left of the Funnel's points, to the right of the slower Transformer's.
        xytext=(9 if model == "Transformer" else -9, 4 if weights == "pretrained" else -9),
        textcoords="offset points",
        ha="left" if model == "Transformer" else "right",
        va="bottom" if weights == "pretrained" else "top",
        fontsize=8,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
    )
    return seconds, percent


def _draw_baselines(axes: Any, baselines: Mapping[str, Score]) -> None:
    """Draw labelled horizontal lines; those closer than four points share a label."""
    labels: list[tuple[float, str]] = []
    for name, score in sorted(baselines.items(), key=lambda item: item[1].accuracy):
        percent = 100 * score.accuracy
        axes.axhline(percent, color="0.4", linestyle="--", linewidth=1)
        label = f"{name}\n{percent:.1f} %"
        if labels and percent - labels[-1][0] < 4:
            label = f"{label}\n{labels.pop()[1]}"
        labels.append((percent, label))
    for percent, label in labels:
        axes.annotate(
            label,
            (1.01, percent),  # to the right of the panel
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=7.5,
            annotation_clip=False,
            color="0.3",
        )


def next_steps(output: Path, lr: float) -> str:
    """Return command lines to go on with, for the interpreter in use."""
    python, bin_prefix = Path(sys.executable), ""
    is_ours = python.is_relative_to(ROOT)
    if is_ours and python.with_name("tensorboard").exists():
        bin_prefix = f"{python.parent.relative_to(ROOT)}/"
    shown = python.relative_to(ROOT) if is_ours else "python"
    return NEXT.format(output=output, python=shown, bin=bin_prefix, lr=lr)
