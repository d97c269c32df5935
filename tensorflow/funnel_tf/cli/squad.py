"""``squad.py``: records, training, answers of all checkpoints, and ensembles."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from funnel.cli.flags import check_given
from funnel.cli.squad import SquadWork, build_source, check_squad_numbers, list_checkpoints
from funnel.config.heads import AnswerConfig
from funnel.config.model import NET_CONFIG, ModelConfig
from funnel.features.record_files import ExampleFile
from funnel.features.squad_cache import SquadSource
from funnel.features.squad_predictions import SquadAnswers, write_answers
from funnel.features.squad_scoring import SquadScorer, score_ensemble
from funnel.features.squad_tfrecords import (
    count_recorded_shards,
    find_train_records,
    squad_eval_records,
    squad_train_records,
)
from funnel.formats.tensor_bundle import resolve_prefix
from funnel.inference.task_files import write_answer_rows
from funnel.runs.scores import format_scores
from funnel.tokenization import Tokenizer
from funnel.tokenization.choice import check_same_ids
from funnel.utils.errors import DataError
from funnel.utils.files import atomic_write_json
from funnel.utils.run_directory import refuse_foreign_results
from funnel_tf.cli import configs, runs
from funnel_tf.cli.programs import SquadSettings
from funnel_tf.models.modeling import ModelInputs
from funnel_tf.models.options import GraphOptions
from funnel_tf.models.question_answering import squad_head
from funnel_tf.training.estimator import BuildGraph, Features, Graph
from funnel_tf.training.evaluation import BestCheckpoint, Scores
from funnel_tf.training.patience import CachedScores
from funnel_tf.training.prediction import Predictions
from funnel_tf.training.run_directory import SavedStep

logger = logging.getLogger(__name__)

_NEXT = {
    "answer the questions of a file with this model": (
        *("--do_train=False", "--do_predict=True", "--predict_file=FILE"),
    )
}


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
    best: BestCheckpoint | None = None

    def score(self, checkpoint: Path) -> Scores:
        """Return the metrics of a checkpoint."""
        answers = answer_and_write(self.settings, self.graph, self.questions, checkpoint)
        step = checkpoint.name.rpartition("-")[2]
        saved = SavedStep(int(step) if step.isdigit() else 0, checkpoint)
        found = BestCheckpoint(saved, {"dev": self.questions.scorer.score(answers)})
        if self.best is None or found.beats(self.best):
            self.answers, self.best = answers, found
        return found.scores


def _score_alone(found: _BestAnswers, _predictions: Predictions, checkpoint: Path) -> Scores:
    return found.score(checkpoint)


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
    task, do_train, joint = settings.task, settings.run.do_train, settings.ensemble
    check_squad_numbers(settings.head, settings.answers, settings.squad.num_proc)
    work = SquadWork(do_train, task.do_predict, task.prepro_split)
    check_given(output_dir=settings.records.output_dir)
    settings.predictions.check(writes=task.do_predict, flag="do_predict")
    required = work.required_flags(settings.files, joint)
    # Only a run of training or prediction has a directory of its own.
    is_run = not (task.prepro_split or joint.do_ensemble)
    if is_run:
        required.pop("train_file", None)  # records may take its place
    check_given(**({"model_dir": settings.run.model_dir} if is_run else {}), **required)
    if is_run and settings.files.predict_dir and settings.run.model_dir:
        folder = settings.files.predict_dir
        refuse_foreign_results(folder, settings.run.model_dir, "--predict_dir")


def preprocess(settings: SquadSettings) -> None:
    """Write the records of one split: for training one shard, --proc_id of --num_proc."""
    tokenizer, details = _open_tokenizer(settings), settings.squad
    if settings.task.prepro_split == "eval":
        file = load_questions(settings, tokenizer).file
    else:
        source, seed = _source(settings, "train", tokenizer), settings.run.seed or 0
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
    found = score = None
    if questions is not None and questions.scorer.has_gold:
        found = _BestAnswers(settings, graph, questions)
        # The outputs of all windows may be too large for memory: no session that keeps them there.
        score = CachedScores(partial(_score_alone, found))
    elif settings.economy.patience is not None:
        raise DataError(f"{settings.files.predict_file}: has no answers, which --patience needs")
    if directory is not None:
        files = load_train_files(settings, tokenizer)
        metadata = {"tokenizer": tokenizer}
        step = runs.fine_tune(settings, directory, files, config, graph, metadata, evaluate=score)
    best = None if questions is None else predict(settings, graph, questions, found, score)
    if directory is not None:
        runs.close_run(settings, directory, step, best, _NEXT)


def load_train_files(settings: SquadSettings, tokenizer: Tokenizer) -> list[ExampleFile]:
    """Return all shards of the training records; those that do not fit are rebuilt.

    Without --train_file they must all exist.
    """
    source, folder = _source(settings, "train", tokenizer), settings.records.output_dir
    if not Path(source.path).is_file():
        return find_train_records(folder, source, tokenizer)
    shards = count_recorded_shards(folder, source, tokenizer) or settings.squad.num_proc
    seed = settings.run.seed or 0
    return [
        squad_train_records(folder, source, tokenizer, seed, (proc_id, shards))
        for proc_id in range(shards)
    ]


def load_questions(settings: SquadSettings, tokenizer: Tokenizer) -> Questions:
    """Return the questions to answer; their records are rebuilt if they do not fit."""
    source, size = _source(settings, "eval", tokenizer), settings.squad.predict_batch_size
    folder, files = settings.records.output_dir, settings.files
    file, data, windows = squad_eval_records(folder, source, tokenizer, size)
    scorer = SquadScorer(data, windows, settings.answers, files.eval_version, files.target)
    return Questions(file, scorer)


def predict(
    settings: SquadSettings,
    graph: BuildGraph,
    questions: Questions,
    found: _BestAnswers | None,
    score: CachedScores | None,
) -> BestCheckpoint | None:
    """Score the answers of all checkpoints; write those of the best one and its scores.

    Without ``score`` the answers of the best or last checkpoint are written.

    Returns:
        The best checkpoint; None if there are no gold answers.
    """
    folder = _predict_dir(settings)
    if found is not None and score is not None:
        best = runs.evaluate_and_keep(settings, score)
        answers = found.answers
        if found.best is None or found.best.saved.prefix != best.saved.prefix:
            # --patience has scored checkpoints, too, that the sweep leaves out.
            answers = answer_and_write(settings, graph, questions, best.saved.prefix)
        write_answers(answers, folder)
        write_answer_rows(folder, answers, settings.predictions)
        atomic_write_json(folder / "final_scores.json", best.scores)
        return best
    logger.info("%s: has no answers, so there are no scores", settings.files.predict_file)
    checkpoint = runs.best_or_last_checkpoint(settings)
    answers = answer_and_write(settings, graph, questions, checkpoint)
    write_answers(answers, folder)
    write_answer_rows(folder, answers, settings.predictions)
    return None


def _predict_dir(settings: SquadSettings) -> Path:
    return Path(settings.files.predict_dir or settings.run.model_dir)


def answer_and_write(
    settings: SquadSettings, graph: BuildGraph, questions: Questions, checkpoint: Path
) -> SquadAnswers:
    """Return the answers of a checkpoint, and write them to files that begin with its step."""
    found = predict_windows(settings, graph, questions, checkpoint)
    answers, folder = questions.scorer.answers(found), _predict_dir(settings)
    prefix = checkpoint.name.rpartition("-")[2] + "."
    write_answers(answers, folder, prefix)
    write_answer_rows(folder, answers, settings.predictions, prefix)
    if settings.files.save_logits:
        questions.scorer.write_logits(found, folder, prefix)
    return answers


def predict_windows(
    settings: SquadSettings, graph: BuildGraph, questions: Questions, checkpoint: Path
) -> Mapping[str, np.ndarray]:
    """Return the outputs of a checkpoint for all windows."""
    file = questions.file
    run = runs.evaluation_settings(settings, settings.squad.predict_batch_size)
    found = runs.predict_examples(run, graph, file, checkpoint)
    if not (found["unique_ids"] == questions.scorer.windows.unique_ids).all():
        raise DataError(f"{file.path}: is not in the order of its windows; delete it")
    return found


def ensemble(settings: SquadSettings) -> None:
    """Average the answers of several checkpoints; write those above the threshold."""
    joint, members = settings.ensemble, ensemble_members(settings)
    tokenizer = _open_tokenizer(settings, members[0][1])
    questions = load_questions(settings, tokenizer)
    opinions = []
    for member, prefix in members:
        check_same_ids(_open_tokenizer(settings, prefix), tokenizer)
        graph = _graph(member, configs.model_config(member, tokenizer))
        found = predict_windows(member, graph, questions, prefix)
        opinions.append(questions.scorer.answers(found))
    predictions, scores = score_ensemble(questions.scorer, opinions, joint)
    logger.info("%s", format_scores(scores) or "no answers are known, so there are no scores")
    atomic_write_json(joint.ensemble_output_file, predictions)


def ensemble_members(settings: SquadSettings) -> list[tuple[SquadSettings, Path]]:
    """Return the checkpoints of an ensemble, each with settings that describe its model.

    Without --model_config that is the net_config.json in the directory of the checkpoint.

    Raises:
        ConfigError: the list names no checkpoint.
    """
    run, found = settings.run, []
    for prefix in map(resolve_prefix, list_checkpoints(settings.ensemble)):
        own = prefix.parent / NET_CONFIG
        path = str(own) if not run.model_config and own.is_file() else run.model_config
        member = replace(run, init_checkpoint=str(prefix), model_config=path)
        found.append((replace(settings, run=member), prefix))
    return found


def _open_tokenizer(settings: SquadSettings, member: Path | None = None) -> Tokenizer:
    """Return the tokenizer of the run, or that of a ``member`` of an ensemble."""
    weights = [] if member is None else [str(member)]
    accents, segments = settings.squad.keep_accents, settings.windows.segments
    return configs.open_tokenizer(settings, segments, accents, weights)


def _source(settings: SquadSettings, split: str, tokenizer: Tokenizer) -> SquadSource:
    """Return the questions of ``train`` or ``eval`` and how they are cut."""
    windows = replace(settings.windows, segments=tokenizer.segments)
    return build_source(settings.files, split, windows, debug_mode=settings.squad.debug_mode)


def _graph(settings: SquadSettings, config: ModelConfig) -> BuildGraph:
    return partial(_build_graph, config, settings.head)


def _build_graph(
    config: ModelConfig, head: AnswerConfig, features: Features, options: GraphOptions, mode: str
) -> Graph:
    inputs = ModelInputs.from_features(features)
    found = squad_head(config, inputs, features, options, head)
    return Graph(found.loss, {**found.predictions(), "unique_ids": features["unique_ids"]})
