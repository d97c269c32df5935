r"""Fine-tune a Funnel-Transformer on SQuAD 1.1 or 2.0, predict answers, combine several models.

    python tensorflow/squad.py --prepro_split=train --train_file=train-v2.0.json --output_dir=PROC \
        --tokenizer_path=CKPT/vocab.uncased.txt          # optional: training does it where needed
    python tensorflow/squad.py --use_tpu=False --do_train=True --do_predict=True \
        --train_file=train-v2.0.json --predict_file=dev-v2.0.json --output_dir=PROC \
        --model_dir=EXP --init_checkpoint=CKPT/model.ckpt --model_config=CKPT/net_config.json \
        --tokenizer_path=CKPT/vocab.uncased.txt --train_batch_size=48 --learning_rate=3e-5 \
        --lr_layer_decay_rate=0.75 --train_steps=8000 --warmup_steps=1000 --save_steps=1000
    python tensorflow/squad.py --do_ensemble=True --ensemble_ckpts=EXP1/latest,EXP2/latest \
        --predict_file=dev-v2.0.json --output_dir=PROC --ensemble_output_file=predictions.json

All checkpoints answer, the best one's answers go to predictions.json, nbest_predictions.json and
null_odds.json in --predict_dir (default model_dir). Evaluation with --train_version=v1 and
--eval_version=v1 is that of SQuAD 1.1. A run that was killed continues when the same command is
given again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import _paths  # noqa: F401

from funnel.config.model import ModelConfig
from funnel.features.squad_predictions import SquadAnswers, write_answers
from funnel.features.squad_scoring import SquadScorer, score_ensemble
from funnel.features.squad_tfrecords import (
    count_recorded_shards,
    squad_eval_records,
    squad_train_records,
)
from funnel.features.tfrecords import ExampleFile
from funnel.tokenization import Tokenizer
from funnel.utils.errors import DataError
from funnel.utils.files import atomic_write_json
from funnel.utils.main import run_main
from funnel_tf.cli import flags as tf_flags
from funnel_tf.cli import runs as tf_runs
from funnel_tf.cli import squad_settings
from funnel_tf.cli.flags import Flags
from funnel_tf.data.input_pipeline import InputConfig, finetune_input_fn, report_corrupt_records
from funnel_tf.models.modeling import ModelInputs
from funnel_tf.models.options import GraphOptions
from funnel_tf.models.question_answering import squad_head
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


@dataclass(frozen=True)
class Questions:
    """The questions of --predict_file: their records, and what scores their answers."""

    file: ExampleFile
    scorer: SquadScorer


def train_files(flags: Flags, tokenizer: Tokenizer) -> list[ExampleFile]:
    """The training records, all shards of them, written where they do not fit."""
    source = squad_settings.source(flags, "train")
    shards = count_recorded_shards(flags.output_dir, source, tokenizer) or flags.num_proc
    seed = flags.seed or 0
    return [
        squad_train_records(flags.output_dir, source, tokenizer, seed, (proc_id, shards))
        for proc_id in range(shards)
    ]


def questions_of(flags: Flags, tokenizer: Tokenizer) -> Questions:
    """The questions to answer."""
    source = squad_settings.source(flags, "eval")
    size = flags.predict_batch_size
    file, data, windows = squad_eval_records(flags.output_dir, source, tokenizer, size)
    settings, target = (
        squad_settings.answer_settings(flags),
        squad_settings.squad_settings(flags).target,
    )
    scorer = SquadScorer(data, windows, settings, flags.eval_version, target)
    return Questions(file, scorer)


def preprocess(flags: Flags) -> None:
    """Write the records of one split: for training one shard, --proc_id of --num_proc."""
    tokenizer = tf_flags.load_tokenizer(flags, keep_accents=flags.keep_accents)
    if flags.prepro_split == "eval":
        file = questions_of(flags, tokenizer).file
    else:
        source, seed = squad_settings.source(flags, "train"), flags.seed or 0
        shard = (flags.proc_id, flags.num_proc)
        file = squad_train_records(flags.output_dir, source, tokenizer, seed, shard)
    logger.info("%s: %d windows", file.path, file.num_real_examples)


def graph_of(flags: Flags, config: ModelConfig) -> BuildGraph:
    """The model as a graph."""
    answers = squad_settings.answer_config(flags)

    def build(features: Features, options: GraphOptions, mode: str) -> Graph:
        inputs = ModelInputs.from_features(features)
        found = squad_head(config, inputs, features, options, answers)
        return Graph(found.loss, {**found.predictions(), "unique_ids": features["unique_ids"]})

    return build


def input_of(files: Sequence[ExampleFile], config: InputConfig) -> InputFn:
    """The windows of record files."""
    counted = [(str(file.path), file.num_examples) for file in files]
    return finetune_input_fn(counted, files[0].schema, config)


def train(flags: Flags, tokenizer: Tokenizer, config: ModelConfig, directory: RunDirectory) -> int:
    """Fine-tune up to --train_steps; returns the last step."""
    files = train_files(flags, tokenizer)
    metadata = {"vocab_path": str(tokenizer.path)}
    training = tf_runs.TrainingJob(
        config, graph_of(flags, config), lambda order: input_of(files, order), metadata
    )
    with report_corrupt_records([str(file.path) for file in files], files[0].schema):
        return tf_runs.train_model(flags, directory, training)


def answers_of(
    flags: Flags, config: ModelConfig, questions: Questions, checkpoint: Path
) -> SquadAnswers:
    """What the model of a checkpoint answers."""
    file, settings = questions.file, tf_runs.run_settings(flags)
    if not flags.use_tpu:
        settings = replace(settings, num_core_per_host=1)
    estimator = build_estimator(settings, make_model_fn(graph_of(flags, config), settings))
    with report_corrupt_records([str(file.path)], file.schema):
        found = predict_all(estimator, input_of([file], InputConfig(is_training=False)), checkpoint)
    found = {name: values[: file.num_real_examples] for name, values in found.items()}
    if not (found["unique_ids"] == questions.scorer.windows.unique_ids).all():
        raise DataError(f"{file.path}: is not in the order of its windows; delete it")
    return questions.scorer.answers(found)


def predict(flags: Flags, config: ModelConfig, questions: Questions) -> None:
    """Score the answers of all checkpoints; write those of the best one and its scores."""
    scorer, best = questions.scorer, {}

    def scores(checkpoint: Path) -> Scores:
        answers = answers_of(flags, config, questions, checkpoint)
        metrics = scorer.score(answers)
        if not best or metrics[scorer.target] > best["metrics"][scorer.target]:
            best.update(answers=answers, metrics=metrics)
        return {"dev": metrics}

    folder = Path(flags.predict_dir or flags.model_dir)
    if scorer.has_gold:
        tf_runs.evaluate_and_keep(flags, scores)
        write_answers(best["answers"], folder)
        atomic_write_json(folder / "final_scores.json", {"dev": best["metrics"]})
        return
    checkpoint = best_checkpoint(flags.model_dir) or saved_steps(flags.model_dir)[-1].prefix
    logger.info("%s: has no answers, so there are no scores", flags.predict_file)
    write_answers(answers_of(flags, config, questions, checkpoint), folder)


def ensemble(flags: Flags) -> None:
    """Let several checkpoints answer together; write their answers above the threshold."""
    members = squad_settings.members(flags)
    tokenizer = tf_flags.load_tokenizer(members[0][0], keep_accents=flags.keep_accents)
    questions = questions_of(flags, tokenizer)
    opinions = []
    for member, prefix in members:
        config = tf_flags.model_config(member, tokenizer)
        opinions.append(answers_of(member, config, questions, prefix))
    settings = squad_settings.ensemble_settings(flags)
    predictions, scores = score_ensemble(questions.scorer, opinions, settings)
    text = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
    logger.info("%s", text or "no answers are known, so there are no scores")
    atomic_write_json(flags.ensemble_output_file, predictions)


def main() -> None:
    """Do what the flags ask for."""
    flags = tf_runs.start_program("squad", __doc__)
    squad_settings.check(flags)
    if flags.prepro_split:
        return preprocess(flags)
    if flags.do_ensemble:
        return ensemble(flags)
    tokenizer = tf_flags.load_tokenizer(flags, keep_accents=flags.keep_accents)
    config = tf_flags.model_config(flags, tokenizer)
    directory = tf_runs.open_run(flags, tokenizer) if flags.do_train else None
    questions = questions_of(flags, tokenizer) if flags.do_predict else None
    step = train(flags, tokenizer, config, directory) if directory is not None else 0
    if questions is not None:
        predict(flags, config, questions)
    if directory is not None:
        directory.finish(step, flags.train_steps)
    return None


if __name__ == "__main__":
    run_main(main)
