"""One training run and the evaluation afterwards, as all TensorFlow programs carry them out.

A program brings its task: its graph, its input and how predictions are scored.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from funnel.checkpoints.names import expected_shapes
from funnel.cli.flags import check_at_least_one, check_given
from funnel.config.model import ModelConfig
from funnel.config.training.freezing import frozen_names
from funnel.features.record_files import ExampleFile
from funnel.flops import parameter_count
from funnel.runs.endings import (
    Ending,
    describe_interruption,
    log_ending,
    next_command,
    next_commands,
)
from funnel.runs.provenance import describe_run
from funnel.tokenization import Tokenizer
from funnel.utils.errors import CheckpointError
from funnel.utils.interruption import Interrupted, stop_requests
from funnel.utils.logging import MetricsLog
from funnel.utils.run_directory import is_inside
from funnel.utils.run_lock import acquire
from funnel_tf.cli import configs
from funnel_tf.cli.programs import FineTuningSettings, TrainingSettings
from funnel_tf.compat import tf
from funnel_tf.data.input_pipeline import InputConfig, finetune_input_fn, report_corrupt_records
from funnel_tf.models.initial_model import InitConfig, as_tf_checkpoint
from funnel_tf.training.estimator import (
    BuildGraph,
    InputFn,
    RunSettings,
    TpuAddress,
    TrainConfig,
    build_estimator,
    make_model_fn,
    predict_all,
    train,
)
from funnel_tf.training.evaluation import (
    BestCheckpoint,
    Retention,
    Scores,
    best_checkpoint,
    evaluate_all,
    open_evaluation_log,
    write_best,
)
from funnel_tf.training.freezing import variable_parts
from funnel_tf.training.patience import CachedScores, train_with_patience
from funnel_tf.training.run_directory import (
    RunDirectory,
    SavedStep,
    latest_step,
    saved_steps,
    wait_for_steps,
)

# Flags that a command to continue with leaves out: they begin a run, or belong to one that trains.
_BEGINNING = ("overwrite_run",)
_TRAINING = (*_BEGINNING, "do_train", "do_eval")


@dataclass(frozen=True)
class TrainingJob:
    """The model a program trains, and its data.

    Attributes:
        config: sizes of the model.
        build_graph: its graph with the loss.
        make_input: returns the training input for the order of the records.
        metadata: written next to the checkpoints: vocab_path, labels, cls_scope, problem_type.
        order: how records come, as far as the program decides it.
        with_optimizer: also take the state of the optimizer from the initial checkpoint.
        random_decoder: let an initial checkpoint without decoder get a random one.
    """

    config: ModelConfig
    build_graph: BuildGraph
    make_input: Callable[[InputConfig], InputFn]
    metadata: Mapping[str, Any]
    order: InputConfig
    with_optimizer: bool = False
    random_decoder: bool = False


def open_run(settings: TrainingSettings, tokenizer: Tokenizer, **more: Any) -> RunDirectory:
    """Return the directory to train in, if it is free for this run; only a lock is written yet.

    ``more`` is what else decides the result, such as the labels of a task.

    Raises:
        ConfigError: a flag is missing or out of range.
        RunError: the directory belongs to another run, or another process is writing there.
    """
    check_given(model_dir=settings.run.model_dir)
    check_at_least_one(train_steps=settings.training.train_steps)
    configs.check_patience(settings)
    acquire(settings.run.model_dir)
    recorded = configs.recorded_settings(settings)
    recorded |= {"vocabulary": tokenizer.fingerprint, **more}
    return RunDirectory(settings.run.model_dir, recorded, overwrite=settings.run.overwrite_run)


def run_settings(settings: TrainingSettings, seed: int = 0) -> RunSettings:
    """Return how training is carried out."""
    training, devices = settings.training, settings.devices
    return RunSettings(
        model_dir=settings.run.model_dir or "",
        train_steps=training.train_steps,
        train_batch_size=training.train_batch_size,
        save_steps=training.save_steps or None,
        save_minutes=training.save_minutes,
        max_save=training.max_save,
        iterations=devices.iterations,
        log_freq=training.log_freq,
        seed=seed,
        use_tpu=devices.use_tpu,
        use_bfloat16=devices.use_bfloat16,
        num_hosts=devices.num_hosts,
        num_core_per_host=devices.num_core_per_host,
        address=TpuAddress(
            *(devices.tpu, devices.tpu_zone, devices.gcp_project),
            *(devices.tpu_job_name, devices.master),
        ),
    )


def evaluation_settings(settings: TrainingSettings, batch_size: int) -> RunSettings:
    """Return how evaluation and prediction are carried out: off TPUs on one device."""
    found = replace(
        run_settings(settings), eval_batch_size=batch_size, predict_batch_size=batch_size
    )
    return found if found.use_tpu else replace(found, num_core_per_host=1)


def train_config(settings: TrainingSettings) -> TrainConfig:
    """Return the optimizer, its schedule and how gradients of several replicas are combined."""
    return TrainConfig(
        settings.optimizer,
        configs.schedule_config(settings),
        per_core_clip=settings.update.per_core_clip,
        skip_nan_grad=settings.update.skip_nan_grad,
        freeze=settings.economy.freeze if isinstance(settings, FineTuningSettings) else None,
    )


def train_model(
    settings: TrainingSettings,
    directory: RunDirectory,
    job: TrainingJob,
    evaluate: CachedScores | None = None,
) -> int:
    """Train up to --train_steps from the last checkpoint in ``directory``; return the last step.

    With ``evaluate``, --patience may end training before.
    """
    seed, first = configs.choose_seed(settings.run.seed, directory.seed), directory.step
    run = run_settings(settings, seed)
    configs.schedule_config(settings).warn_of_warmup()
    if freeze := train_config(settings).freeze:
        # Refused before anything is written.
        has_decoder = job.config.decoder_size != "0"
        frozen_names(freeze, variable_parts(expected_shapes(job.config, decoder=has_decoder)))
    information = {"seed": seed, "command": sys.argv, **describe_job(settings, job)}
    directory.create(job.config, information, job.metadata)
    init = initial_model(settings, directory, job) if first == 0 else None
    # On a TPU the host call writes summaries; hooks do not see the values of every step there.
    log = None if run.use_tpu else MetricsLog(directory.path, resume_step=first)
    model_fn = make_model_fn(job.build_graph, run, train_config(settings), init, log)
    order = replace(
        job.order,
        seed=seed,
        deterministic=settings.training.deterministic,
        start_step=first,
        examples_per_step=run.train_batch_size // run.num_hosts,
    )

    def train_until(start: int, end: int | None = None) -> int:
        # A part of its own draws dropout masks of its own.
        part = run if end is None else replace(run, seed=(seed + start) % 2**31)
        source = job.make_input(replace(order, start_step=start))
        return train(build_estimator(part, model_fn), source, run, end)

    patience = settings.economy.patience if isinstance(settings, FineTuningSettings) else None
    try:
        if patience is None or evaluate is None:
            return train_until(first)
        steps = (first, run.save_steps or run.train_steps, run.train_steps)
        return train_with_patience(train_until, evaluate, directory.path, steps, patience)
    except Interrupted as stop:
        if directory.overwrites:
            raise Interrupted(f"{stop}, without {directory.overwrite_flag}") from None
        raise
    except KeyboardInterrupt:
        command = next_command(sys.argv, without=_BEGINNING)
        step, total = latest_step(directory.path), run.train_steps
        text = describe_interruption(directory.path, step, total, command)
        raise KeyboardInterrupt(text) from None
    finally:
        if log is not None:
            log.close()


def describe_job(settings: TrainingSettings, job: TrainingJob) -> dict[str, Any]:
    """Return the sizes and versions that ``run_config.json`` names."""
    parameters = {"encoder": parameter_count(job.config, decoder=False)}
    tokenizer, length = job.metadata.get("tokenizer"), configs.max_length(settings)
    versions = {"tensorflow": tf.version.VERSION}
    return describe_run(job.config, parameters, tokenizer, length, versions)


def close_run(
    settings: TrainingSettings,
    directory: RunDirectory,
    step: int,
    best: BestCheckpoint | None,
    evaluation: Mapping[str, Sequence[str]],
) -> None:
    """Record the end of a run whose results are all written, and log its last lines.

    Args:
        settings: those of the program.
        directory: of the run.
        step: the last one.
        best: the checkpoint that an evaluation has chosen; None without evaluation.
        evaluation: flags with which the program uses the model again, by purpose.

    Raises:
        RunError: training diverged: the results are those of a model that is of no use.
    """
    total = settings.training.train_steps
    stopped_early = step < total
    directory.finish(step, min(step, total))
    saved = saved_steps(directory.path)[-1] if best is None else best.saved
    scores = {} if best is None else best.scores
    ending = Ending(saved.prefix, scores, saved.step, total, best is not None, stopped_early)
    commands = next_commands(sys.argv, evaluation, without=_TRAINING)
    log_ending(ending, directory.path, RunDirectory.result_files, commands)


def initial_model(
    settings: TrainingSettings, directory: RunDirectory, job: TrainingJob
) -> InitConfig | None:
    """Return the checkpoint to start from, converted to TensorFlow's format where it is another."""
    run = settings.run
    if not run.init_checkpoint:
        return None
    copy = directory.path / "init_checkpoint"
    path = as_tf_checkpoint(run.init_checkpoint, copy, run.model_config)
    return InitConfig(path, job.with_optimizer, job.random_decoder)


