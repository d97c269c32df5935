"""Fine-tune, evaluate and predict with a Funnel-Transformer on GLUE, text classification, own data.

One device, from a pretrained checkpoint; then eight GPUs with the same flags:

    python pytorch/classifier.py --dataset=CoLA --data_dir=GLUE/CoLA --model_dir=EXP \\
        --init_ckpt=CKPT --tokenizer_path=CKPT/vocab.uncased.txt --lr=1e-5 --epochs=10
    torchrun --nproc_per_node=8 pytorch/classifier.py ...

A run that was killed continues when the same command is given again; see pytorch/README.md for
what it leaves in model_dir.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import _paths  # noqa: F401

import numpy as np

from funnel.features.classification import Features
from funnel.tasks import Task, get_task
from funnel.tasks.predictions import write_predictions
from funnel.tasks.submission import find_companion, write_submission
from funnel.tokenization import Tokenizer
from funnel.utils.errors import DataError
from funnel.utils.files import atomic_write_json
from funnel.utils.main import run_main
from funnel_torch import FunnelForSequenceClassification
from funnel_torch.cli import flags, runs
from funnel_torch.tasks.classification import (
    build_evaluation,
    build_source,
    decisions,
    load_splits,
)
from funnel_torch.tasks.finetune import predict
from funnel_torch.training.distributed import DistributedContext
from funnel_torch.training.trainer import Scores

logger = logging.getLogger(__name__)

# Where the test set that is submitted along with the task's (MNLI's AX) is kept.
_COMPANION = "companion"


@dataclass(frozen=True)
class RunInputs:
    """Everything a run needs, checked before anything is written."""

    task: Task
    tokenizer: Tokenizer
    features: Mapping[str, Features]
    run: runs.RunContext
    plan: runs.ModelFactory[FunnelForSequenceClassification]
    model: FunnelForSequenceClassification


def load_features(
    args: argparse.Namespace, task: Task, tokenizer: Tokenizer
) -> dict[str, Features]:
    """The splits this run needs, encoded."""
    splits = [] if args.test_only else ["train"]
    splits += [s for s in task.eval_splits if not args.test_only or _exists(args, task, s)]
    has_test = _exists(args, task, "test")
    if args.do_submit or (has_test and (args.write_prediction or args.test_only)):
        splits.append("test")
    elif args.write_prediction:
        logger.warning("%s: no test file, so no test_results.txt", args.data_dir)
    config = flags.data_config(args)
    features = load_splits(task, splits, config, tokenizer)
    if args.do_submit and (found := find_companion(task, args.data_dir)):
        other, folder = found
        config = replace(config, data_dir=str(folder))
        features[_COMPANION] = load_splits(other, ["test"], config, tokenizer)["test"]
    return features


def _exists(args: argparse.Namespace, task: Task, split: str) -> bool:
    try:
        return task.path(args.data_dir, split).exists()
    except DataError:
        return False


def prepare(args: argparse.Namespace, world: DistributedContext, seed: int) -> RunInputs:
    """Read and check everything; writes nothing but the cache of encoded texts."""
    flags.check_classifier_flags(args)
    task = get_task(args.dataset, custom=flags.custom_task_config(args))
    task = task.resolve_labels(args.data_dir)
    trains = not args.test_only
    tokenizer = runs.load_tokenizer(args, trains=trains)
    settings = flags.result_affecting_config(args)
    settings |= {"dataset": task.name, "labels": task.labels, "processes": world.size}
    settings["vocabulary"] = tokenizer.fingerprint
    run = runs.open_run(args, settings, seed, trains=trains)
    arguments = {"num_labels": task.num_labels, "regression": task.is_regression}
    arguments["cls_scope"] = task.name
    plan = runs.ModelFactory(FunnelForSequenceClassification, tokenizer, arguments, task.labels)
    model = plan.load(args, run.checkpoint)
    return RunInputs(task, tokenizer, load_features(args, task, tokenizer), run, plan, model)


def train(
    args: argparse.Namespace, inputs: RunInputs, world: DistributedContext
) -> tuple[FunnelForSequenceClassification, Scores]:
    """Fine-tune; returns the best model (with --debug: the final one) and its dev scores."""
    task, model = inputs.task, inputs.model.to(world.device)
    data = flags.data_config(args)
    sources = {
        split: build_source(features, model.config, data, inputs.tokenizer)
        for split, features in inputs.features.items()
    }
    evaluations = [build_evaluation(task, s, sources[s], args.valid_bsz) for s in task.eval_splits]
    return runs.train(args, inputs.run, inputs.plan, model, sources["train"], evaluations, world)


def finish(
    args: argparse.Namespace,
    inputs: RunInputs,
    model: FunnelForSequenceClassification,
    known: Scores,
    world: DistributedContext,
) -> None:
    """Predict and score what is not ``known`` or is to be written; write what was asked for."""
    task, scores, predictions = inputs.task, dict(known), {}
    for split, features in inputs.features.items():
        if split == "train" or (split in known and not args.write_prediction):
            continue
        source = build_source(features, model.config, flags.data_config(args), inputs.tokenizer)
        size = args.valid_bsz if split in task.eval_splits else args.test_bsz
        precision = flags.precision(args)
        outputs = predict(model, source, ["logits"], world, batch_size=size, precision=precision)
        predictions[split] = outputs["logits"]
        if features.labels is not None and task.metrics:
            scores[split] = build_evaluation(task, split, source, size).score(outputs)
            runs.log_scores(split, scores[split])
    world.on_rank_zero(lambda: write_results(args, task, scores, predictions))


def write_results(
    args: argparse.Namespace, task: Task, scores: Scores, predictions: Mapping[str, np.ndarray]
) -> None:
    """Write final scores, predictions and submission files below model_dir."""
    if args.debug or not args.model_dir:
        return
    folder = Path(args.model_dir)
    atomic_write_json(folder / "final_scores.json", scores)
    for split, logits in predictions.items() if args.write_prediction else ():
        name = "test" if split == "test" else "valid"
        if split in (*task.eval_splits, "test"):
            write_predictions(folder / f"{name}_results.txt", task, decisions(task, logits))
    if args.do_submit:
        submit_dir = args.submit_dir or folder / "submit"
        written = [write_submission(task, decisions(task, predictions["test"]), submit_dir)]
        if _COMPANION in predictions:
            other = get_task(task.also_submits)
            ids = decisions(other, predictions[_COMPANION])
            written.append(write_submission(other, ids, submit_dir))
        logger.info("submission: %s", ", ".join(str(path) for path in written))


def work(args: argparse.Namespace, world: DistributedContext) -> None:
    """The whole program in one process of ``world``."""
    seed = runs.common_seed(args, world)
    inputs = world.rank_zero_first(lambda: prepare(args, world, seed))
    model, scores = inputs.model.to(world.device), {}
    if not args.test_only:
        model, scores = train(args, inputs, world)
    finish(args, inputs, model, scores, world)


def main() -> None:
    runs.start_program(flags.classifier_parser(__doc__), work)


if __name__ == "__main__":
    run_main(main)
