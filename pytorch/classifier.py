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
import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import _paths  # noqa: F401

import numpy as np

import torch_flags as flags
from funnel.cli import USER_ERROR, run
from funnel.errors import DataError
from funnel.features import Features
from funnel.files import atomic_write_json
from funnel.reporting import MetricsLog, NullLog, configure_logging
from funnel.submission import companion, write_submission
from funnel.tasks import Task, get_task
from funnel.tokenization import Tokenizer, get_tokenizer
from funnel_torch import FunnelForSequenceClassification
from funnel_torch.classification import (
    decisions,
    evaluation_of,
    load_splits,
    source_of,
    write_predictions,
)
from funnel_torch.distributed import FirstProcessFailed, World, start
from funnel_torch.finetune import fine_tune, predict
from funnel_torch.randomness import seed_everything
from funnel_torch.runs import RunDirectory
from funnel_torch.starting_point import build_model
from funnel_torch.trainer import RunOutput, Scores

logger = logging.getLogger(__name__)

# Where the test set that is submitted along with the task's (MNLI's AX) is kept.
_COMPANION = "companion"


@dataclass(frozen=True)
class Job:
    """Everything a run needs, checked before anything is written."""

    task: Task
    tokenizer: Tokenizer
    features: Mapping[str, Features]
    model: FunnelForSequenceClassification
    directory: RunDirectory | None
    seed: int


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
    if args.do_submit and (found := companion(task, args.data_dir)):
        other, folder = found
        config = replace(config, data_dir=str(folder))
        features[_COMPANION] = load_splits(other, ["test"], config, tokenizer)["test"]
    return features


def _exists(args: argparse.Namespace, task: Task, split: str) -> bool:
    try:
        return task.path(args.data_dir, split).exists()
    except DataError:
        return False


def claim_directory(
    args: argparse.Namespace, task: Task, tokenizer: Tokenizer, processes: int
) -> RunDirectory | None:
    """The run's directory, if it may have it; nothing is written yet."""
    if args.debug or args.test_only:
        return None
    settings = flags.deciding_settings(args)
    settings |= {"dataset": task.name, "labels": task.labels, "processes": processes}
    settings["vocabulary"] = tokenizer.fingerprint
    return RunDirectory(args.model_dir, settings, resume=args.resume, overwrite=args.overwrite)


def load_model(
    args: argparse.Namespace, task: Task, tokenizer: Tokenizer, checkpoint: Path | None
) -> FunnelForSequenceClassification:
    """The model of a run's own ``checkpoint``, or None: the one the flags name."""
    begin = replace(flags.start_config(args, tokenizer.vocab_size), labels=task.labels)
    if checkpoint is not None:
        own = {"checkpoint": str(checkpoint), "config_path": "", "overwrite": (), "new_head": False}
        begin = replace(begin, **own)
    return build_model(
        FunnelForSequenceClassification,
        begin,
        tokenizer,
        args.max_length,
        num_labels=task.num_labels,
        regression=task.is_regression,
        cls_scope=task.name,
    )


def prepare(args: argparse.Namespace, world: World, seed: int) -> Job:
    """Read and check everything; writes nothing but the cache of encoded texts."""
    flags.check_classifier_flags(args)
    task = get_task(args.dataset, custom=flags.custom_task_config(args))
    task = task.resolve_labels(args.data_dir)
    vocabulary = flags.tokenizer_path(args)
    tokenizer = get_tokenizer(args.tokenizer_type, vocabulary, uncased=not args.cased)
    directory = claim_directory(args, task, tokenizer, world.size)
    checkpoint = None
    if directory is not None:
        recorded = directory.recorded("seed")
        seed = seed if recorded is None else recorded
        checkpoint = directory.last if directory.can_resume else None
    elif args.test_only and not args.init_ckpt:
        checkpoint = Path(args.model_dir) / "best"
    seed_everything(seed)
    model = load_model(args, task, tokenizer, checkpoint)
    return Job(task, tokenizer, load_features(args, task, tokenizer), model, directory, seed)


