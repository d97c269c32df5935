"""The whole way on one page: data, training, a comparison, in five minutes on two CPU cores.

    make demo                                   (creates a virtual environment first)
    python pytorch/demo.py --output_dir=demo_output

Makes a small labelled task from the docstrings of the standard library (nothing is downloaded),
trains a small Funnel-Transformer on it from random weights with `pytorch/classifier.py`, and prints
its test accuracy beside the majority class's and a bag-of-words classifier's.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import _paths  # noqa: F401

from funnel import cli
from funnel.errors import FunnelError
from funnel.files import atomic_write_json
from funnel.reporting import METRICS_FILE, plot_curves
from funnel.tasks import CustomTaskConfig, get_task

ROOT = Path(__file__).resolve().parents[1]

# What a small model trained from random weights wants: a learning rate a hundred times that of
# fine-tuning a released one (pytorch/README.md).
TRAINING = {"max_length": 64, "train_bsz": 32, "lr": 1e-3, "seed": 1}

NEXT = """\
What to type next:
  look at the curves   {bin}tensorboard --logdir {output}
  your own csv files   {python} pytorch/classifier.py --dataset=csv --data_dir=DIR \
--text_column=text --label_column=label --tokenizer_path={output}/data/vocab.txt \
--model_config=configs/small-cpu.json --lr=1e-3 --model_dir=runs/mine
  a released model     {python} pytorch/classifier.py --dataset=RTE --data_dir=GLUE/RTE \
--init_ckpt=B4-4-4H768-ELEC-PT --tokenizer_path=B4-4-4H768-ELEC-PT/vocab.uncased.txt \
--lr=2e-5 --model_dir=runs/rte"""


def run_program(path: str, *arguments: str) -> None:
    """Run one of this repository's programs and show the command line it takes."""
    command = [sys.executable, str(ROOT / path), *arguments]
    print(f"\n$ python {path} {shlex.join(arguments)}", flush=True)
    status = subprocess.run(command, check=False).returncode
    if status == cli.INTERRUPTED:
        raise KeyboardInterrupt
    if status != 0:
        raise FunnelError(f"{path} ended with exit code {status}; its message is above")


def train_funnel(data: Path, model_dir: Path, epochs: int) -> None:
    """Train the small Funnel on the demo task; the best model on dev predicts the test split."""
    flags = {
        "dataset": "tsv",
        "data_dir": data,
        "tokenizer_path": data / "vocab.txt",
        "model_config": ROOT / "configs" / "small-cpu.json",
        "model_dir": model_dir,
        "device_id": -1,
        "epochs": epochs,
        "n_log_epoch": 10,
        **TRAINING,
    }
    switches = ["--write_prediction", "--overwrite"]
    arguments = [f"--{name}={value}" for name, value in flags.items()]
    run_program("pytorch/classifier.py", *arguments, *switches)


def read_texts(data: Path, split: str) -> tuple[list[str], list[str]]:
    """Return texts and label names of a split of the demo task."""
    task = get_task("tsv", custom=CustomTaskConfig()).resolve_labels(data)
    examples = task.load(data, split)
    return [e.text_a for e in examples], [task.labels[e.label] for e in examples]


def accuracy(predictions: list[str], labels: list[str]) -> float:
    if len(predictions) != len(labels):
        raise FunnelError(f"{len(predictions)} predictions for {len(labels)} test examples")
    return sum(p == t for p, t in zip(predictions, labels, strict=True)) / len(labels)


def bag_of_words(texts: list[str], labels: list[str]) -> Callable[[list[str]], list[str]]:
    """A predictor for other texts: logistic regression on tf-idf counts."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    classifier = LogisticRegression(C=10, max_iter=300)
    model = make_pipeline(TfidfVectorizer(sublinear_tf=True), classifier)
    return model.fit(texts, labels).predict


def baselines(data: Path) -> dict[str, dict[str, float]]:
    """{split: {baseline: accuracy}} of what a model must beat."""
    texts, labels = read_texts(data, "train")
    majority = Counter(labels).most_common(1)[0][0]
    predict = bag_of_words(texts, labels)
    results = {}
    for split in ("dev", "test"):
        split_texts, truth = read_texts(data, split)
        results[split] = {
            "majority class": accuracy([majority] * len(truth), truth),
            "bag of words": accuracy(list(predict(split_texts)), truth),
        }
    return results


def funnel_accuracy(data: Path, model_dir: Path) -> float:
    """Test accuracy of the trained model, from the predictions it wrote."""
    rows = (model_dir / "test_results.txt").read_text(encoding="utf-8").splitlines()[1:]
    return accuracy([row.split("\t")[1] for row in rows], read_texts(data, "test")[1])


def report(results: dict[str, float], output: Path, seconds: float) -> None:
    print(f"\n{'test accuracy':22}\n{'-' * 29}")
    for name, value in results.items():
        print(f"{name:22} {100 * value:5.1f}%")
    python = Path(sys.executable)
    beside = python.with_name("tensorboard").exists()
    shown = {
        "output": output,
        "python": python.relative_to(ROOT) if python.is_relative_to(ROOT) else "python",
        "bin": f"{python.parent.relative_to(ROOT)}/" if beside and ROOT in python.parents else "",
    }
    print(f"\nCurves: {output}/curves.png   ({seconds / 60:.1f} minutes in all)\n")
    print(NEXT.format(**shown))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", type=Path, default=Path("demo_output"), help="results")
    parser.add_argument("--epochs", type=int, default=6, help="passes over the training data")
    args = parser.parse_args()
    start = time.monotonic()
    data, model_dir = args.output_dir / "data", args.output_dir / "model"
    run_program("data-scripts/make_demo_data.py", f"--output_dir={data}")
    train_funnel(data, model_dir, args.epochs)
    levels = baselines(data)
    results = {**levels["test"], "Funnel-Transformer": funnel_accuracy(data, model_dir)}
    runs = {"Funnel": model_dir / METRICS_FILE}
    plot_curves(runs, args.output_dir / "curves.png", metric="accuracy", levels=levels["dev"])
    seconds = time.monotonic() - start
    atomic_write_json(args.output_dir / "results.json", {**results, "seconds": round(seconds)})
    report(results, args.output_dir, seconds)


if __name__ == "__main__":
    cli.run(main)
