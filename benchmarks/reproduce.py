"""The paper's comparison at small scale: Transformers against Funnels, pretrained and fine-tuned.

    python benchmarks/reproduce.py sizes --list          # the runs, and which are done
    python benchmarks/reproduce.py sizes                 # score over FLOPs and seconds; a night
    python benchmarks/reproduce.py objectives            # MLM, ELECTRA, random weights
    python benchmarks/reproduce.py ablations             # pooling by maximum, of queries alone, ...
    python benchmarks/reproduce.py tasks                 # seven tasks, each with its own metric
    python benchmarks/reproduce.py sizes --scale=gpu --seconds=540    # nine minutes of the GPU plan

Every result is written at once to results/reproduce-SCALE.json, so the same command continues, also
within a run. Scores are those after the last step: nothing is selected on the evaluation data.
Seconds are those of the training steps alone, and compare only if nothing else runs; --time_again
measures them for runs that others disturbed.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import _paths  # noqa: F401

from funnel.config.model import ModelConfig
from funnel.flops import model_cost
from funnel.tasks.race import read_race
from funnel.utils.errors import DataError, FunnelError
from funnel.utils.files import atomic_write_json
from funnel.utils.logging import read_metrics
from funnel.utils.main import run_main
from harness import corpora, timing
from reproduction.baselines import guess
from reproduction.data import data_flags, write_corpus, write_task
from reproduction.figure import COLUMNS, plot_sizes, summarize
from reproduction.plan import (
    ELECTRA,
    PLANS,
    SCALES,
    FineTuning,
    Flags,
    Pretraining,
    Scale,
    fingerprint,
)
from reproduction.tasks import CLASSIFIER, SQUAD, Task

PYTORCH = timing.REPOSITORY / "pytorch"
CONFIG = timing.REPOSITORY / "configs" / "demo.json"
# ELECTRA starts from the weights of MLM: from random ones it collapses at this size
# (docs/results.md).
TIMED_STEPS = 32
ELECTRA_FLAGS = {"loss_type": ELECTRA, "width_shrink": 0.5, "disc_coeff": 10, "lr": 7e-4}


class Runner:
    """Makes the runs of a scale in ``folder``, with the data in ``data``."""

    def __init__(self, scale: Scale, data: Path, folder: Path) -> None:
        self.scale, self.data, self.folder = scale, data, folder

    def fine_tune(self, run: FineTuning) -> timing.Row:
        """Train and score a run, after its pretraining if that is not there; return its row."""
        folder = self.folder / run.key
        self._run(run.task.program, self._flags(run) | {"model_dir": folder})
        return self._row(run, folder)

    def measure_seconds(self, run: FineTuning, steps: int) -> float:
        """Return the seconds of a run's training steps, from the rate of some steps made again."""
        folder = self.folder / "timing" / run.key
        flags = {"model_dir": folder, "train_steps": TIMED_STEPS, "overwrite": True}
        untimed = self._flags(run)
        if run.task.program == CLASSIFIER:
            flags["no_dev"] = True
        untimed.pop("predict_file", None)
        del untimed["epochs"]
        self._call(PYTORCH / run.task.program, self.scale.flags | untimed | flags)
        return self._examples(run.task, steps) / _rate(folder)

    def _flags(self, run: FineTuning) -> Flags:
        task, scale = run.task, self.scale
        vocabulary = self.vocabulary(task.corpus)
        changes = {"block_size": run.blocks, "dropout": 0.1, "dropatt": 0.1} | dict(run.overrides)
        if run.start is None:
            start = {"init_ckpt_config": self.config(run.key, vocabulary, changes)}
        else:
            start = {"init_ckpt": self.pretrain(run.start), "overwrite_keys": ",".join(changes)}
            start |= changes
        flags = {
            "tokenizer_path": vocabulary, "max_length": task.length, "lr": scale.lr,
            "train_bsz": task.batch_size, "epochs": task.epochs, "seed": run.seed,
            "eval_steps": 10**9,
        }  # fmt: skip
        return flags | data_flags(task, self._data(task)) | start

    def _data(self, task: Task) -> Path:
        return write_task(task, self.data, self.folder / "data")

    def _row(self, run: FineTuning, folder: Path) -> timing.Row:
        task = run.task
        # The main metric is the first; those of SQuAD are percentages.
        unit = 100 if task.program == SQUAD else 1
        found = json.loads((folder / "final_scores.json").read_text())["dev"]
        scores = {name: value / unit for name, value in found.items()}
        metric = next(iter(scores))
        lines = [r for r in read_metrics(folder / "metrics.jsonl") if r["split"] == "train"]
        config, steps = ModelConfig.load(folder / "net_config.json"), lines[-1]["step"]
        flops = model_cost(config, task.length, task.batch_size).encoder_total * task.texts
        return {
            "run": run.key, "task": task.name, "blocks": run.blocks, "initial": run.initial,
            "change": ", ".join(f"{name}={value}" for name, value in run.overrides),
            "seed": run.seed, "metric": metric, "score": scores[metric],
            "other_scores": {name: scores[name] for name in task.second_metrics},
            "baseline": guess(task, self._data(task)),
            "seconds": self._examples(task, steps) / _rate(folder), "gflops": flops / 1e9,
            "settings": fingerprint(run, self.scale), "steps": steps,
        }  # fmt: skip

    def _examples(self, task: Task, steps: int) -> int:
        """Return the number of examples in all epochs, of which a run made ``steps`` batches."""
        if task.program == SQUAD:
            # Windows, whose number depends on the tokenizer: batches, some of them not full.
            return steps * task.batch_size
        if task.program == CLASSIFIER:
            rows = count_lines(self._data(task) / "train.jsonl")
        else:
            rows = len(read_race(self._data(task), "train").questions)
        return min(task.train_rows, rows) * task.epochs

    def pretrain(self, run: Pretraining) -> Path:
        """Pretrain, or continue, and return the directory of the weights."""
        scale, folder = self.scale, self.folder / run.key
        vocabulary = self.vocabulary(run.corpus)
        flags = scale.pretraining | {
            "record_dir": self.records(run.corpus), "tokenizer_path": vocabulary,
            "seed": run.seed, "save_steps": 2000, "model_dir": folder,
        }  # fmt: skip
        if run.loss_type == ELECTRA:
            before = Pretraining(run.layers, "mlm", run.corpus, run.seed)
            flags |= ELECTRA_FLAGS | {"init_ckpt": self.pretrain(before), "init_global_vars": False}
            self._run("pretrain.py", flags)
            return folder / "last"
        changes = {"block_size": str(run.layers), "dropout": 0.0, "dropatt": 0.0}
        flags["config"] = self.config(run.key, vocabulary, changes)
        self._run("pretrain.py", flags)
        return folder / "last"

    def config(self, name: str, vocabulary: Path, changes: Flags) -> Path:
        """Write the config of a model, without a decoder, and return its path."""
        content = json.loads(CONFIG.read_text(encoding="utf-8")) | self.scale.model
        content |= {"decoder_size": "0", "vocab_size": count_lines(vocabulary)}
        path = self.folder / "configs" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_json(path, content | changes)
        return path

    def vocabulary(self, corpus: str) -> Path:
        """Return the vocabulary of a corpus, built at the first use."""
        path = self.folder / f"{Path(corpus).name.split('.')[0]}.vocab.txt"
        if not path.exists():
            text = write_corpus(corpus, self.data, self.folder)
            flags = {"input": text, "output": path, "vocab_size": 8192}
            program = timing.REPOSITORY / "data-scripts" / "build_vocab.py"
            self._call(program, flags)
        return path

    def records(self, corpus: str) -> Path:
        """Return the directory of a corpus's records, made at the first use."""
        length = self.scale.pretraining["seq_len"]
        folder = self.folder / f"{Path(corpus).name.split('.')[0]}-records-{length}"
        if not list(folder.glob("*.json*")):
            flags = {
                "input_glob": write_corpus(corpus, self.data, self.folder), "save_dir": folder,
                "tokenizer_path": self.vocabulary(corpus), "seq_len": length,
            }  # fmt: skip
            self._call(PYTORCH / "create_pretrain_data.py", flags)
        return folder

    def _run(self, program: str, flags: Flags) -> None:
        """Run a training program, or continue it, unless it has finished."""
        progress = Path(flags["model_dir"]) / "last" / "progress.json"
        if progress.exists() and json.loads(progress.read_text(encoding="utf-8"))["finished"]:
            return
        self._call(PYTORCH / program, self.scale.flags | flags)

    def _call(self, program: Path, flags: Flags) -> None:
        command = [sys.executable, str(program), *map(to_argument, flags.items())]
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / "log.txt"
        with log.open("ab") as stream:
            done = subprocess.run(command, stdout=stream, stderr=stream, check=False)
        if done.returncode:
            raise FunnelError(f"{program.name} ended with {done.returncode}; see {log}")


