"""Fine-tune, evaluate and predict on GLUE, text classification and your own data.

From a pretrained checkpoint; then the same on data of your own:

    python tensorflow/classifier.py --do_train=True --do_eval=True --task_name=rte \\
        --data_dir=GLUE/RTE --output_dir=PROC --model_dir=EXP --init_checkpoint=CKPT/model.ckpt \\
        --model_config=CKPT/net_config.json --tokenizer_path=CKPT/vocab.uncased.txt \\
        --train_batch_size=16 --learning_rate=1e-5 --train_steps=1550 --warmup_steps=155 \\
        --save_steps=155
    python tensorflow/classifier.py --task_name=csv --text_column=review --label_column=stars ...

A run that was killed continues when the same command is given again. What a run leaves in model_dir
is in tensorflow/README.md.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import _paths  # noqa: F401

import numpy as np

from funnel.config.model import ModelConfig
from funnel.features.tfrecords import ExampleFile, RecordOptions, classifier_records
from funnel.tasks import Task, get_task
from funnel.tasks.metrics import compute
from funnel.tasks.predictions import write_predictions
from funnel.tasks.submission import find_companion, write_submission
from funnel.tokenization import Tokenizer
from funnel.utils.errors import ConfigError
from funnel.utils.main import run_main
from funnel_tf.cli import flags as tf_flags
from funnel_tf.cli import runs as tf_runs
from funnel_tf.cli.flags import Flags
from funnel_tf.data.input_pipeline import InputConfig, finetune_input_fn, report_corrupt_records
from funnel_tf.models.heads import classification_head
from funnel_tf.models.modeling import ModelInputs
from funnel_tf.models.options import GraphOptions
from funnel_tf.training.estimator import (
    BuildGraph,
    Features,
    Graph,
    InputFn,
    build_estimator,
    make_model_fn,
    predict_all,
)
from funnel_tf.training.evaluation import Scores, best_checkpoint
from funnel_tf.training.run_directory import RunDirectory, saved_steps

logger = logging.getLogger(__name__)

# Where the test set that is submitted along with the task's (MNLI's AX) is kept.
_COMPANION = "companion"


@dataclass(frozen=True)
class RunInputs:
    """Everything a run needs, checked before anything but record files is written."""

    task: Task
    tokenizer: Tokenizer
    config: ModelConfig
    scope: str
    files: Mapping[str, ExampleFile]
    directory: RunDirectory | None


def splits_of(flags: Flags, task: Task) -> list[str]:
    """The splits to evaluate: ``dev`` means all development splits of the task."""
    return list(task.eval_splits) if flags.eval_split == "dev" else [flags.eval_split]


def load_files(flags: Flags, task: Task, tokenizer: Tokenizer) -> dict[str, ExampleFile]:
    """The record files of the splits that this run needs, written where they do not fit."""
    options = RecordOptions(flags.overwrite_data, segments=tf_flags.segment_ids(flags))
    wanted: dict[str, RecordOptions] = {}
    if flags.do_train:
        order = (flags.seed or 0) if flags.shuffle_examples else None
        wanted["train"] = replace(options, shuffle_seed=order, num_passes=flags.num_passes)
    if flags.do_eval:
        padded = replace(options, multiple=flags.eval_batch_size)
        wanted |= dict.fromkeys(splits_of(flags, task), padded)
    if flags.do_submit or flags.do_predict:
        wanted.setdefault("test", options)

    def records(task: Task, split: str, data_dir: str, place: str) -> ExampleFile:
        length = flags.max_seq_length
        return classifier_records(
            place, task, split, data_dir, tokenizer, length, wanted.get(split, options)
        )

    files = {split: records(task, split, flags.data_dir, flags.output_dir) for split in wanted}
    if flags.do_submit and (found := find_companion(task, flags.data_dir)):
        other, folder = found
        place = str(Path(flags.output_dir, other.name))
        files[_COMPANION] = records(other, "test", str(folder), place)
    return files


def prepare(flags: Flags) -> RunInputs:
    """Read and check everything; writes nothing but the record files."""
    tf_flags.check_given(flags, "task_name", "data_dir", "output_dir")
    if not (flags.do_train or flags.do_eval or flags.do_submit or flags.do_predict):
        raise ConfigError("nothing to do: --do_train, --do_eval, --do_submit or --do_predict")
    if not (flags.model_dir or (flags.eval_model_dir and not flags.do_train)):
        raise ConfigError("--model_dir is needed")
    task = get_task(flags.task_name, custom=tf_flags.custom_task_config(flags))
    task = task.resolve_labels(flags.data_dir)
    source = task.sources.get(flags.eval_split)
    if flags.do_eval and source is not None and (source.label is None or source.label_optional):
        raise ConfigError(f"--eval_split={flags.eval_split}: has no labels to score against")
    tokenizer = tf_flags.load_tokenizer(flags)
    config = tf_flags.model_config(flags, tokenizer)
    directory = None
    if flags.do_train:
        tf_runs.train_config(flags)
        directory = tf_runs.open_run(flags, tokenizer, task_name=task.name, labels=task.labels)
    scope = flags.cls_scope or flags.task_name.lower()
    files = load_files(flags, task, tokenizer)
    return RunInputs(task, tokenizer, config, scope, files, directory)


def graph_of(inputs: RunInputs) -> BuildGraph:
    """The classifier as a graph."""

    def build(features: Features, options: GraphOptions, mode: str) -> Graph:
        head = classification_head(
            inputs.config,
            ModelInputs.from_features(features),
            features["label_ids"],
            features["is_real_example"],
            options,
            num_labels=inputs.task.num_labels,
            regression=inputs.task.is_regression,
            scope=inputs.scope,
        )
        kept = {"loss": head.per_example_loss, "label_ids": features["label_ids"]}
        return Graph(head.loss, {**head.predictions, **kept})

    return build


def input_of(file: ExampleFile, config: InputConfig) -> InputFn:
    """The examples of a record file."""
    return finetune_input_fn([(str(file.path), file.num_examples)], file.schema, config)


def train(flags: Flags, inputs: RunInputs, directory: RunDirectory) -> int:
    """Fine-tune up to --train_steps; returns the last step."""
    task, file = inputs.task, inputs.files["train"]
    kind = "regression" if task.is_regression else "single_label_classification"
    metadata = {
        "vocab_path": str(inputs.tokenizer.path),
        "labels": None if task.labels is None else list(task.labels),
        "problem_type": kind,
        "cls_scope": inputs.scope,
    }
    training = tf_runs.TrainingJob(
        inputs.config, graph_of(inputs), lambda order: input_of(file, order), metadata
    )
    with report_corrupt_records([str(file.path)], file.schema):
        return tf_runs.train_model(flags, directory, training)


def outputs_of(
    flags: Flags, inputs: RunInputs, name: str, checkpoint: Path, batch_size: int
) -> dict[str, np.ndarray]:
    """What the model of ``checkpoint`` says of a record file's real examples, in their order."""
    file, settings = inputs.files[name], tf_runs.run_settings(flags)
    if not flags.use_tpu:
        settings = replace(settings, num_core_per_host=1)
    settings = replace(settings, predict_batch_size=batch_size)
    estimator = build_estimator(settings, make_model_fn(graph_of(inputs), settings))
    with report_corrupt_records([str(file.path)], file.schema):
        found = predict_all(estimator, input_of(file, InputConfig(is_training=False)), checkpoint)
    return {key: values[: file.num_real_examples] for key, values in found.items()}


