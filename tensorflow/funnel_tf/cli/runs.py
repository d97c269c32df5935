"""What the TensorFlow programs share: flags to settings, one training run, evaluation afterwards.

A program brings its task: its graph, its input and how predictions are scored.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from funnel_tf.cli.start import silence_tensorflow

from funnel.config.model import ModelConfig
from funnel.tokenization import Tokenizer
from funnel.utils.logging import MetricsLog
from funnel_tf.cli import flags as tf_flags
from funnel_tf.cli.flags import Flags
from funnel_tf.data.input_pipeline import InputConfig
from funnel_tf.models.initial_model import InitConfig, as_tf_checkpoint
from funnel_tf.training.estimator import (
    BuildGraph,
    InputFn,
    RunSettings,
    TpuAddress,
    TrainConfig,
    build_estimator,
    make_model_fn,
    train,
)
from funnel_tf.training.evaluation import (
    BestCheckpoint,
    Retention,
    Scores,
    evaluate_all,
    write_best,
)
from funnel_tf.training.run_directory import RunDirectory, SavedStep, saved_steps


@dataclass(frozen=True)
class TrainingJob:
    """What a program trains.

    ``make_input`` gives the training input in the order asked for. ``metadata`` goes beside the
    checkpoints: vocab_path, labels, cls_scope, problem_type. ``with_optimizer`` also takes the
    optimizer's state from the initial checkpoint.
    """

    config: ModelConfig
    build_graph: BuildGraph
    make_input: Callable[[InputConfig], InputFn]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    with_optimizer: bool = False


def start_program(program: str, description: str) -> Flags:
    """The flags of a program, with logging set up."""
    flags = tf_flags.parse(program, description)
    silence_tensorflow(flags.verbose)
    return flags


def open_run(flags: Flags, tokenizer: Tokenizer, **settings: Any) -> RunDirectory:
    """The directory to train in, if this run may have it; nothing is written yet.

    ``settings`` decide the result besides the flags: the labels of a task, say.
    """
    tf_flags.check_given(flags, "model_dir")
    deciding = (
        tf_flags.result_affecting_config(flags) | {"vocabulary": tokenizer.fingerprint} | settings
    )
    return RunDirectory(flags.model_dir, deciding, overwrite=flags.overwrite_run)


def run_settings(flags: Flags, seed: int = 0) -> RunSettings:
    """How the run is carried out."""
    address = TpuAddress(
        flags.tpu, flags.tpu_zone, flags.gcp_project, flags.tpu_job_name, flags.master
    )
    names = ("train_steps", "train_batch_size", "iterations", "log_freq", "max_save")
    names += ("use_tpu", "use_bfloat16", "num_hosts", "num_core_per_host")
    sizes = {
        name: getattr(flags, name)
        for name in ("eval_batch_size", "predict_batch_size")
        if hasattr(flags, name)
    }
    return RunSettings(
        model_dir=flags.model_dir or "",
        save_steps=flags.save_steps or None,
        seed=seed,
        address=address,
        **sizes,
        **{name: getattr(flags, name) for name in names},
    )


def train_config(flags: Flags) -> TrainConfig:
    """How the model learns."""
    return TrainConfig(
        tf_flags.optimizer_config(flags),
        tf_flags.schedule_config(flags),
        per_core_clip=flags.per_core_clip,
        skip_nan_grad=flags.skip_nan_grad,
    )


def train_model(flags: Flags, directory: RunDirectory, job: TrainingJob) -> int:
    """Train in ``directory`` from where it stands up to --train_steps; returns the last step."""
    seed = tf_flags.new_seed(flags, directory.seed)
    settings, learning, first = run_settings(flags, seed), train_config(flags), directory.step
    directory.create(job.config, {"seed": seed, "command": sys.argv}, job.metadata)
    init = None
    if flags.init_checkpoint and first == 0:
        copy = directory.path / "init_checkpoint"
        path = as_tf_checkpoint(flags.init_checkpoint, copy, flags.model_config)
        init = InitConfig(path, job.with_optimizer)
    log = None if flags.use_tpu else MetricsLog(directory.path, resume_step=first)
    estimator = build_estimator(
        settings, make_model_fn(job.build_graph, settings, learning, init, log)
    )
    order = InputConfig(
        is_training=True,
        shuffle_buffer=getattr(flags, "shuffle_buffer", InputConfig.shuffle_buffer),
        seed=seed,
        deterministic=flags.deterministic,
        start_step=first,
        examples_per_step=flags.train_batch_size // flags.num_hosts,
        shard_files=getattr(flags, "shard_across_host", True),
    )
    step = train(estimator, job.make_input(order), settings)
    if log is not None:
        log.close()
    return step


def checkpoints_to_evaluate(flags: Flags) -> list[SavedStep]:
    """The checkpoints that the sweep flags leave, by step."""
    folder = getattr(flags, "eval_model_dir", "") or flags.model_dir
    found = saved_steps(folder, flags.eval_start_step, flags.eval_end_step)
    return found if flags.eval_all_ckpt else found[-1:]


def evaluate_and_keep(
    flags: Flags, evaluate: Callable[[Path], Scores], higher_is_better: bool = True
) -> BestCheckpoint:
    """Score all checkpoints, record the best, and after training delete those of no further use."""
    log = MetricsLog(flags.model_dir or flags.eval_model_dir)
    best = evaluate_all(checkpoints_to_evaluate(flags), evaluate, log, higher_is_better)
    log.close()
    write_best(best, flags.model_dir or flags.eval_model_dir)
    if flags.do_train and not getattr(flags, "eval_model_dir", ""):
        Retention(flags.retain_all, flags.retain_best).apply(flags.model_dir, best.saved)
    return best