def _rate(folder: Path) -> float:
    """Return the examples per second of a run's training steps; its log has equal parts."""
    lines = [row for row in read_metrics(folder / "metrics.jsonl") if row["split"] == "train"]
    return statistics.harmonic_mean([row["examples_per_second"] for row in lines])


def to_argument(flag: tuple[str, Any]) -> str:
    """Return ``--name=value``, and ``--name`` or ``--no-name`` for a switch of the programs."""
    name, value = flag
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name}={value}"


def count_lines(path: Path) -> int:
    """Return the number of lines of a text file."""
    with path.open("rb") as stream:
        return sum(1 for _ in stream)


def load_rows(path: Path) -> dict[str, timing.Row]:
    """Return the rows of a results file by run; none if there is no such file."""
    if not path.exists():
        return {}
    return {row["run"]: row for row in json.loads(path.read_text(encoding="utf-8"))["rows"]}


def save_rows(path: Path, rows: dict[str, timing.Row], scale: str) -> None:
    """Write a results file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": timing.machine(), "settings": {"scale": scale}, "columns": COLUMNS}
    atomic_write_json(path, content | {"rows": sorted(rows.values(), key=lambda row: row["run"])})


def time_again(runner: Runner, runs: list[FineTuning], rows: dict[str, timing.Row]) -> None:
    """Replace the seconds of runs by newly measured ones, those of one seed for all."""
    measured: dict[tuple[str, str, str], float] = {}
    for run in runs:
        row = rows[run.key]
        case = (run.task.name, run.blocks, row["change"])
        if case not in measured:
            measured[case] = runner.measure_seconds(run, row["steps"])
        row["seconds"] = measured[case]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=tuple(PLANS), help="which runs")
    parser.add_argument("--scale", choices=tuple(SCALES), default="cpu", help="sizes and steps")
    parser.add_argument("--only", default="*", help="runs to make, e.g. 'imdb-*-seed1'")
    parser.add_argument("--list", action="store_true", help="print the runs and their state")
    parser.add_argument("--seconds", type=float, help="start no further run after this time")
    parser.add_argument(
        "--time_again",
        action="store_true",
        help="measure only the seconds of what is done, 32 steps each: on an idle machine",
    )
    parser.add_argument("--data_dir", type=Path, help="real text, see harness/corpora.py")
    parser.add_argument(
        "--work_dir", type=Path, default=Path("runs/reproduce"), help="models and data"
    )
    parser.add_argument("--output_dir", type=Path, default=timing.RESULTS, help="of the results")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    scale, path = SCALES[args.scale], args.output_dir / f"reproduce-{args.scale}.json"
    chosen = [run for run in PLANS[args.table](scale) if fnmatch.fnmatch(run.key, args.only)]
    if not chosen:
        raise DataError(f"--only={args.only}: no such run; --list prints all of them")
    rows = load_rows(path)
    done = [r.key for r in chosen if rows.get(r.key, {}).get("settings") == fingerprint(r, scale)]
    if args.list:
        for run in chosen:
            print(f"{'done' if run.key in done else 'missing':<9}{run.key}")
        return
    data = corpora.find_data(args.data_dir)
    if data is None:
        raise DataError("no data: --data_dir must name a folder with corpus/, text_cls/ and glue/")
    begin, runner = time.monotonic(), Runner(scale, data, args.work_dir / args.scale)
    if args.time_again:
        time_again(runner, [run for run in chosen if run.key in done], rows)
        save_rows(path, rows, args.scale)
    for run in chosen:
        if run.key in done or args.time_again:
            continue
        if args.seconds is not None and time.monotonic() - begin > args.seconds:
            print(f"{args.seconds:.0f} s are over; the same command continues")
            break
        rows[run.key] = runner.fine_tune(run)
        save_rows(path, rows, args.scale)
        print(f"{run.key}: {rows[run.key]['score']:.4f}", flush=True)
    keys = {run.key for run in chosen}
    table = summarize(row for key, row in rows.items() if key in keys)
    print(timing.markdown(table, COLUMNS))
    if args.table == "sizes" and table:
        plot_sizes(table, args.output_dir / f"reproduce-{args.scale}.png")


if __name__ == "__main__":
    run_main(main)
