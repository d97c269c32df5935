"""Token classification, from settings to scores: what ``tagger.py`` runs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from funnel.checkpoints import Checkpoint
from funnel.checkpoints.saved_head import (
    NEW_DECODER,
    describe_tagger,
    has_decoder,
    require_decoder,
)
from funnel.cli.sweep import run_seeds
from funnel.cli.tagging import windows_as_trained
from funnel.config import hub
from funnel.features.tagging.splits import LoadedSplit, choose_splits, load_split
from funnel.features.tagging.windows import TaggingFeatures
from funnel.inference.tagging_files import write_tags
from funnel.tasks.tagging.saved import take_tags
from funnel.tasks.tagging.task import TaggingTask, tagging_task
from funnel.tokenization.choice import weights_directory
from funnel.utils.errors import CheckpointError
from funnel.utils.files import atomic_write_json
from funnel_torch.cli import model_factory, processes, runs
from funnel_torch.cli.settings.tagger import TaggerSettings
from funnel_torch.data.batching import PaddedSource
from funnel_torch.models.heads import FunnelForTokenClassification
from funnel_torch.tasks.finetune import Evaluation, predict
from funnel_torch.tasks.tagging import build_evaluation, build_source
from funnel_torch.training.distributed import DistributedContext
from funnel_torch.training.trainer import Scores

logger = logging.getLogger(__name__)

_NEW_HEAD = "--new_head starts with a fresh head"
# What a run that has trained is good for next; see :func:`runs.close_run`.
_NEXT = {"predict the test data with this model": ("--test_only", "--write_prediction")}


@dataclass(frozen=True)
class RunInputs:
    """Everything a run needs, checked before anything is written."""

    task: TaggingTask
    splits: Mapping[str, LoadedSplit]
    run: runs.RunContext
    factory: model_factory.ModelFactory[FunnelForTokenClassification]
    model: FunnelForTokenClassification


def run(settings: TaggerSettings) -> None:
    """Train if asked to, then score and predict the splits, in one of several processes perhaps."""
    if settings.series.seeds:
        run_seeds(settings.series, settings.run.model_dir)
        return
    with processes.start_processes(settings) as world:
        known: Scores = {}
        settings = take_lengths(settings)
        seed = processes.common_seed(settings, world)
        inputs = world.rank_zero_first(prepare, settings, world, seed)
        model = inputs.model.to(world.device)
        if settings.trains:
            model, known = train(settings, inputs, world)
        finish(settings, inputs, model, known, world)
        has_test = inputs.task.has_split(settings.task.data_dir, "test")
        runs.close_run(inputs.run, world, _NEXT if has_test else {})


def take_lengths(settings: TaggerSettings) -> TaggerSettings:
    """Return the settings with the lengths of the model that is evaluated without training."""
    model = settings.trained_model or settings.init.init_ckpt
    if settings.trains or not model:
        return settings
    directory = weights_directory(hub.resolve(model))
    windows = windows_as_trained(settings.windows, directory, settings.given)
    return replace(settings, windows=windows)


def prepare(settings: TaggerSettings, world: DistributedContext, seed: int) -> RunInputs:
    """Read and check everything; write nothing."""
    settings.check()
    data_dir, trains = settings.task.data_dir, settings.trains
    task = tagging_task(settings.task.dataset, settings.files)
    if trains:
        task = task.resolve_labels(data_dir)
    segments = settings.windows.segments
    tokenizer = runs.load_tokenizer(settings, trains=trains, segments=segments)
    windows = replace(settings.windows, segments=tokenizer.segments)

    config = settings.result_affecting_config() | {"processes": world.size}
    config |= {"labels": task.labels, "vocabulary": tokenizer.fingerprint}
    run_context = runs.open_run(settings, config, seed, world, trains=trains)
    runs.check_results(settings, run_context, model_dir=settings.run.model_dir)
    checkpoint = runs.read_start(settings, run_context)
    arguments: dict[str, Any] = {}
    if checkpoint is not None:
        arguments = check_decoder(settings, checkpoint)
        task = match_tags(settings, task, run_context, checkpoint)
    arguments["num_labels"] = len(task.known_labels)
    task.metrics  # noqa: B018 - refuses a metric that does not fit the tags, before training
    factory = model_factory.make_factory(
        *(settings, FunnelForTokenClassification, tokenizer, windows.max_length),
        *(arguments, task.known_labels),
    )
    model = factory.load(run_context.checkpoint, checkpoint)
    names = choose_splits(
        task, data_dir, trains=trains, predicts=settings.task.write_prediction or not trains
    )
    splits = {name: load_split(task, data_dir, name, tokenizer, windows) for name in names}
    return RunInputs(task, splits, run_context, factory, model)


def check_decoder(settings: TaggerSettings, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the arguments of the model that a checkpoint without decoder needs.

    Raises:
        CheckpointError: it has none, and no random one is asked for.
    """
    config, names = checkpoint.config, checkpoint.tensors
    where = str(checkpoint.metadata.get("path"))
    if not settings.decoder.random_decoder:
        require_decoder(config, names, where)
    if has_decoder(config, names):
        return {}
    depth = NEW_DECODER if config.decoder is None else config.decoder_size
    logger.warning("%s: has no decoder; one of %s layers starts from random weights", where, depth)
    return {"decoder_size": depth}


