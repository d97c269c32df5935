"""Results of several runs of one command: mean, deviation and median over seeds, and the best."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from funnel.utils.errors import RunError
from funnel.utils.json_files import read_json_object
from funnel.utils.run_directory import BEST_RESULT, PROGRESS

# Marks a PyTorch run whose results after training are not complete.
RESULTS_PENDING = ".results_pending"
# A metric by which a result is known to be in percent already: SQuAD's.
_IN_PERCENT = ("exact", "exact_match", "best_f1")


@dataclass(frozen=True)
class RunResult:
    """The best evaluation of a finished run; ``score`` is NaN if it was not finite."""

    split: str
    metric: str
    score: float
    step: int
    scores: Mapping[str, Mapping[str, float]]

    @property
    def higher_is_better(self) -> bool:
        """Whether the metric is a score, and not a loss."""
        return not self.metric.endswith("loss")

    @property
    def shown(self) -> float:
        """The score as papers print it: percent, but a loss as it is."""
        is_fraction = self.higher_is_better and not set(_IN_PERCENT) & set(self.scores[self.split])
        return 100.0 * self.score if is_fraction else self.score


@dataclass(frozen=True)
class SeriesRun:
    """A run of a series.

    Attributes:
        name: of its directory.
        values: the flags in which it differs from others, without the seed.
        seed: None if the series does not vary it.
        result: None if it failed or has not run.
        failure: one line about it; empty if it did not fail.
    """

    name: str
    values: Mapping[str, str]
    seed: str | None
    result: RunResult | None = None
    failure: str = ""


@dataclass(frozen=True)
class Point:
    """The scores of the runs that differ in their seeds only, as :attr:`RunResult.shown`."""

    values: Mapping[str, str]
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean score."""
        return statistics.fmean(self.scores)

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation; None for a single run."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None

    @property
    def median(self) -> float:
        """Median score."""
        return statistics.median(self.scores)


def read_result(folder: Path) -> RunResult | None:
    """Return the result of a finished run in either backend; None if it is not finished.

    Raises:
        RunError: it is finished, but without an evaluation, or its record is corrupt.
    """
    places = [folder / "last" / PROGRESS, folder / PROGRESS]
    found = next((path for path in places if path.is_file()), None)
    is_finished = found is not None and read_json_object(found, RunError).get("finished")
    if not is_finished or (folder / RESULTS_PENDING).exists():
        return None
    path = folder / BEST_RESULT
    if not path.is_file():
        raise RunError(f"{folder}: is finished, but has no {BEST_RESULT}: nothing was evaluated")
    record = read_json_object(path, RunError)
    try:
        score = math.nan if record["score"] is None else float(record["score"])
        split, metric, step = str(record["split"]), str(record["metric"]), int(record["step"])
        scores = {name: dict(values) for name, values in record["scores"].items()}
        scores[split][metric]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{path}: is no record of a best model ({error!r})") from None
    return RunResult(split, metric, score, step, scores)


def points(runs: Iterable[SeriesRun]) -> list[Point]:
    """Return the finished runs by their values, in the order of the series."""
    found: dict[tuple[tuple[str, str], ...], list[float]] = {}
    for run in runs:
        if run.result is not None:
            found.setdefault(tuple(run.values.items()), []).append(run.result.shown)
    return [Point(dict(values), tuple(scores)) for values, scores in found.items()]


def best_run(runs: Sequence[SeriesRun]) -> SeriesRun | None:
    """Return the finished run with the best score, the first of several; None without one."""
    finished = [run for run in runs if run.result is not None and math.isfinite(run.result.score)]
    if not finished:
        return None
    return _best(finished, _result(finished[0]), lambda run: _result(run).score)


def best_point(runs: Sequence[SeriesRun]) -> Point | None:
    """Return the values with the best median, the first of several; None without a score."""
    results = [run.result for run in runs if run.result is not None]
    found = [point for point in points(runs) if math.isfinite(point.median)]
    return _best(found, results[0], lambda point: point.median) if found else None


def _best(items: Sequence[Any], kind: RunResult, score: Any) -> Any:
    return max(items, key=score) if kind.higher_is_better else min(items, key=score)


def _result(run: SeriesRun) -> RunResult:
    assert run.result is not None
    return run.result


def to_json(task: str, command: Sequence[str], runs: Sequence[SeriesRun]) -> dict[str, Any]:
    """Return everything about a series as JSON values."""
    best, chosen = best_run(runs), best_point(runs)
    return {
        "task": task,
        "command": list(command),
        "runs": [_run_json(run) for run in runs],
        "points": [_point_json(point) for point in points(runs)],
        "best_run": None if best is None else best.name,
        "best_median": None if chosen is None else _point_json(chosen),
    }


def _run_json(run: SeriesRun) -> dict[str, Any]:
    record: dict[str, Any] = {"name": run.name, "values": dict(run.values), "seed": run.seed}
    if run.failure:
        record["failure"] = run.failure
    if run.result is not None:
        score = run.result.score
        record |= {
            "split": run.result.split,
            "metric": run.result.metric,
            "score": score if math.isfinite(score) else None,
            "step": run.result.step,
            "scores": run.result.scores,
        }
    return record


def _point_json(point: Point) -> dict[str, Any]:
    record = {
        "values": dict(point.values),
        "runs": len(point.scores),
        "mean": point.mean,
        "sd": point.deviation,
        "median": point.median,
        "min": min(point.scores),
        "max": max(point.scores),
    }
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in record.items()
    }


def to_markdown(task: str, command: str, runs: Sequence[SeriesRun]) -> str:
    """Return the tables of a series: one line per set of values, then the paper's form."""
    lines = [f"# {task}", "", f"{len(runs)} runs of `{command}`", ""]
    failed = [run for run in runs if run.failure]
    lines += [f"- **{run.name} failed**: {run.failure}" for run in failed]
    lines += [""] if failed else []
    results = [run.result for run in runs if run.result is not None]
    if not results:
        return "\n".join([*lines, "No run is finished.", ""])
    names, first = list(runs[0].values), results[0]
    lines += _table(
        [*names, "runs", "mean ± sd", "median", "min", "max"],
        [
            [*(point.values[name] for name in names), *_figures(point, first.higher_is_better)]
            for point in points(runs)
        ],
    )
    unit = "" if not first.higher_is_better else ", in percent"
    lines += ["", f"{first.split} {first.metric}{unit}; sd: sample standard deviation."]
    if (best := best_run(runs)) is not None:
        lines += ["", f"Best run: `{best.name}`, {_result(best).shown:.2f}."]
    if (point := best_point(runs)) is not None:
        count = len(point.scores)
        values = ", ".join(f"{name} {value}" for name, value in point.values.items())
        row = [task, first.metric, f"{point.median:.1f}", *([values] if values else [])]
        head = ["task", "metric", f"median of {count}", *(["at"] if values else [])]
        lines += ["", "In the paper's form (the best median):", "", *_table(head, [row])]
    return "\n".join([*lines, ""])


def _figures(point: Point, is_score: bool) -> list[str]:
    digits = 2 if is_score else 4
    spread = "" if point.deviation is None else f" ± {point.deviation:.{digits}f}"
    rest = (point.median, min(point.scores), max(point.scores))
    mean = f"{point.mean:.{digits}f}{spread}"
    return [str(len(point.scores)), mean, *(f"{value:.{digits}f}" for value in rest)]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
