"""The complete workflow: vocabulary, records, pretraining, fine-tuning and a comparison.

    make demo                                   (creates a virtual environment first)
    python pytorch/demo.py --output_dir=demo_output

Makes a small labelled task from the docstrings of the standard library (nothing is downloaded),
pretrains a small Funnel-Transformer with ELECTRA on their text, fine-tunes it on the task, trains a
second one from random weights, and prints the test accuracy of both, of the majority class and of a
bag-of-words classifier. Takes eight minutes on one CPU core, five on two.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import _paths  # noqa: F401

from funnel.cli.flags import parse_settings
from funnel.config.settings import group, setting
from funnel.tasks import CustomTaskConfig, get_task
from funnel.utils.errors import FunnelError
from funnel.utils.files import atomic_write_json
from funnel.utils.logging import METRICS_FILE, plot_curves
from funnel.utils.main import INTERRUPTED, run_main

ROOT = Path(__file__).resolve().parents[1]

# A small model trained from random weights needs a learning rate a hundred times that of
# fine-tuning a released one (pytorch/README.md).
TRAINING = {"max_length": 64, "train_bsz": 32, "lr": 1e-3, "seed": 1}
# No dropout in pretraining: with only a few passes over the text there is no overfitting.
SEQ_LEN = 64
PRETRAINING = {"train_bsz": 32, "lr": 1e-3, "warmup_steps": 100, "dropout": 0, "dropatt": 0}
CONFIG = ROOT / "configs" / "demo.json"

NEXT = """\
Next steps:
  look at the curves   {bin}tensorboard --logdir {output}
  your own csv files   {python} pytorch/classifier.py --dataset=csv --data_dir=DIR \
--text_column=text --label_column=label --tokenizer_path={output}/data/vocab.txt \
--init_ckpt={output}/electra/last --lr=1e-3 --model_dir=runs/mine
  a released model     {python} pytorch/classifier.py --dataset=RTE --data_dir=GLUE/RTE \
--init_ckpt=B4-4-4H768-ELEC-PT --tokenizer_path=B4-4-4H768-ELEC-PT/vocab.uncased.txt \
--lr=2e-5 --model_dir=runs/rte"""


@dataclass(frozen=True)
class DemoConfig:
    """Settings of the demo."""

    output_dir: str = setting("demo_output", "directory for the results")
    epochs: int = setting(4, "passes over the training data")
    pretrain_steps: int = setting(700, "steps of pretraining")


@dataclass(frozen=True)
class DemoSettings:
    """Command line of the demo."""

    demo: DemoConfig = group("demo", DemoConfig)


def run_program(path: str, *arguments: str) -> None:
    """Print the command line of one of this repository's programs and run it.

    Raises:
        FunnelError: the program failed.
    """
    command = [sys.executable, str(ROOT / path), *arguments]
    print(f"\n$ python {path} {shlex.join(arguments)}", flush=True)
    status = subprocess.run(command, check=False).returncode
    if status == INTERRUPTED:
        raise KeyboardInterrupt
    if status != 0:
        raise FunnelError(f"{path} ended with exit code {status}; its message is above")


def to_arguments(flags: Mapping[str, object]) -> list[str]:
    """Return ``--name=value`` for each flag."""
    return [f"--{name}={value}" for name, value in flags.items()]


def pretrain(data: Path, output: Path, steps: int) -> Path:
    """Pretrain the small Funnel on the demo's text; return the folder of the checkpoint."""
    records, model_dir = output / "records", output / "electra"
    text = {"input_glob": data / "corpus.txt", "tokenizer_path": data / "vocab.txt"}
    text |= {"save_dir": records, "seq_len": SEQ_LEN}
    run_program("pytorch/create_pretrain_data.py", *to_arguments(text))
    flags = {
        "loss_type": "electra",
        "record_dir": records,
        "seq_len": SEQ_LEN,
        "tokenizer_path": data / "vocab.txt",
        "config": CONFIG,
        "overwrite_keys": "dropout,dropatt",
        "model_dir": model_dir,
        "device_id": -1,
        "train_steps": steps,
        "save_steps": steps,
        "seed": 1,
        **PRETRAINING,
    }
    run_program("pytorch/pretrain.py", *to_arguments(flags), "--overwrite")
    return model_dir / "last"


