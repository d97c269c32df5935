"""``tagger.py``: fine-tuning, evaluation and prediction of the tags of words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from funnel.checkpoints.saved_head import (
    NEW_DECODER,
    has_decoder,
    read_names,
    read_tagger,
    require_decoder,
)
from funnel.cli.flags import check_given
from funnel.cli.tagging import windows_as_trained
from funnel.config.model import ModelConfig
from funnel.features.record_files import ExampleFile
from funnel.features.tagging.records import tagging_records
from funnel.features.tagging.splits import LoadedSplit, load_split
from funnel.features.tfrecords import RecordOptions
from funnel.inference.tagging_files import write_tags
from funnel.tasks.tagging.saved import take_tags
from funnel.tasks.tagging.task import TaggingTask, tagging_task
from funnel.tokenization import Tokenizer
from funnel.tokenization.choice import weights_directory
from funnel.utils.errors import CheckpointError, ConfigError
from funnel_tf.cli import configs, runs
from funnel_tf.cli.programs import TaggerSettings
from funnel_tf.models.modeling import ModelInputs
from funnel_tf.models.options import GraphOptions
from funnel_tf.models.token_classification import token_head
from funnel_tf.training.estimator import BuildGraph, Features, Graph
from funnel_tf.training.evaluation import Scores
from funnel_tf.training.patience import CachedScores
from funnel_tf.training.prediction import Predictions
from funnel_tf.training.run_directory import RunDirectory, saved_steps

# What a run that has trained is good for next; see :func:`runs.close_run`.
_NEXT = {"predict the test data with this model": ("--do_predict=True",)}


@dataclass(frozen=True)
class RunInputs:
    """Everything a run needs, checked before anything but record files is written."""

    task: TaggingTask
    tokenizer: Tokenizer
    config: ModelConfig
    splits: Mapping[str, LoadedSplit]
    files: Mapping[str, ExampleFile]
    directory: RunDirectory | None

    @property
    def graph(self) -> BuildGraph:
        """The token classifier as a graph."""
        return partial(_build_graph, self)


def run(settings: TaggerSettings) -> None:
    """Train, evaluate and predict, as the settings request."""
    inputs, step = prepare(settings), 0
    score = CachedScores(partial(_score, settings, inputs))
    if inputs.directory is not None:
        step = train(settings, inputs, inputs.directory, score)
    best = runs.evaluate_if_asked(settings, score)
    if settings.task.do_predict:
        write_results(settings, inputs, runs.chosen_checkpoint(settings, best))
    if inputs.directory is not None:
        has_test = inputs.task.has_split(settings.task.data_dir, "test")
        runs.close_run(settings, inputs.directory, step, best, _NEXT if has_test else {})


def prepare(settings: TaggerSettings) -> RunInputs:
    """Read and check everything; write nothing but the record files.

    Raises:
        ConfigError: flags are missing or contradict each other.
    """
    wanted, data_dir = settings.run, settings.task.data_dir
    check_given(
        task_name=settings.task.task_name,
        data_dir=data_dir,
        output_dir=settings.records.output_dir,
    )
    if not (wanted.do_train or wanted.do_eval or settings.task.do_predict):
        raise ConfigError("nothing to do: --do_train, --do_eval or --do_predict")
    settings.predictions.check(writes=settings.task.do_predict, flag="do_predict")
    configs.check_model_dir(settings)
    configs.check_eval_split(settings, settings.evaluation.eval_split, wanted.do_eval)
    settings = take_lengths(settings)
    task = tagging_task(settings.task.task_name, settings.files)
    if wanted.do_train:
        task = task.resolve_labels(data_dir)
    tokenizer = configs.open_tokenizer(settings, settings.windows.segments)
    config = configs.model_config(settings, tokenizer)
    directory = None
    if wanted.do_train:
        configs.schedule_config(settings)  # refuses values out of range
        directory = runs.open_run(settings, tokenizer, labels=task.labels)
        config = check_decoder(settings, config, directory)
    task = match_tags(settings, task, directory)
    task.metrics  # noqa: B018 - refuses a metric that does not fit the tags, before training
    splits = load_splits(settings, task, tokenizer)
    files = write_records(settings, task, tokenizer, splits)
    return RunInputs(task, tokenizer, config, splits, files, directory)


def take_lengths(settings: TaggerSettings) -> TaggerSettings:
    """Return the settings with the lengths of the model that is evaluated without training."""
    places = [place for place in (*settings.evaluated_paths, settings.run.model_dir) if place]
    if settings.run.do_train or not places:
        return settings
    directory = weights_directory(places[0])
    return replace(
        settings, windows=windows_as_trained(settings.windows, directory, settings.given)
    )


def check_decoder(
    settings: TaggerSettings, config: ModelConfig, directory: RunDirectory
) -> ModelConfig:
    """Return the configuration of the model, with a decoder if a random one is asked for.

    Raises:
        CheckpointError: the initial checkpoint has no decoder, and no random one is asked for.
    """
    start, random = settings.run.init_checkpoint, settings.decoder.random_decoder
    if start and not directory.step:
        names = read_names(start, settings.run.model_config or None)
        if not random:
            require_decoder(config, names, start)
        random = random and not has_decoder(config, names)
    if random and config.decoder is None and len(config.blocks) > 1:
        return config.replace(decoder_size=NEW_DECODER)
    return config


def match_tags(
    settings: TaggerSettings, task: TaggingTask, directory: RunDirectory | None
) -> TaggingTask:
    """Return the task with its tags in the order of the model's outputs.

    Raises:
        FunnelError: the tags differ, or a model that is not trained has no head.
    """
    data_dir, start = settings.task.data_dir, settings.run.init_checkpoint
    if directory is None:
        prefix = runs.trained_checkpoint(settings)
        head = read_tagger(prefix)
        if head is None:
            raise CheckpointError(f"{prefix}: has no token-classification head; train one first")
        return take_tags(task, head, data_dir)
    if directory.step:
        head = read_tagger(saved_steps(directory.path)[-1].prefix)
    else:
        head = read_tagger(start, settings.run.model_config or None) if start else None
    return task if head is None else take_tags(task, head, data_dir)


def load_splits(
    settings: TaggerSettings, task: TaggingTask, tokenizer: Tokenizer
) -> dict[str, LoadedSplit]:
    """Return the encoded sentences of the splits that this run reads."""
    data_dir = settings.task.data_dir
    windows = replace(settings.windows, segments=tokenizer.segments)
    names = ["train"] if settings.run.do_train else []
    names += [settings.evaluation.eval_split] if settings.run.do_eval else []
    names += ["test"] if settings.task.do_predict else []
    splits = {
        name: load_split(task, data_dir, name, tokenizer, windows) for name in dict.fromkeys(names)
    }
    chosen = settings.evaluation.eval_split
    if settings.run.do_eval and splits[chosen].features.labels is None:
        raise ConfigError(f"--eval_split={chosen}: has no tags to score against")
    return splits


def write_records(
    settings: TaggerSettings,
    task: TaggingTask,
    tokenizer: Tokenizer,
    splits: Mapping[str, LoadedSplit],
) -> dict[str, ExampleFile]:
    """Return the record files of the splits; those that do not fit are rebuilt."""
    options = RecordOptions(settings.tagger.overwrite_data, segments=tokenizer.segments)
    size, seed = settings.evaluation.eval_batch_size, settings.run.seed or 0
    chosen = {"train": replace(options, shuffle_seed=seed)}
    if settings.run.do_eval:
        chosen[settings.evaluation.eval_split] = replace(options, multiple=size)
    length, count = settings.windows.max_length, len(task.known_labels)
    folder = settings.records.output_dir
    return {
        name: tagging_records(
            *(folder, loaded, name, tokenizer, length, count, chosen.get(name, options))
        )
        for name, loaded in splits.items()
    }


def train(
    settings: TaggerSettings, inputs: RunInputs, directory: RunDirectory, score: CachedScores
) -> int:
    """Fine-tune up to --train_steps; return the last step."""
    metadata = {"tokenizer": inputs.tokenizer, "labels": list(inputs.task.known_labels)}
    return runs.fine_tune(
        settings,
        directory,
        [inputs.files["train"]],
        inputs.config,
        inputs.graph,
        metadata,
        random_decoder=settings.decoder.random_decoder,
        evaluate=score,
    )


def write_results(settings: TaggerSettings, inputs: RunInputs, checkpoint: Path) -> None:
    """Write the predicted tags of the test data."""
    folder = Path(settings.run.model_dir or settings.eval_model_dir)
    size, loaded = settings.tagger.predict_batch_size, inputs.splits["test"]
    run, features = runs.evaluation_settings(settings, size), loaded.features
    found = runs.predict_examples(run, inputs.graph, inputs.files["test"], checkpoint)
    logits, labels = features.by_word(found["logits"], at_positions=True), inputs.task.known_labels
    write_tags(folder / "test_results", loaded.words, labels, logits, settings.predictions)


def _build_graph(inputs: RunInputs, features: Features, options: GraphOptions, mode: str) -> Graph:
    head = token_head(
        inputs.config,
        ModelInputs.from_features(features),
        options,
        len(inputs.task.known_labels),
        labels=features["label_ids"],
        weights=features["is_real_example"],
    )
    return Graph(head.loss, {**head.predictions, "loss": head.per_example_loss})


def _score(
    settings: TaggerSettings, inputs: RunInputs, predictions: Predictions, checkpoint: Path
) -> Scores:
    """Return the metrics of the task and the loss of a checkpoint on --eval_split."""
    split, size = settings.evaluation.eval_split, settings.evaluation.eval_batch_size
    run, features = runs.evaluation_settings(settings, size), inputs.splits[split].features
    found = predictions.predict(run, inputs.graph, inputs.files[split], checkpoint)
    words = {name: features.by_word(array, at_positions=True) for name, array in found.items()}
    gold = features.by_sentence(np.asarray(features.labels))
    metrics = inputs.task.score(gold, features.by_sentence(words["predictions"]))
    return {split: {**metrics, "loss": float(np.mean(words["loss"], dtype=np.float64))}}
