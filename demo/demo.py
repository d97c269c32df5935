"""Pretrained against random weights, and Transformer against Funnel, in seven minutes on a CPU.

    make demo                                   (creates a virtual environment first)
    python demo/demo.py --output_dir=demo_output --seed=2

Builds two tasks with few labels from the docstrings of the installed packages (nothing is
downloaded): which sub-package does a text come from, and are its words in their order? Fine-tunes
six layers of width 128 four times on each, without pooling (Transformer) and with it (Funnel), from
random weights and from those in demo/pretrained, and prints test accuracy, seconds and baselines.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import _paths  # noqa: F401

import _report as report
from _baselines import Score, bag_of_words, compute_accuracy, majority, read_texts
from _programs import end_programs_on_sigterm, run_program, run_together
from funnel.cli.flags import parse_settings
from funnel.config.settings import group, setting
from funnel.utils.files import atomic_write_json
from funnel.utils.logging import METRICS_FILE, read_metrics
from funnel.utils.main import run_main
from funnel.utils.processes import count_cores

ROOT = Path(__file__).resolve().parents[1]
PRETRAINED = ROOT / "demo" / "pretrained"
TRAINING = {"max_length": 96, "train_bsz": 16, "lr": 5e-4}


@dataclass(frozen=True)
class Task:
    """A task of the demo. Layout and epochs were chosen on dev with seed 1.

    Attributes:
        title: heading in table and picture.
        funnel: ``block_size`` of the Funnel: later pooling keeps more of the order of words.
        epochs: passes over the training texts.
    """

    title: str
    funnel: str
    epochs: int


TASKS = {
    "topic": Task("which sub-package?", "2_2_2", 6),
    "order": Task("word order intact?", "3_3", 2),
}
TRANSFORMER = "6"  # block_size: six layers, no pooling


@dataclass(frozen=True)
class DemoConfig:
    """Settings of the demo."""

    output_dir: str = setting("demo_output", "directory for the results")
    seed: int = setting(1, "seed of fine-tuning")
    train_texts: int = setting(1000, "labelled texts of the first task, at most 3,800")


@dataclass(frozen=True)
class DemoSettings:
    """Command line of the demo."""

    demo: DemoConfig = group("demo", DemoConfig)


@dataclass(frozen=True)
class Run:
    """A model to train: its name, and whether it is pooled and starts from the shipped weights."""

    pooled: bool
    pretrained: bool

    @property
    def name(self) -> str:
        """Its name in the table."""
        model = "Funnel" if self.pooled else "Transformer"
        return f"{model}, {'pretrained' if self.pretrained else 'random'}"

    @property
    def folder(self) -> str:
        """Name of its directory."""
        return self.name.lower().replace(", ", "_")


RUNS = [Run(pooled, pretrained) for pooled in (False, True) for pretrained in (False, True)]


def check_packages(data: Path, pretrained: Path) -> list[str]:
    """Return a line for every package that differs from those of the pretraining corpus."""
    here, there = (
        json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["packages"]
        for folder in (data, pretrained)
    )
    return [
        f"{package}: {here.get(package, 'not installed')} here, {known} in the pretraining corpus; "
        "the task differs from the documented one"
        for package, known in there.items()
        if here.get(package) != known
    ]


def training_command(
    run: Run, task: Task, data: Path, model_dir: Path, seed: int
) -> tuple[str, ...]:
    """Return the command that fine-tunes a model; it keeps the best epoch on dev."""
    start = {"init_ckpt": PRETRAINED}
    if not run.pretrained:
        start = {"init_ckpt_config": PRETRAINED / "config.json"}
    flags = {
        "dataset": "tsv",
        "data_dir": data,
        "tokenizer_path": PRETRAINED / "vocab.txt",
        **start,
        # Pretraining had no dropout; pooling has no weights, so that both layouts take the same.
        "overwrite_keys": "dropout,dropatt,block_size",
        "block_size": task.funnel if run.pooled else TRANSFORMER,
        "model_dir": model_dir,
        "device_id": -1,
        "epochs": task.epochs,
        "seed": seed,
        "n_log_epoch": 1,
        **TRAINING,
    }
    arguments = [f"--{name}={value}" for name, value in flags.items()]
    return ("pytorch/classifier.py", *arguments, "--bf16", "--overwrite")


def train_all(task: str, output: Path, seed: int) -> None:
    """Train the four models of a task, two at a time if there are cores for it.

    Small models use two cores better as two processes than as two threads of one. A random and a
    pretrained model of the same layout run together, so all four meet the same conditions.
    """
    at_once = min(2, count_cores())
    for first in range(0, len(RUNS), at_once):
        commands = {
            run.name: training_command(
                run, TASKS[task], output / "data" / task, output / task / run.folder, seed
            )
            for run in RUNS[first : first + at_once]
        }
        run_together(commands, count_cores() // at_once)


def training_seconds(model_dir: Path, examples: int) -> float:
    """Return the seconds of the training steps alone: no start, no evaluation.

    ``examples`` is the size of the training set; the log has one line per epoch.
    """
    rows = [row for row in read_metrics(model_dir / METRICS_FILE) if row["split"] == "train"]
    return sum(examples / row["examples_per_second"] for row in rows)


def predict(model_dir: Path, texts: Sequence[str]) -> tuple[list[str], float]:
    """Return the labels that a trained model predicts, and the seconds per 1,000 texts."""
    from funnel_torch import Predictor

    predictor = Predictor.from_pretrained(model_dir / "best", device="cpu")
    predictor(list(texts[:64]))  # the first call sets up memory and threads
    start = time.monotonic()
    rows = predictor(list(texts))
    seconds = time.monotonic() - start
    return [row["label"] for row in rows], 1000 * seconds / len(texts)


def score(run: Run, task: str, output: Path, examples: int) -> Score:
    """Predict the test split of a task with a trained model."""
    texts, labels = read_texts(output / "data" / task, "test")
    model_dir = output / task / run.folder
    predicted, per_thousand = predict(model_dir, texts)
    accuracy = compute_accuracy(predicted, labels)
    return Score(accuracy, training_seconds(model_dir, examples), per_thousand)


def run_task(task: str, config: DemoConfig) -> dict[str, Score]:
    """Train and score the four models and the baselines on one task; return {model: score}."""
    output = Path(config.output_dir)
    data = output / "data" / task
    train_all(task, output, config.seed)
    print("\npredicting the test texts", flush=True)
    scores = {
        "majority class": majority(data),
        "bag of words": bag_of_words(data),
        "bag of words and pairs": bag_of_words(data, longest=2),
    }
    examples = len(read_texts(data, "train")[0])
    return scores | {run.name: score(run, task, output, examples) for run in RUNS}


def main() -> None:
    config = parse_settings(DemoSettings, __doc__).demo
    end_programs_on_sigterm()
    start, output = time.monotonic(), Path(config.output_dir)
    sizes = ["--task_only", f"--train={config.train_texts}"]
    run_program("data-scripts/make_demo_data.py", f"--output_dir={output / 'data'}", *sizes)
    for warning in check_packages(output / "data", PRETRAINED):
        print(f"note: {warning}")
    results = {task: run_task(task, config) for task in TASKS}
    seconds = time.monotonic() - start
    count = len(read_texts(output / "data" / "topic", "test")[0])
    titles = {}
    for task, facts in TASKS.items():
        labels = read_texts(output / "data" / task, "train")[1]
        size = f"{len(set(labels))} classes, {len(labels):,} texts"
        titles[task] = f"{facts.title} ({size}; Funnel {facts.funnel})"
    report.draw(results, titles, count, output / "demo.png")
    short = {task: facts.title for task, facts in TASKS.items()}
    print(f"\n{report.format_table(results, short, count)}\n")
    print(report.summarize(results, count))
    rows = {
        task: {name: asdict(s) for name, s in scores.items()} for task, scores in results.items()
    }
    run_facts = {"seed": config.seed, "test_texts": count, "seconds": round(seconds)}
    atomic_write_json(output / "results.json", run_facts | {"tasks": rows})
    print(f"\nPicture: {output}/demo.png   ({seconds / 60:.1f} minutes in all)\n")
    print(report.next_steps(output, TRAINING["lr"]))


if __name__ == "__main__":
    run_main(main)
