"""``squad.py``: records, training, answers of all checkpoints, and ensembles."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from funnel.cli.flags import check_at_least_one, check_given, split_list
from funnel.config.heads import AnswerConfig
from funnel.config.model import NET_CONFIG, ModelConfig
from funnel.features.squad_predictions import SquadAnswers, combine_answers, write_answers
from funnel.features.squad_scoring import SquadScorer
from funnel.features.squad_tfrecords import (
    SquadSource,
    recorded_shards,
    squad_eval_records,
    squad_train_records,
)
from funnel.features.tfrecords import ExampleFile
from funnel.formats.tensor_bundle import resolve_prefix
from funnel.tokenization import Tokenizer
from funnel.utils.errors import ConfigError, DataError, FunnelError
from funnel.utils.files import atomic_write_json
from funnel_tf.cli import configs, runs
from funnel_tf.cli.programs import SquadSettings
from funnel_tf.models.modeling import ModelInputs
from funnel_tf.models.options import GraphOptions
from funnel_tf.models.question_answering import squad_head
from funnel_tf.training.estimator import BuildGraph, Features, Graph
from funnel_tf.training.evaluation import Scores

logger = logging.getLogger(__name__)

_DEBUG_EXAMPLES = 100


@dataclass(frozen=True)
class Questions:
    """The questions of --predict_file: their records, and the scorer of their answers."""

    file: ExampleFile
    scorer: SquadScorer


@dataclass
class _BestAnswers:
    """Scores checkpoints, and keeps the answers of the best one."""

    settings: SquadSettings
    graph: BuildGraph
    questions: Questions
    answers: SquadAnswers | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    def score(self, checkpoint: Path) -> Scores:
        """Return the metrics of a checkpoint."""
        scorer = self.questions.scorer
        answers = answer(self.settings, self.graph, self.questions, checkpoint)
        metrics = scorer.score(answers)
        if self.answers is None or metrics[scorer.target] > self.metrics[scorer.target]:
            self.answers, self.metrics = answers, metrics
        return {"dev": metrics}


def run(settings: SquadSettings) -> None:
    """Preprocess, train, predict or combine checkpoints, as the settings request."""
    check(settings)
    if settings.task.prepro_split:
        preprocess(settings)
    elif settings.ensemble.do_ensemble:
        ensemble(settings)
    else:
        train_and_predict(settings)


def check(settings: SquadSettings) -> None:
    """Check the flags, before any file is read.

    Raises:
        ConfigError: they are missing, out of range or contradict each other.
    """
    split = settings.task.prepro_split
    check_at_least_one(
        start_n_top=settings.head.start_n_top,
        end_n_top=settings.head.end_n_top,
        n_best_size=settings.answers.n_best_size,
        max_answer_length=settings.answers.max_answer_length,
        num_proc=settings.squad.num_proc,
    )
    if split not in (None, "", "train", "eval"):
        raise ConfigError(f"--prepro_split={split}: should be train or eval")
    check_given(output_dir=settings.records.output_dir, **_needed(settings))


def _needed(settings: SquadSettings) -> dict[str, Any]:
    """Return the flags that must be given for what is requested."""
    task, files, joint, run = settings.task, settings.files, settings.ensemble, settings.run
    train_file, predict_file = files.train_file, files.predict_file
    if task.prepro_split == "train":
        return {"train_file": train_file}
    if task.prepro_split:
        return {"predict_file": predict_file}
    if joint.do_ensemble:
        if run.do_train or task.do_predict:
            raise ConfigError("--do_ensemble goes without --do_train and --do_predict")
        output = joint.ensemble_output_file
        return {
            "ensemble_ckpts": joint.ensemble_ckpts,
            "predict_file": predict_file,
            "ensemble_output_file": output,
        }
    if not (run.do_train or task.do_predict):
        raise ConfigError(
            "nothing to do: --do_train, --do_predict or both, --do_ensemble or --prepro_split"
        )
    needed: dict[str, Any] = {"model_dir": run.model_dir}
    needed |= {"train_file": train_file} if run.do_train else {}
    return needed | ({"predict_file": predict_file} if task.do_predict else {})


def preprocess(settings: SquadSettings) -> None:
    """Write the records of one split: for training one shard, --proc_id of --num_proc."""
    tokenizer, details = _open_tokenizer(settings), settings.squad
    if settings.task.prepro_split == "eval":
        file = load_questions(settings, tokenizer).file
    else:
        source, seed = _source(settings, "train"), settings.run.seed or 0
        shard = (details.proc_id, details.num_proc)
        file = squad_train_records(settings.records.output_dir, source, tokenizer, seed, shard)
    logger.info("%s: %d windows", file.path, file.num_real_examples)


def train_and_predict(settings: SquadSettings) -> None:
    """Train, answer the questions with all checkpoints, or both."""
    tokenizer = _open_tokenizer(settings)
    config = configs.model_config(settings, tokenizer)
    directory = runs.open_run(settings, tokenizer) if settings.run.do_train else None
    questions = load_questions(settings, tokenizer) if settings.task.do_predict else None
    graph, step = _graph(settings, config), 0
    if directory is not None:
        files = load_train_files(settings, tokenizer)
        metadata = {"vocab_path": str(tokenizer.path)}
        step = runs.fine_tune(settings, directory, files, config, graph, metadata)
    if questions is not None:
        predict(settings, graph, questions)
    if directory is not None:
        directory.finish(step, settings.training.train_steps)


def load_train_files(settings: SquadSettings, tokenizer: Tokenizer) -> list[ExampleFile]:
    """Return all shards of the training records; those that do not fit are rebuilt."""
    source, folder = _source(settings, "train"), settings.records.output_dir
    shards = recorded_shards(folder, source, tokenizer) or settings.squad.num_proc
    seed = settings.run.seed or 0
    return [
        squad_train_records(folder, source, tokenizer, seed, (proc_id, shards))
        for proc_id in range(shards)
    ]


def load_questions(settings: SquadSettings, tokenizer: Tokenizer) -> Questions:
    """Return the questions to answer; their records are rebuilt if they do not fit."""
    source, size = _source(settings, "eval"), settings.squad.predict_batch_size
    folder, files = settings.records.output_dir, settings.files
    file, data, windows = squad_eval_records(folder, source, tokenizer, size)
    scorer = SquadScorer(data, windows, settings.answers, files.eval_version, files.target)
    return Questions(file, scorer)


def predict(settings: SquadSettings, graph: BuildGraph, questions: Questions) -> None:
    """Score the answers of all checkpoints; write those of the best one and its scores."""
    model_dir, best = settings.run.model_dir, _BestAnswers(settings, graph, questions)
    folder = Path(settings.files.predict_dir or model_dir)
    if questions.scorer.has_gold:
        runs.evaluate_and_keep(settings, best.score)
        write_answers(best.answers, folder)
        atomic_write_json(folder / "final_scores.json", {"dev": best.metrics})
        return
    logger.info("%s: has no answers, so there are no scores", settings.files.predict_file)
    checkpoint = runs.best_or_last_checkpoint(model_dir)
    write_answers(answer(settings, graph, questions, checkpoint), folder)


def answer(
    settings: SquadSettings, graph: BuildGraph, questions: Questions, checkpoint: Path
) -> SquadAnswers:
    """Return the answers of a checkpoint."""
    file = questions.file
    run = runs.evaluation_settings(settings, settings.squad.predict_batch_size)
    found = runs.predict_examples(run, graph, file, checkpoint)
    if not (found["unique_ids"] == questions.scorer.windows.unique_ids).all():
        raise DataError(f"{file.path}: is not in the order of its windows; delete it")
    return questions.scorer.answers(found)


def ensemble(settings: SquadSettings) -> None:
    """Average the answers of several checkpoints; write those above the threshold."""
    joint, members = settings.ensemble, ensemble_members(settings)
    tokenizer = _open_tokenizer(members[0][0])
    questions = load_questions(settings, tokenizer)
    opinions = []
    for member, prefix in members:
        graph = _graph(member, configs.model_config(member, tokenizer))
        opinions.append(answer(member, graph, questions, prefix))
    answers = combine_answers(opinions, settings.answers.n_best_size)
    predictions, scores = answers.predictions, known_scores(questions.scorer, answers)
    if settings.files.eval_version == "v2":
        if joint.search_threshold and not scores:
            file = settings.files.predict_file
            raise FunnelError(f"{file}: has no answers to search the threshold by")
        threshold = scores["best_f1_thresh"] if joint.search_threshold else joint.na_threshold
        logger.info("no answer where the null odds exceed %.4f", threshold)
        predictions = answers.above(threshold)
    atomic_write_json(joint.ensemble_output_file, predictions)


def ensemble_members(settings: SquadSettings) -> list[tuple[SquadSettings, Path]]:
    """Return the checkpoints of an ensemble, each with settings that describe its model.

    Without --model_config that is the net_config.json in the directory of the checkpoint.

    Raises:
        ConfigError: the list names no checkpoint.
    """
    listed, run = settings.ensemble.ensemble_ckpts, settings.run
    paths = split_list(listed)
    if not paths:
        raise ConfigError(f"--ensemble_ckpts={listed}: names no checkpoint")
    found = []
    for prefix in map(resolve_prefix, paths):
        own = prefix.parent / NET_CONFIG
        path = str(own) if not run.model_config and own.is_file() else run.model_config
        member = replace(run, init_checkpoint=str(prefix), model_config=path)
        found.append((replace(settings, run=member), prefix))
    return found


def known_scores(scorer: SquadScorer, answers: SquadAnswers) -> Mapping[str, float]:
    """Return and log the scores of answers; empty where no gold answer is known."""
    scores = scorer.score(answers) if scorer.has_gold else {}
    text = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
    logger.info("%s", text or "no answers are known, so there are no scores")
    return scores


def _open_tokenizer(settings: SquadSettings) -> Tokenizer:
    return configs.open_tokenizer(settings, settings.squad.keep_accents)


def _source(settings: SquadSettings, split: str) -> SquadSource:
    """Return the questions of ``train`` or ``eval`` and how they are cut."""
    files, is_train = settings.files, split == "train"
    return SquadSource(
        files.train_file if is_train else files.predict_file,
        files.train_version if is_train else files.eval_version,
        settings.windows,
        limit=_DEBUG_EXAMPLES if settings.squad.debug_mode else None,
    )


def _graph(settings: SquadSettings, config: ModelConfig) -> BuildGraph:
    return partial(_build_graph, config, settings.head)


def _build_graph(
    config: ModelConfig, head: AnswerConfig, features: Features, options: GraphOptions, mode: str
) -> Graph:
    inputs = ModelInputs.from_features(features)
    found = squad_head(config, inputs, features, options, head)
    return Graph(found.loss, {**found.predictions(), "unique_ids": features["unique_ids"]})
