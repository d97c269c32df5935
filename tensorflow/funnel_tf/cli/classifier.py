"""``classifier.py``: fine-tuning, evaluation, prediction and submission of classification tasks."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from funnel.checkpoints.saved_head import read_heads
from funnel.cli.flags import check_given
from funnel.cli.task_module import load_task_module
from funnel.config.heads import SavedHead
from funnel.config.model import ModelConfig
from funnel.config.training.losses import PLAIN_LOSS, LabelLoss
from funnel.features.class_balance import BALANCED, label_loss
from funnel.features.held_out import hold_out
from funnel.features.record_files import ExampleFile
from funnel.features.tfrecords import RecordOptions, classifier_records
from funnel.inference.task_files import read_ids, write_task_predictions
from funnel.tasks import Task, get_task
from funnel.tasks.custom import custom_task_config
from funnel.tasks.metrics import compute
from funnel.tasks.saved_labels import take_labels
from funnel.tasks.submission import find_companion, write_submission
from funnel.tokenization import Tokenizer
from funnel.utils.errors import CheckpointError, ConfigError
from funnel_tf.cli import configs, runs
from funnel_tf.cli.programs import ClassifierSettings
from funnel_tf.compat import tf
from funnel_tf.models.heads import LabelHead, label_head
from funnel_tf.models.modeling import ModelInputs
from funnel_tf.models.options import GraphOptions
from funnel_tf.training.estimator import BuildGraph, Features, Graph
from funnel_tf.training.evaluation import Scores
from funnel_tf.training.patience import CachedScores
from funnel_tf.training.prediction import Predictions
from funnel_tf.training.run_directory import RunDirectory, saved_steps

logger = logging.getLogger(__name__)

# Name among the record files of the test set submitted along with that of the task (MNLI's AX).
_COMPANION = "companion"
_NEW_SCOPE = "--cls_scope=NAME starts with a fresh head"
_NEXT = {"predict the test data with this model": ("--do_predict=True",)}


@dataclass(frozen=True)
class RunInputs:
    """Everything a run needs, checked before anything but record files is written."""

    task: Task
    tokenizer: Tokenizer
    config: ModelConfig
    scope: str
    files: Mapping[str, ExampleFile]
    directory: RunDirectory | None
    companion: Task | None
    loss: LabelLoss = PLAIN_LOSS

    @property
    def graph(self) -> BuildGraph:
        """The classifier as a graph."""
        return partial(_build_graph, self)


def run(settings: ClassifierSettings) -> None:
    """Train, evaluate, predict and submit, as the settings request."""
    inputs, step = prepare(settings), 0
    score = CachedScores(partial(_score, settings, inputs))
    if inputs.directory is not None:
        step = train(settings, inputs, inputs.directory, score)
    best = runs.evaluate_if_asked(settings, score)
    if settings.task.do_submit or settings.task.do_predict:
        write_results(settings, inputs, runs.chosen_checkpoint(settings, best))
    if inputs.directory is not None:
        has_test = inputs.task.has_split(settings.task.data_dir, "test")
        runs.close_run(settings, inputs.directory, step, best, _NEXT if has_test else {})


def prepare(settings: ClassifierSettings) -> RunInputs:
    """Read and check everything; write nothing but the record files.

    Raises:
        ConfigError: flags are missing or contradict each other.
    """
    wanted, chosen, data_dir = settings.run, settings.task, settings.task.data_dir
    check_given(
        task_name=chosen.task_name, data_dir=data_dir, output_dir=settings.records.output_dir
    )
    if not (wanted.do_train or wanted.do_eval or chosen.do_submit or chosen.do_predict):
        raise ConfigError("nothing to do: --do_train, --do_eval, --do_submit or --do_predict")
    if settings.columns.multi_label and chosen.do_submit:
        raise ConfigError("--do_submit: goes with benchmarks, which have one label per text")
    settings.predictions.check(writes=chosen.do_predict, flag="do_predict")
    configs.check_model_dir(settings)
    configs.check_eval_split(settings, settings.evaluation.eval_split, wanted.do_eval)
    extension = load_task_module(chosen.task_module)
    task = get_task(chosen.task_name, custom=custom_task_config(chosen.task_name, settings.columns))
    task = hold_out(task, settings.economy.dev_fraction)
    if wanted.do_train:
        task = task.resolve_labels(data_dir)
    split = settings.evaluation.eval_split
    if wanted.do_eval:
        check_labelled(task, split)
    tokenizer = configs.open_tokenizer(settings, settings.segments)
    config = configs.model_config(settings, tokenizer)
    directory = None
    if wanted.do_train:
        configs.schedule_config(settings)  # refuses values out of range
        named = {"task_name": task.name, "labels": task.labels, **extension}
        directory = runs.open_run(settings, tokenizer, **named)
    scope = settings.classification.cls_scope or chosen.task_name.lower()
    if directory is None:
        scope, head = find_trained_head(settings, scope)
        task = take_labels(task, head, data_dir)
    elif initial := find_initial_head(settings, directory, scope):
        task = take_labels(task, initial, data_dir, "" if directory.step else _NEW_SCOPE)
    if wanted.do_train:
        settings.losses.check(task.problem_type)
    companion = find_companion(task, data_dir) if chosen.do_submit else None
    files = load_records(settings, task, tokenizer, companion)
    other = None if companion is None else companion[0]
    loss = make_loss(settings, task, files["train"]) if wanted.do_train else PLAIN_LOSS
    return RunInputs(task, tokenizer, config, scope, files, directory, other, loss)


def check_labelled(task: Task, split: str) -> None:
    """Refuse to evaluate on a split that the task does not have, or that has no labels.

    Raises:
        ConfigError: it cannot be scored; the message names the splits there are.
    """
    if split not in task.sources and not (split == "dev" and task.eval_splits):
        raise ConfigError(
            f"--eval_split={split}: task {task.name} has {', '.join(task.splits)} only"
        )
    source = task.sources.get(split)
    if source is not None and (source.label is None or source.label_optional):
        raise ConfigError(f"--eval_split={split}: has no labels to score against")


def make_loss(settings: ClassifierSettings, task: Task, train: ExampleFile) -> LabelLoss:
    """Return the loss that a model is trained with.

    Raises:
        ConfigError: its settings do not fit the labels, or the records do not say how many have
            each label.
    """
    if task.is_regression:
        return PLAIN_LOSS
    counts = [train.report.labels.get(label, 0) for label in task.known_labels()]
    if settings.losses.class_weights == BALANCED and not train.report.rows:
        raise ConfigError(f"--class_weights=balanced: {train.path} does not count its labels")
    return label_loss(settings.losses, task, counts, train.report.rows)


def find_trained_head(settings: ClassifierSettings, scope: str) -> tuple[str, SavedHead]:
    """Return scope and description of the head that is evaluated without training.

    Raises:
        CheckpointError: there is no checkpoint, or it has no such head.
    """
    prefix = runs.trained_checkpoint(settings)
    heads = read_heads(prefix)
    # Unless a scope is asked for, the only head is meant, whatever the task was called in training.
    if scope not in heads and len(heads) == 1 and not settings.classification.cls_scope:
        (scope,) = heads
    if scope not in heads:
        others = f" (only of {', '.join(heads)})" if heads else ""
        raise CheckpointError(
            f"{prefix}: has no classification head model/{scope}/logit{others}; "
            "--cls_scope names the scope it was trained with"
        )
    return scope, heads[scope]


def find_initial_head(
    settings: ClassifierSettings, directory: RunDirectory, scope: str
) -> SavedHead | None:
    """Return the head that training starts from; None for a fresh one."""
    if directory.step:
        return read_heads(saved_steps(directory.path)[-1].prefix).get(scope)
    run = settings.run
    if not run.init_checkpoint:
        return None
    return read_heads(run.init_checkpoint, run.model_config or None).get(scope)


def load_records(
    settings: ClassifierSettings,
    task: Task,
    tokenizer: Tokenizer,
    companion: tuple[Task, Path] | None = None,
) -> dict[str, ExampleFile]:
    """Return the record files of this run by split; those that do not fit are rebuilt.

    ``companion`` is the task submitted with this one, and the directory of its data.
    """
    details, data_dir = settings.classification, settings.task.data_dir
    options = RecordOptions(details.overwrite_data, segments=tokenizer.segments)
    wanted: dict[str, RecordOptions] = {}
    if settings.run.do_train:
        seed = (settings.run.seed or 0) if details.shuffle_examples else None
        wanted["train"] = replace(options, shuffle_seed=seed, num_passes=details.num_passes)
        wanted["train"] = replace(wanted["train"], balanced=settings.losses.balanced_sampling)
    if settings.run.do_eval:
        padded = replace(options, multiple=settings.evaluation.eval_batch_size)
        wanted |= dict.fromkeys(_eval_splits(settings, task), padded)
    if settings.task.do_submit or settings.task.do_predict:
        wanted.setdefault("test", options)
    folder, length = settings.records.output_dir, details.max_seq_length
    files = {
        split: classifier_records(folder, task, split, data_dir, tokenizer, length, chosen)
        for split, chosen in wanted.items()
    }
    if companion is not None:
        other, other_dir = companion
        folder = str(Path(folder, other.name))
        files[_COMPANION] = classifier_records(
            folder, other, "test", str(other_dir), tokenizer, length, wanted["test"]
        )
    return files


def train(
    settings: ClassifierSettings,
    inputs: RunInputs,
    directory: RunDirectory,
    score: CachedScores,
) -> int:
    """Fine-tune up to --train_steps; return the last step."""
    task = inputs.task
    metadata = {
        "tokenizer": inputs.tokenizer,
        "labels": None if task.labels is None else list(task.labels),
        "problem_type": task.problem_type,
        "cls_scope": inputs.scope,
    }
    files = [inputs.files["train"]]
    return runs.fine_tune(
        settings, directory, files, inputs.config, inputs.graph, metadata, evaluate=score
    )


def write_results(settings: ClassifierSettings, inputs: RunInputs, checkpoint: Path) -> None:
    """Write predictions of the test data and submission files, as far as requested."""
    task, requested = inputs.task, settings.task
    folder = Path(settings.run.model_dir or settings.eval_model_dir)
    run = runs.evaluation_settings(settings, settings.classification.predict_batch_size)
    found = runs.predict_examples(run, inputs.graph, inputs.files["test"], checkpoint)
    if requested.do_predict:
        write_task_predictions(
            folder / "test_results",
            task,
            found["logits"],
            settings.predictions,
            indexed=requested.indexed_predictions,
            ids=read_ids(task, requested.data_dir, "test"),
        )
    if not requested.do_submit:
        return
    submit_dir = requested.submit_dir or folder / "submit"
    written = [write_submission(task, found["predictions"], submit_dir)]
    if (other := inputs.companion) is not None:
        found = runs.predict_examples(run, inputs.graph, inputs.files[_COMPANION], checkpoint)
        written.append(write_submission(other, found["predictions"], submit_dir))
    logger.info("%s: submission %s", checkpoint, ", ".join(str(path) for path in written))


def _eval_splits(settings: ClassifierSettings, task: Task) -> list[str]:
    """Return the splits to evaluate: ``dev`` means all development splits of the task."""
    split = settings.evaluation.eval_split
    return list(task.eval_splits) if split == "dev" else [split]


def _build_graph(inputs: RunInputs, features: Features, options: GraphOptions, mode: str) -> Graph:
    task, is_training = inputs.task, mode == tf.estimator.ModeKeys.TRAIN
    # Evaluations report the plain loss, so that runs can be compared.
    loss = inputs.loss if is_training else PLAIN_LOSS
    given = (features["label_ids"], features["is_real_example"])
    wanted = LabelHead(task.num_labels, task.problem_type, inputs.scope, loss)
    sequences = ModelInputs.from_features(features)
    head = label_head(inputs.config, sequences, *given, options, wanted)
    kept = {"loss": head.per_example_loss, "label_ids": features["label_ids"]}
    return Graph(head.loss, {**head.predictions, **kept})


def _score(
    settings: ClassifierSettings, inputs: RunInputs, predictions: Predictions, checkpoint: Path
) -> Scores:
    """Return the metrics of the task and the loss of a checkpoint on each split to evaluate."""
    run = runs.evaluation_settings(settings, settings.evaluation.eval_batch_size)
    result = {}
    for split in _eval_splits(settings, inputs.task):
        found = predictions.predict(run, inputs.graph, inputs.files[split], checkpoint)
        metrics = compute(inputs.task, found["predictions"], found["label_ids"])
        result[split] = {**metrics, "loss": float(np.mean(found["loss"], dtype=np.float64))}
    return result
