"""The whole way on one page: vocabulary, records, pretraining, fine-tuning, a comparison.

    make demo                                   (creates a virtual environment first)
    python pytorch/demo.py --output_dir=demo_output

Makes a small labelled task from the docstrings of the standard library (nothing is downloaded),
pretrains a small Funnel-Transformer with ELECTRA on their text, fine-tunes it on the task and a
second one from random weights, and prints the test accuracy of both beside the majority class's and
a bag-of-words classifier's. Eight minutes of one CPU core, five on two.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import _paths  # noqa: F401

from funnel.tasks import CustomTaskConfig, get_task
from funnel.utils.errors import FunnelError
from funnel.utils.files import atomic_write_json
from funnel.utils.logging import METRICS_FILE, plot_curves
from funnel.utils.main import INTERRUPTED, run_main

ROOT = Path(__file__).resolve().parents[1]

# What a small model trained from random weights wants: a learning rate a hundred times that of
# fine-tuning a released one (pytorch/README.md).
TRAINING = {"max_length": 64, "train_bsz": 32, "lr": 1e-3, "seed": 1}
# Pretraining sees the text a few times only: dropout would cost time and help nothing.
SEQ_LEN = 64
PRETRAINING = {"train_bsz": 32, "lr": 1e-3, "warmup_steps": 100, "dropout": 0, "dropatt": 0}
CONFIG = ROOT / "configs" / "demo.json"

NEXT = """\
What to type next:
  look at the curves   {bin}tensorboard --logdir {output}
  your own csv files   {python} pytorch/classifier.py --dataset=csv --data_dir=DIR \
--text_column=text --label_column=label --tokenizer_path={output}/data/vocab.txt \
--init_ckpt={output}/electra/last --lr=1e-3 --model_dir=runs/mine
  a released model     {python} pytorch/classifier.py --dataset=RTE --data_dir=GLUE/RTE \
--init_ckpt=B4-4-4H768-ELEC-PT --tokenizer_path=B4-4-4H768-ELEC-PT/vocab.uncased.txt \
--lr=2e-5 --model_dir=runs/rte"""


def run_program(path: str, *arguments: str) -> None:
    """Run one of this repository's programs and show the command line it takes."""
    command = [sys.executable, str(ROOT / path), *arguments]
    print(f"\n$ python {path} {shlex.join(arguments)}", flush=True)
    status = subprocess.run(command, check=False).returncode
    if status == INTERRUPTED:
        raise KeyboardInterrupt
    if status != 0:
        raise FunnelError(f"{path} ended with exit code {status}; its message is above")


def flag_list(flags: Mapping[str, object]) -> list[str]:
    """``--name=value`` of each."""
    return [f"--{name}={value}" for name, value in flags.items()]


def pretrain(data: Path, output: Path, steps: int) -> Path:
    """Pretrain the small Funnel on the demo's text; the folder of the result."""
    records, model_dir = output / "records", output / "electra"
    text = {"input_glob": data / "corpus.txt", "tokenizer_path": data / "vocab.txt"}
    text |= {"save_dir": records, "seq_len": SEQ_LEN}
    run_program("pytorch/create_pretrain_data.py", *flag_list(text))
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
    run_program("pytorch/pretrain.py", *flag_list(flags), "--overwrite")
    return model_dir / "last"


def train_funnel(data: Path, model_dir: Path, epochs: int, start: Mapping[str, object]) -> None:
    """Train the small Funnel on the demo task; the best model on dev predicts the test split."""
    flags = {
        "dataset": "tsv",
        "data_dir": data,
        "tokenizer_path": data / "vocab.txt",
        **start,
        # After pretraining without dropout, back to that of the flags, which the other run has too.
        "overwrite_keys": "dropout,dropatt",
        "model_dir": model_dir,
        "device_id": -1,
        "epochs": epochs,
        "n_log_epoch": 10,
        **TRAINING,
    }
    switches = ["--write_prediction", "--overwrite"]
    run_program("pytorch/classifier.py", *flag_list(flags), *switches)


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
    parser.add_argument("--epochs", type=int, default=4, help="passes over the training data")
    parser.add_argument("--pretrain_steps", type=int, default=700, help="steps of pretraining")
    args = parser.parse_args()
    start = time.monotonic()
    data = args.output_dir / "data"
    run_program("data-scripts/make_demo_data.py", f"--output_dir={data}")
    electra = pretrain(data, args.output_dir, args.pretrain_steps)
    runs = {"random weights": {"model_config": CONFIG}, "pretrained": {"init_ckpt": electra}}
    folders = {f"Funnel, {name}": args.output_dir / name.replace(" ", "_") for name in runs}
    for model_dir, begin in zip(folders.values(), runs.values(), strict=True):
        train_funnel(data, model_dir, args.epochs, begin)
    levels = baselines(data)
    results = dict(levels["test"])
    results |= {name: funnel_accuracy(data, folder) for name, folder in folders.items()}
    curves = {name: folder / METRICS_FILE for name, folder in folders.items()}
    plot_curves(curves, args.output_dir / "curves.png", metric="accuracy", levels=levels["dev"])
    seconds = time.monotonic() - start
    atomic_write_json(args.output_dir / "results.json", {**results, "seconds": round(seconds)})
    report(results, args.output_dir, seconds)


if __name__ == "__main__":
    run_main(main)