def train(
    args: argparse.Namespace, job: Job, world: World
) -> tuple[FunnelForSequenceClassification, Scores]:
    """Fine-tune; returns the best model (with --debug: the final one) and its dev scores."""
    task, directory, model = job.task, job.directory, job.model.to(world.device)
    output, resume = RunOutput(), False
    if directory is not None:
        resume = directory.can_resume
        information = {"seed": job.seed, "command": sys.argv}
        world.in_first(lambda: directory.create(model.config, information))
        step = directory.resume_step
        log = MetricsLog(directory.path, resume_step=step) if world.is_first else NullLog()

        def save_model(folder: Path) -> None:
            model.save_pretrained(folder, vocab_path=job.tokenizer.path, labels=task.labels)

        output = RunOutput(directory, log, save_model)
    data = flags.data_config(args)
    sources = {
        split: source_of(features, model.config, data, job.tokenizer)
        for split, features in job.features.items()
    }
    evaluations = [evaluation_of(task, s, sources[s], args.valid_bsz) for s in task.eval_splits]
    config = flags.fine_tune_config(args, job.seed)
    progress = fine_tune(model, sources["train"], evaluations, config, world, output, resume)
    output.log.close()
    is_best = progress.best_step == progress.step
    if is_best or directory is None or not progress.best:
        return model, progress.best if is_best else {}
    best = load_model(args, task, job.tokenizer, directory.best)
    return best.to(world.device), progress.best


def finish(
    args: argparse.Namespace,
    job: Job,
    model: FunnelForSequenceClassification,
    known: Scores,
    world: World,
) -> None:
    """Predict and score what is not ``known`` or is to be written; write what was asked for."""
    task, scores, predictions = job.task, dict(known), {}
    for split, features in job.features.items():
        if split == "train" or (split in known and not args.write_prediction):
            continue
        source = source_of(features, model.config, flags.data_config(args), job.tokenizer)
        size = args.valid_bsz if split in task.eval_splits else args.test_bsz
        precision = flags.precision(args)
        outputs = predict(model, source, ["logits"], world, batch_size=size, precision=precision)
        predictions[split] = outputs["logits"]
        if features.labels is not None and task.metrics:
            scores[split] = evaluation_of(task, split, source, size).score(outputs)
            text = ", ".join(f"{name} {value:.4f}" for name, value in scores[split].items())
            logger.info("final model, %s: %s", split, text)
    world.in_first(lambda: write_results(args, task, scores, predictions))


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
            write_predictions(task, logits, folder / f"{name}_results.txt")
    if args.do_submit:
        submit_dir = args.submit_dir or folder / "submit"
        written = [write_submission(task, decisions(task, predictions["test"]), submit_dir)]
        if _COMPANION in predictions:
            other = get_task(task.also_submits)
            ids = decisions(other, predictions[_COMPANION])
            written.append(write_submission(other, ids, submit_dir))
        logger.info("submission: %s", ", ".join(str(path) for path in written))


def work(args: argparse.Namespace, world: World) -> None:
    """The whole program in one process of ``world``."""
    flags.notices(args, world.size)
    seed = world.broadcast(secrets.randbelow(2**31) if args.seed is None else args.seed)
    job = world.first_then_rest(lambda: prepare(args, world, seed))
    model, scores = job.model.to(world.device), {}
    if not args.test_only:
        model, scores = train(args, job, world)
    finish(args, job, model, scores, world)


def main() -> None:
    args = flags.classifier_parser(__doc__).parse_args()
    place = flags.distributed_config(args, os.environ)
    configure_logging(args.verbose, 0 if args.log_all_processes else place.rank)
    try:
        with start(place) as world:
            work(args, world)
    except FirstProcessFailed:
        sys.exit(USER_ERROR)


if __name__ == "__main__":
    run(main)