def evaluate(flags: Flags, inputs: RunInputs) -> Path:
    """Score all checkpoints on the development data; returns the best one."""

    def scores(checkpoint: Path) -> Scores:
        result = {}
        for split in splits_of(flags, inputs.task):
            found = outputs_of(flags, inputs, split, checkpoint, flags.eval_batch_size)
            metrics = compute(inputs.task, found["predictions"], found["label_ids"])
            result[split] = {**metrics, "loss": float(np.mean(found["loss"], dtype=np.float64))}
        return result

    return tf_runs.evaluate_and_keep(flags, scores).saved.prefix


def checkpoint_to_use(flags: Flags) -> Path:
    """The best checkpoint that an evaluation has recorded, else the last one."""
    folder = flags.eval_model_dir or flags.model_dir
    return best_checkpoint(folder) or saved_steps(folder)[-1].prefix


def write_results(flags: Flags, inputs: RunInputs, checkpoint: Path) -> None:
    """Write what was asked for: predictions of the test data, submission files."""
    folder, task = Path(flags.model_dir or flags.eval_model_dir), inputs.task
    size = flags.predict_batch_size
    test = outputs_of(flags, inputs, "test", checkpoint, size)["predictions"]
    if flags.do_predict:
        write_predictions(folder / "test_results.txt", task, test)
    if not flags.do_submit:
        return
    submit_dir = flags.submit_dir or folder / "submit"
    written = [write_submission(task, test, submit_dir)]
    if _COMPANION in inputs.files:
        other = get_task(task.also_submits)
        found = outputs_of(flags, inputs, _COMPANION, checkpoint, size)
        written.append(write_submission(other, found["predictions"], submit_dir))
    logger.info("%s: submission %s", checkpoint, ", ".join(str(path) for path in written))


def main() -> None:
    """Do what the flags ask for."""
    flags = tf_runs.start_program("classifier", __doc__)
    inputs, step = prepare(flags), 0
    if inputs.directory is not None:
        step = train(flags, inputs, inputs.directory)
    best = evaluate(flags, inputs) if flags.do_eval else None
    if flags.do_submit or flags.do_predict:
        write_results(flags, inputs, best or checkpoint_to_use(flags))
    if inputs.directory is not None:
        inputs.directory.finish(step, flags.train_steps)


if __name__ == "__main__":
    run_main(main)