def example_input(files: Sequence[ExampleFile], order: InputConfig) -> InputFn:
    """Return the input function of fine-tuning records."""
    counted = [(str(file.path), file.num_examples) for file in files]
    return finetune_input_fn(counted, files[0].schema, order)


def fine_tune(
    settings: FineTuningSettings,
    directory: RunDirectory,
    files: Sequence[ExampleFile],
    config: ModelConfig,
    build_graph: BuildGraph,
    metadata: Mapping[str, Any],
    *,
    random_decoder: bool = False,
    evaluate: CachedScores | None = None,
) -> int:
    """Train on record files up to --train_steps; return the last step.

    Args:
        settings: those of the program.
        directory: run directory, from :func:`open_run`.
        files: training records.
        config: sizes of the model.
        build_graph: graph of the model with its loss.
        metadata: written next to the checkpoints: vocab_path, labels, cls_scope, problem_type.
        random_decoder: see :class:`TrainingJob`.
        evaluate: scores checkpoints for --patience.
    """
    order = InputConfig(is_training=True, shuffle_buffer=settings.records.shuffle_buffer)
    source = partial(example_input, files)
    job = TrainingJob(config, build_graph, source, metadata, order, random_decoder=random_decoder)
    counts = [file.num_examples for file in files]
    with report_corrupt_records([str(file.path) for file in files], files[0].schema, counts):
        return train_model(settings, directory, job, evaluate)


