r"""Fine-tune and evaluate on RACE: four options a question, one of them right.

    python tensorflow/race.py --use_tpu=False --do_train=True --do_eval=True --data_dir=RACE \
        --output_dir=PROC --model_dir=EXP --init_checkpoint=CKPT/model.ckpt \
        --model_config=CKPT/net_config.json --tokenizer_path=CKPT/vocab.uncased.txt \
        --train_batch_size=16 --learning_rate=2e-5 --train_steps=24000 --warmup_steps=2400 \
        --save_steps=2400
    python tensorflow/race.py --do_eval=True --eval_split=test --model_dir=EXP ...

--data_dir holds {train,dev,test}/{middle,high}/*.txt. All checkpoints are evaluated, the best and
the last are kept. A run that was killed continues when the same command is given again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import _paths  # noqa: F401

import numpy as np

from funnel.config.model import ModelConfig
from funnel.features.race import RaceConfig
from funnel.features.tfrecords import ExampleFile, RecordOptions, race_records
from funnel.tasks.race import race_accuracy
from funnel.tokenization import Tokenizer
from funnel.utils.errors import ConfigError
from funnel.utils.main import run_main
from funnel_tf.cli import flags as tf_flags
from funnel_tf.cli import runs as tf_runs
from funnel_tf.cli.flags import Flags
from funnel_tf.data.input_pipeline import InputConfig, finetune_input_fn, report_corrupt_records
from funnel_tf.models.heads import race_head
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
from funnel_tf.training.evaluation import Scores
from funnel_tf.training.run_directory import RunDirectory


@dataclass(frozen=True)
class RunInputs:
    """Everything a run needs, checked before anything but record files is written."""

    tokenizer: Tokenizer
    config: ModelConfig
    files: dict[str, ExampleFile]
    directory: RunDirectory | None


def prepare(flags: Flags) -> RunInputs:
    """Read and check everything; writes nothing but the record files."""
    if not (flags.do_train or flags.do_eval):
        raise ConfigError("nothing to do: --do_train, --do_eval or both are needed")
    if not (flags.model_dir or (flags.eval_model_dir and not flags.do_train)):
        raise ConfigError("--model_dir is needed")
    tf_flags.check_given(flags, "data_dir", "output_dir")
    segments = tf_flags.segment_ids(flags)
    cut = RaceConfig(flags.max_seq_length, flags.max_qa_length, segments)
    tokenizer = tf_flags.load_tokenizer(flags)
    config = tf_flags.model_config(flags, tokenizer)
    directory = None
    if flags.do_train:
        tf_runs.train_config(flags)
        directory = tf_runs.open_run(flags, tokenizer)
    options = RecordOptions(flags.overwrite_data, segments=segments)
    wanted = {"train": replace(options, shuffle_seed=flags.seed or 0)} if flags.do_train else {}
    if flags.do_eval:
        wanted[flags.eval_split] = replace(options, multiple=flags.eval_batch_size)
    files = {
        split: race_records(flags.output_dir, flags.data_dir, split, tokenizer, cut, chosen)
        for split, chosen in wanted.items()
    }
    return RunInputs(tokenizer, config, files, directory)


def graph_of(run_inputs: RunInputs) -> BuildGraph:
    """The multiple-choice model as a graph."""

    def build(features: Features, options: GraphOptions, mode: str) -> Graph:
        inputs = ModelInputs.from_features(features)
        labels, weights = features["label_ids"], features["is_real_example"]
        head = race_head(run_inputs.config, inputs, labels, weights, options)
        kept = {name: features[name] for name in ("label_ids", "is_high_example")}
        return Graph(head.loss, {**head.predictions, "loss": head.per_example_loss, **kept})

    return build


def input_of(file: ExampleFile, config: InputConfig) -> InputFn:
    """The questions of a record file."""
    return finetune_input_fn([(str(file.path), file.num_examples)], file.schema, config)


def train(flags: Flags, run_inputs: RunInputs, directory: RunDirectory) -> int:
    """Fine-tune up to --train_steps; returns the last step."""
    file = run_inputs.files["train"]
    metadata = {"vocab_path": str(run_inputs.tokenizer.path)}
    training = tf_runs.TrainingJob(
        run_inputs.config, graph_of(run_inputs), lambda order: input_of(file, order), metadata
    )
    with report_corrupt_records([str(file.path)], file.schema):
        return tf_runs.train_model(flags, directory, training)


def evaluate(flags: Flags, run_inputs: RunInputs) -> None:
    """Score all checkpoints on --eval_split."""
    file, settings = run_inputs.files[flags.eval_split], tf_runs.run_settings(flags)
    if not flags.use_tpu:
        settings = replace(settings, num_core_per_host=1)
    settings = replace(settings, predict_batch_size=flags.eval_batch_size)
    estimator = build_estimator(settings, make_model_fn(graph_of(run_inputs), settings))
    input_fn = input_of(file, InputConfig(is_training=False))

    def scores(checkpoint: Path) -> Scores:
        with report_corrupt_records([str(file.path)], file.schema):
            found = predict_all(estimator, input_fn, checkpoint)
        found = {name: values[: file.num_real_examples] for name, values in found.items()}
        predictions, labels = found["predictions"], found["label_ids"]
        metrics = race_accuracy(predictions, labels, found["is_high_example"])
        loss = float(np.mean(found["loss"], dtype=np.float64))
        return {flags.eval_split: {**metrics, "loss": loss}}

    tf_runs.evaluate_and_keep(flags, scores)


def main() -> None:
    """Do what the flags ask for."""
    flags = tf_runs.start_program("race", __doc__)
    run_inputs, step = prepare(flags), 0
    if run_inputs.directory is not None:
        step = train(flags, run_inputs, run_inputs.directory)
    if flags.do_eval:
        evaluate(flags, run_inputs)
    if run_inputs.directory is not None:
        run_inputs.directory.finish(step, flags.train_steps)


if __name__ == "__main__":
    run_main(main)
