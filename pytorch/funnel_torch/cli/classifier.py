"""Classification and regression, from settings to scores: what ``classifier.py`` runs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from funnel.checkpoints import Checkpoint
from funnel.checkpoints.saved_head import describe_heads
from funnel.cli.sweep import run_seeds
from funnel.cli.task_module import load_task_module
from funnel.config.training.losses import PLAIN_LOSS, LabelLoss
from funnel.features.class_balance import balance_examples, count_classes, label_loss
from funnel.features.classification import Features
from funnel.features.held_out import hold_out, without_dev
from funnel.inference.task_files import read_ids, write_task_predictions
from funnel.tasks import Task, get_task
from funnel.tasks.custom import custom_task_config
from funnel.tasks.saved_labels import take_labels
from funnel.tasks.submission import find_companion, write_submission
from funnel.tokenization import Tokenizer
from funnel.utils.errors import CheckpointError
from funnel.utils.files import atomic_write_json
from funnel_torch.cli import model_factory, processes, runs
from funnel_torch.cli.settings.classifier import ClassifierSettings
from funnel_torch.data.batching import ExampleSource, ResampledSource, SequenceSource
from funnel_torch.models.heads import FunnelForSequenceClassification
from funnel_torch.tasks.classification import (
    build_evaluation,
    build_source,
    decisions,
    load_splits,
)
from funnel_torch.tasks.config import DataConfig
from funnel_torch.tasks.finetune import predict
from funnel_torch.training.distributed import DistributedContext
from funnel_torch.training.trainer import Scores

logger = logging.getLogger(__name__)

# Key of the test set that is submitted along with the task's (MNLI's AX).
_COMPANION = "companion"
_NEW_HEAD = "--new_head starts with a fresh head"
# What a run that has trained is good for next; see :func:`runs.close_run`.
_NEXT = {"predict the test data with this model": ("--test_only", "--write_prediction")}


@dataclass(frozen=True)
class RunInputs:
    """Everything a run needs, checked before anything is written.

    ``sources`` has the batches of every split that the run reads; ``companion`` is the task that is
    submitted with the run's.
    """

    task: Task
    companion: Task | None
    sources: Mapping[str, SequenceSource]
    run: runs.RunContext
    factory: model_factory.ModelFactory[FunnelForSequenceClassification]
    model: FunnelForSequenceClassification


def run(settings: ClassifierSettings) -> None:
    """Fine-tune, evaluate and predict in this process, one of several perhaps."""
    if settings.series.seeds:
        run_seeds(settings.series, settings.run.model_dir)
        return
    with processes.start_processes(settings) as world:
        seed = processes.common_seed(settings, world)
        inputs = world.rank_zero_first(prepare, settings, world, seed)
        model = inputs.model.to(world.device)
        scores: Scores = {}
        if settings.trains:
            model, scores = train(settings, inputs, world)
        finish(settings, inputs, model, scores, world)
        has_test = inputs.task.has_split(settings.data.data_dir, "test")
        runs.close_run(inputs.run, world, _NEXT if has_test else {})


def prepare(settings: ClassifierSettings, world: DistributedContext, seed: int) -> RunInputs:
    """Read and check everything; write nothing but the cache of encoded texts."""
    settings.check()
    extension = load_task_module(settings.task.task_module)
    custom = custom_task_config(settings.task.dataset, settings.custom)
    data = replace(settings.data, length_step=settings.device.length_step(settings.data.max_length))
    task = hold_out(get_task(settings.task.dataset or "", custom=custom), data.dev_fraction)
    if data.no_dev and settings.trains:
        task = without_dev(task)
    if settings.trains:
        task = task.resolve_labels(data.data_dir)
    tokenizer = runs.load_tokenizer(settings, trains=settings.trains, segments=data.segments)
    data = replace(data, segments=tokenizer.segments)

    config = settings.result_affecting_config() | extension
    config |= {"dataset": task.name, "labels": task.labels, "processes": world.size}
    config["vocabulary"] = tokenizer.fingerprint
    run_context = runs.open_run(settings, config, seed, world, trains=settings.trains)
    runs.check_results(settings, run_context, model_dir=settings.run.model_dir)
    checkpoint = runs.read_start(settings, run_context)
    task = match_labels(settings, task, run_context, checkpoint)
    if settings.trains:
        settings.losses.check(task.problem_type)

    head, arguments = FunnelForSequenceClassification, head_arguments(task)
    length, labels = data.max_length, task.labels
    factory = model_factory.make_factory(settings, head, tokenizer, length, arguments, labels)
    model = factory.load(run_context.checkpoint, checkpoint)
    companion = find_companion(task, data.data_dir) if settings.task.do_submit else None
    features = load_features(settings, task, data, tokenizer)
    if settings.trains:
        model.label_loss = make_loss(settings, task, features["train"])
    if companion is not None:
        other, folder = companion
        data = replace(data, data_dir=str(folder))
        features[_COMPANION] = load_splits(other, ["test"], data, tokenizer)["test"]
    sources = {
        split: build_source(encoded, model.config, data, tokenizer)
        for split, encoded in features.items()
    }
    other_task = None if companion is None else companion[0]
    return RunInputs(task, other_task, sources, run_context, factory, model)


def match_labels(
    settings: ClassifierSettings,
    task: Task,
    run_context: runs.RunContext,
    checkpoint: Checkpoint | None,
) -> Task:
    """Return the task with its labels in the order of the model's outputs.

    Without training the model decides; a model that is trained further must have the same labels.

    Raises:
        ConfigError: the labels or the problem type differ.
        CheckpointError: the head has another size or, without training, is missing.
    """
    is_own = run_context.checkpoint is not None
    if checkpoint is None or (settings.init.new_head and not is_own):
        return task.resolve_labels(settings.data.data_dir)
    heads = describe_heads(checkpoint)
    head = heads.get(task.name) or (next(iter(heads.values())) if len(heads) == 1 else None)
    if head is not None:
        remedy = "" if is_own or not settings.trains else _NEW_HEAD
        return take_labels(task, head, settings.data.data_dir, remedy)
    if not settings.trains:
        raise CheckpointError(
            f"{checkpoint.metadata.get('path')}: has no classification head; train one first"
        )
    return task


def head_arguments(task: Task) -> dict[str, Any]:
    """Return the arguments of the head of a task."""
    return {
        "num_labels": task.num_labels,
        "regression": task.is_regression,
        "multi_label": task.is_multi_label,
        "cls_scope": task.name,
    }


def make_loss(settings: ClassifierSettings, task: Task, train: Features) -> LabelLoss:
    """Return the loss that a model is trained with."""
    if task.is_regression or train.labels is None:
        return PLAIN_LOSS
    counts = count_classes(train.labels, task.num_labels)
    return label_loss(settings.losses, task, counts, len(train))


def load_features(
    settings: ClassifierSettings, task: Task, data: DataConfig, tokenizer: Tokenizer
) -> dict[str, Features]:
    """Return the splits this run needs, encoded."""
    flags, folder = settings.task, data.data_dir
    has_test = task.has_split(folder, "test")
    splits = [] if flags.test_only else ["train"]
    splits += [s for s in task.eval_splits if not flags.test_only or task.has_split(folder, s)]
    if flags.do_submit or (has_test and (flags.write_prediction or flags.test_only)):
        splits.append("test")
    elif flags.write_prediction:
        logger.warning("%s: no test file, so no test_results.txt", data.data_dir)
    if not splits:
        # Raises DataError, which names the files that are looked for.
        task.path(data.data_dir, (*task.eval_splits, "test")[0])
    return load_splits(task, splits, data, tokenizer)


def train(
    settings: ClassifierSettings, inputs: RunInputs, world: DistributedContext
) -> tuple[FunnelForSequenceClassification, Scores]:
    """Fine-tune; return the best model (with --debug: the last one) and its dev scores."""
    task, sources, size = inputs.task, inputs.sources, settings.evaluation.valid_bsz
    source: ExampleSource = sources["train"]
    labels = sources["train"].features.labels
    if settings.losses.balanced_sampling and labels is not None:
        source = ResampledSource(source, balance_examples(labels, inputs.run.seed))
    evaluations = [
        build_evaluation(task, split, sources[split], size) for split in task.eval_splits
    ]
    return runs.train(
        settings, inputs.run, inputs.factory, inputs.model, source, evaluations, world
    )


def finish(
    settings: ClassifierSettings,
    inputs: RunInputs,
    model: FunnelForSequenceClassification,
    known: Scores,
    world: DistributedContext,
) -> None:
    """Predict and score every split that is not in ``known``, and write the results."""
    task, scores, predictions = inputs.task, dict(known), {}
    sizes, precision = settings.evaluation, settings.device.precision
    for split, source in inputs.sources.items():
        if split == "train" or (split in known and not settings.task.write_prediction):
            continue
        size = sizes.valid_bsz if split in task.eval_splits else sizes.test_bsz
        outputs = predict(model, source, ["logits"], world, batch_size=size, precision=precision)
        predictions[split] = outputs["logits"]
        if source.features.labels is not None and task.metrics:
            scores[split] = build_evaluation(task, split, source, size).score(outputs)
            if scores[split] != known.get(split):
                runs.log_scores(split, scores[split])
    world.on_rank_zero(write_results, settings, inputs, scores, predictions)


def write_results(
    settings: ClassifierSettings,
    inputs: RunInputs,
    scores: Scores,
    predictions: Mapping[str, np.ndarray],
) -> None:
    """Write final scores, predictions and submission files below model_dir."""
    if settings.run.debug or not settings.run.model_dir:
        return
    folder, task, other = Path(settings.run.model_dir), inputs.task, inputs.companion
    atomic_write_json(folder / "final_scores.json", scores)
    for split, logits in predictions.items() if settings.task.write_prediction else ():
        name = "test" if split == "test" else "valid"
        if split in (*task.eval_splits, "test"):
            write_task_predictions(
                folder / f"{name}_results",
                task,
                logits,
                settings.predictions,
                indexed=settings.task.indexed_predictions,
                ids=read_ids(task, settings.data.data_dir, split),
            )
    if settings.task.do_submit:
        submit_dir = settings.task.submit_dir or folder / "submit"
        written = [write_submission(task, decisions(task, predictions["test"]), submit_dir)]
        if other is not None:
            ids = decisions(other, predictions[_COMPANION])
            written.append(write_submission(other, ids, submit_dir))
        logger.info("submission: %s", ", ".join(str(path) for path in written))