def predict_examples(
    run: RunSettings, build_graph: BuildGraph, file: ExampleFile, checkpoint: Path
) -> dict[str, np.ndarray]:
    """Return the predictions of a checkpoint for the real examples of a file, in their order."""
    estimator = build_estimator(run, make_model_fn(build_graph, run))
    input_fn = example_input([file], InputConfig(is_training=False))
    stop_requests.check()
    with report_corrupt_records([str(file.path)], file.schema, [file.num_examples]):
        found = predict_all(estimator, input_fn, checkpoint)
    return {name: values[: file.num_real_examples] for name, values in found.items()}


def checkpoints_to_evaluate(settings: FineTuningSettings) -> Iterable[SavedStep]:
    """Return the checkpoints that the sweep flags select, by step."""
    sweep = settings.sweep
    after, upto = sweep.eval_start_step, sweep.eval_end_step
    folder = settings.eval_model_dir or settings.run.model_dir or ""
    found: Iterable[SavedStep]
    if sweep.eval_wait > 0 and not settings.run.do_train:
        last = settings.training.train_steps
        found = wait_for_steps(folder, after, upto, last, sweep.eval_wait)
    else:
        found = saved_checkpoints(settings, folder, after, upto)
    return found if sweep.eval_all_ckpt else list(found)[-1:]


def saved_checkpoints(
    settings: TrainingSettings, folder: str, after: int = -1, upto: int = 10**9
) -> list[SavedStep]:
    """Return the checkpoints that there are; see :func:`saved_steps`.

    Raises:
        CheckpointError: there is none; the message says how to wait for one.
    """
    try:
        return saved_steps(folder, after, upto)
    except CheckpointError as error:
        if settings.run.do_train:
            raise
        hint = "--eval_wait=SECONDS waits for those of a run that trains in another process"
        raise CheckpointError(f"{error}; {hint}") from None


def trained_checkpoint(settings: FineTuningSettings) -> Path:
    """Return a checkpoint of the run to evaluate; with --eval_wait the first one to come.

    Raises:
        CheckpointError: there is none.
    """
    folder, wait = settings.eval_model_dir or settings.run.model_dir or "", settings.sweep.eval_wait
    if wait > 0 and not settings.run.do_train:
        last = settings.training.train_steps
        return next(iter(wait_for_steps(folder, -1, 10**9, last, wait))).prefix
    return saved_checkpoints(settings, folder)[-1].prefix


def evaluate_and_keep(
    settings: FineTuningSettings, evaluate: Callable[[Path], Scores]
) -> BestCheckpoint:
    """Score all checkpoints and record the best; after training delete those not kept."""
    run, sweep = settings.run, settings.sweep
    folder = run.model_dir or settings.eval_model_dir
    is_waiting = sweep.eval_wait > 0 and not run.do_train
    log = open_evaluation_log(folder, is_waiting, replaces=run.do_train)
    best = evaluate_all(checkpoints_to_evaluate(settings), evaluate, log)
    log.close()
    write_best(best, folder)
    if run.do_train and not settings.eval_model_dir:
        Retention(sweep.retain_all, sweep.retain_best).apply(run.model_dir, best.saved)
    return best


def evaluate_if_asked(settings: FineTuningSettings, score: CachedScores) -> BestCheckpoint | None:
    """With --do_eval, :func:`evaluate_and_keep` in one graph and session; else return None."""
    if not settings.run.do_eval:
        return None
    with score.session():
        return evaluate_and_keep(settings, score)


def chosen_checkpoint(settings: FineTuningSettings, best: BestCheckpoint | None) -> Path:
    """Return the checkpoint that this run found best, else that of an earlier run or the last."""
    return best_or_last_checkpoint(settings) if best is None else best.saved.prefix


def best_or_last_checkpoint(settings: FineTuningSettings) -> Path:
    """Return the best checkpoint that an evaluation recorded, else the last one.

    The record for the checkpoints in --eval_model_dir may be in --model_dir.
    """
    model_dir = settings.run.model_dir
    folder = settings.eval_model_dir or model_dir or ""
    best = best_checkpoint(folder)
    if best is None and model_dir and model_dir != folder:
        other = best_checkpoint(model_dir)
        best = other if other is not None and is_inside(other, folder) else None
    return best or saved_steps(folder)[-1].prefix