def train_funnel(data: Path, model_dir: Path, epochs: int, start: Mapping[str, object]) -> None:
    """Train the small Funnel on the demo task, and predict the test split with the best model."""
    flags = {
        "dataset": "tsv",
        "data_dir": data,
        "tokenizer_path": data / "vocab.txt",
        **start,
        # The pretrained config has no dropout; both runs take the default of the flags.
        "overwrite_keys": "dropout,dropatt",
        "model_dir": model_dir,
        "device_id": -1,
        "epochs": epochs,
        "n_log_epoch": 10,
        **TRAINING,
    }
    switches = ["--write_prediction", "--overwrite"]
    run_program("pytorch/classifier.py", *to_arguments(flags), *switches)


def read_texts(data: Path, split: str) -> tuple[list[str], list[str]]:
    """Return texts and label names of a split of the demo task."""
    task = get_task("tsv", custom=CustomTaskConfig()).resolve_labels(data)
    examples = task.load(data, split)
    return [e.text_a for e in examples], [task.labels[e.label] for e in examples]


def compute_accuracy(predictions: list[str], labels: list[str]) -> float:
    if len(predictions) != len(labels):
        raise FunnelError(f"{len(predictions)} predictions for {len(labels)} test examples")
    return sum(p == t for p, t in zip(predictions, labels, strict=True)) / len(labels)


def fit_bag_of_words(texts: list[str], labels: list[str]) -> Callable[[list[str]], list[str]]:
    """Fit logistic regression on tf-idf counts; return its ``predict``."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    classifier = LogisticRegression(C=10, max_iter=300)
    model = make_pipeline(TfidfVectorizer(sublinear_tf=True), classifier)
    return model.fit(texts, labels).predict


def score_baselines(data: Path) -> dict[str, dict[str, float]]:
    """Return {split: {baseline: accuracy}}."""
    texts, labels = read_texts(data, "train")
    majority = Counter(labels).most_common(1)[0][0]
    predict = fit_bag_of_words(texts, labels)
    results = {}
    for split in ("dev", "test"):
        split_texts, truth = read_texts(data, split)
        results[split] = {
            "majority class": compute_accuracy([majority] * len(truth), truth),
            "bag of words": compute_accuracy(list(predict(split_texts)), truth),
        }
    return results


def score_funnel(data: Path, model_dir: Path) -> float:
    """Return the test accuracy of the trained model, from its prediction file."""
    predictions = (model_dir / "test_results.txt").read_text(encoding="utf-8").splitlines()
    return compute_accuracy(predictions, read_texts(data, "test")[1])


def report(results: dict[str, float], output: Path, seconds: float) -> None:
    print(f"\n{'test accuracy':22}\n{'-' * 29}")
    for name, value in results.items():
        print(f"{name:22} {100 * value:5.1f}%")
    python, bin_prefix = Path(sys.executable), ""
    is_ours = python.is_relative_to(ROOT)
    if is_ours and python.with_name("tensorboard").exists():
        bin_prefix = f"{python.parent.relative_to(ROOT)}/"
    shown = {
        "output": output,
        "python": python.relative_to(ROOT) if is_ours else "python",
        "bin": bin_prefix,
    }
    print(f"\nCurves: {output}/curves.png   ({seconds / 60:.1f} minutes in all)\n")
    print(NEXT.format(**shown))


def main() -> None:
    config = parse_settings(DemoSettings, __doc__).demo
    start, output = time.monotonic(), Path(config.output_dir)
    data = output / "data"
    run_program("data-scripts/make_demo_data.py", f"--output_dir={data}")
    electra = pretrain(data, output, config.pretrain_steps)
    runs = {"random weights": {"model_config": CONFIG}, "pretrained": {"init_ckpt": electra}}
    folders = {f"Funnel, {name}": output / name.replace(" ", "_") for name in runs}
    for model_dir, begin in zip(folders.values(), runs.values(), strict=True):
        train_funnel(data, model_dir, config.epochs, begin)
    levels = score_baselines(data)
    results = dict(levels["test"])
    results |= {name: score_funnel(data, folder) for name, folder in folders.items()}
    curves = {name: folder / METRICS_FILE for name, folder in folders.items()}
    plot_curves(curves, output / "curves.png", metric="accuracy", levels=levels["dev"])
    seconds = time.monotonic() - start
    atomic_write_json(output / "results.json", {**results, "seconds": round(seconds)})
    report(results, output, seconds)


if __name__ == "__main__":
    run_main(main)