def match_tags(
    settings: TaggerSettings,
    task: TaggingTask,
    run_context: runs.RunContext,
    checkpoint: Checkpoint,
) -> TaggingTask:
    """Return the task with its tags in the order of the model's outputs.

    Raises:
        FunnelError: the tags differ, or a model that is not trained has no head.
    """
    is_own = run_context.checkpoint is not None
    if settings.init.new_head and not is_own:
        return task
    head = describe_tagger(checkpoint)
    if head is not None:
        remedy = "" if is_own or not settings.trains else _NEW_HEAD
        return take_tags(task, head, settings.task.data_dir, remedy)
    if not settings.trains:
        raise CheckpointError(
            f"{checkpoint.metadata.get('path')}: has no token-classification head; train one first"
        )
    return task


def make_source(
    settings: TaggerSettings, inputs: RunInputs, features: TaggingFeatures
) -> PaddedSource:
    """Return the batches of a split."""
    length = settings.windows.max_length
    step, pad_id = settings.device.length_step(length), inputs.factory.tokenizer.special.pad_id
    return build_source(features, inputs.model.config, length, pad_id, step)


def make_evaluation(settings: TaggerSettings, inputs: RunInputs, split: str) -> Evaluation:
    """Return the evaluation of a split."""
    sizes, features = settings.evaluation, inputs.splits[split].features
    size = sizes.valid_bsz if split == "dev" else sizes.test_bsz
    source = make_source(settings, inputs, features)
    return build_evaluation(inputs.task, features, source, split, size)


def train(
    settings: TaggerSettings, inputs: RunInputs, world: DistributedContext
) -> tuple[FunnelForTokenClassification, Scores]:
    """Fine-tune; return the best model (with --debug: the last one) and its dev scores."""
    source = make_source(settings, inputs, inputs.splits["train"].features)
    evaluations = [make_evaluation(settings, inputs, "dev")]
    return runs.train(
        settings, inputs.run, inputs.factory, inputs.model, source, evaluations, world
    )


def finish(
    settings: TaggerSettings,
    inputs: RunInputs,
    model: FunnelForTokenClassification,
    known: Scores,
    world: DistributedContext,
) -> None:
    """Predict and score every split that is not in ``known``, and write the results."""
    scores, predictions = dict(known), {}
    sizes, precision = settings.evaluation, settings.device.precision
    for split, loaded in inputs.splits.items():
        if split == "train" or (split in known and not settings.task.write_prediction):
            continue
        source = make_source(settings, inputs, loaded.features)
        size = sizes.valid_bsz if split == "dev" else sizes.test_bsz
        outputs = predict(model, source, ["logits"], world, batch_size=size, precision=precision)
        predictions[split] = outputs["logits"]
        if loaded.features.labels is not None:
            scores[split] = make_evaluation(settings, inputs, split).score(outputs)
            runs.log_scores(split, scores[split])
    world.on_rank_zero(write_results, settings, inputs, scores, predictions)


def write_results(
    settings: TaggerSettings,
    inputs: RunInputs,
    scores: Scores,
    predictions: Mapping[str, np.ndarray],
) -> None:
    """Write final scores and predictions below model_dir."""
    if settings.run.debug or not settings.run.model_dir:
        return
    folder = Path(settings.run.model_dir)
    atomic_write_json(folder / "final_scores.json", scores)
    for split, logits in predictions.items() if settings.task.write_prediction else ():
        loaded, name = inputs.splits[split], "test" if split == "test" else "valid"
        words, labels = loaded.features.by_word(logits), inputs.task.known_labels
        write_tags(folder / f"{name}_results", loaded.words, labels, words, settings.predictions)
