"""What the PyTorch fine-tuning programs share: claiming a directory, building models, training.

A program brings its task: its flags, the sources of its batches and how outputs are scored.
"""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from funnel.checkpoints.base import find_vocabulary
from funnel.config.model import ModelConfig
from funnel.tokenization import Tokenizer, get_tokenizer
from funnel.utils.errors import ConfigError
from funnel.utils.logging import MetricsLog, NullLog, configure_logging
from funnel.utils.main import USER_ERROR
from funnel_torch.cli import flags
from funnel_torch.data.batching import ExampleSource
from funnel_torch.kernels.quantization import quantize_int8
from funnel_torch.models.initial_model import build_model
from funnel_torch.models.pretrained import PretrainedModel
from funnel_torch.tasks.finetune import Evaluation, fine_tune
from funnel_torch.training.distributed import DistributedContext, FirstProcessFailed, start
from funnel_torch.training.fsdp import ShardedModel
from funnel_torch.training.rng import seed_everything
from funnel_torch.training.run_directory import RunDirectory
from funnel_torch.training.saving import ModelSaver
from funnel_torch.training.trainer import RunOutput, Scores

logger = logging.getLogger(__name__)

Model = TypeVar("Model", bound=PretrainedModel)


@dataclass(frozen=True)
class RunContext:
    """What a run has been granted.

    ``directory`` is None where nothing is kept. ``checkpoint`` is the run's own model to go on
    from (or, without training, to look at); None means the one that the flags name.
    """

    directory: RunDirectory | None
    seed: int
    checkpoint: Path | None


@dataclass(frozen=True)
class ModelFactory(Generic[Model]):
    """How a run's models are built and saved: the head, its arguments and what goes beside it."""

    head: type[Model]
    tokenizer: Tokenizer
    arguments: Mapping[str, Any]
    labels: tuple[str, ...] | None = None

    def load(self, args: argparse.Namespace, checkpoint: Path | None) -> Model:
        """The model of a run's own ``checkpoint``, or None: the one the flags name."""
        begin = replace(flags.start_config(args, self.tokenizer.vocab_size), labels=self.labels)
        if checkpoint is not None:
            begin = replace(begin, checkpoint=str(checkpoint), config_path="", overwrite=())
            begin = replace(begin, new_head=False)
        if args.int8 and args.device_id >= 0 and torch.cuda.is_available():
            raise ConfigError("--int8 computes on the CPU: it goes with --device_id=-1")
        model = build_model(self.head, begin, self.tokenizer, args.max_length, **self.arguments)
        return quantize_int8(model.eval()) if args.int8 else model

    def saver(self, model: Model, sharded: ShardedModel | None = None) -> ModelSaver:
        """Return the saver of a model, with its vocabulary."""
        return ModelSaver(model, self.tokenizer.path, self.labels, sharded)


def load_tokenizer(args: argparse.Namespace, *, trains: bool, **options: Any) -> Tokenizer:
    """The tokenizer of the vocabulary named, else of the one beside the weights to start from.

    Raises:
        ConfigError: there is neither.
    """
    path = args.tokenizer_path
    if not path:
        weights = Path(args.init_ckpt or Path(args.model_dir, "" if trains else "best"))
        folder = weights if weights.is_dir() else weights.parent
        path = find_vocabulary(folder) if args.init_ckpt or not trains else None
    if not path:
        raise ConfigError("--tokenizer_path is needed: no vocabulary lies beside the weights")
    return get_tokenizer(args.tokenizer_type, str(path), uncased=not args.cased, **options)


def open_run(
    args: argparse.Namespace, settings: Mapping[str, Any], seed: int, *, trains: bool
) -> RunContext:
    """The run's directory, if it may have it, and its seed, set; nothing is written yet.

    ``settings`` decide what comes out of the run; ``seed`` is for a run that has not begun.
    """
    directory, checkpoint = None, None
    if trains and not args.debug:
        directory = RunDirectory(
            args.model_dir, settings, resume=args.resume, overwrite=args.overwrite
        )
        recorded = directory.recorded("seed")
        seed = seed if recorded is None else recorded
        checkpoint = directory.last if directory.can_resume else None
    elif not trains and not args.init_ckpt:
        checkpoint = Path(args.model_dir) / "best"
    seed_everything(seed)
    return RunContext(directory, seed, checkpoint)


def open_output(
    run_context: RunContext,
    config: ModelConfig,
    saver: ModelSaver,
    world: DistributedContext,
    **more: Any,
) -> RunOutput:
    """Begin the run's directory and its log; ``more`` as in :class:`RunOutput`."""
    directory = run_context.directory
    if directory is None:
        return RunOutput(**more)
    information = {"seed": run_context.seed, "command": sys.argv}
    # A process that is still looking at the directory must not find what this run writes.
    world.barrier()
    world.on_rank_zero(directory.create, config, information)
    step = directory.resume_step
    log = MetricsLog(directory.path, resume_step=step) if world.is_rank_zero else NullLog()
    return RunOutput(directory, log, saver, **more)


def train(
    args: argparse.Namespace,
    run_context: RunContext,
    plan: ModelFactory[Model],
    model: Model,
    source: ExampleSource,
    evaluations: Sequence[Evaluation],
    world: DistributedContext,
) -> tuple[Model, Scores]:
    """Fine-tune ``model``; returns the best model (with --debug: the final one) and its scores."""
    directory = run_context.directory
    resume = directory is not None and directory.can_resume
    output = open_output(run_context, model.config, plan.saver(model), world)
    config = flags.fine_tune_config(args, run_context.seed)
    progress = fine_tune(model, source, evaluations, config, world, output, resume)
    output.log.close()
    is_best = progress.best_step == progress.step
    if is_best or directory is None or not progress.best:
        return model, progress.best if is_best else {}
    return plan.load(args, directory.best).to(world.device), progress.best


def common_seed(args: argparse.Namespace, world: DistributedContext) -> int:
    """The seed asked for, else one that all processes draw together."""
    return world.broadcast(secrets.randbelow(2**31) if args.seed is None else args.seed)


def log_scores(split: str, scores: Mapping[str, float]) -> None:
    """Say what the final model is worth."""
    text = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
    logger.info("final model, %s: %s", split, text)


def start_program(
    parser: flags.FlagParser, work: Callable[[argparse.Namespace, DistributedContext], None]
) -> None:
    """Read the command line and do the ``work`` in this process of perhaps several."""
    args = parser.parse_args()
    place = flags.distributed_config(args, os.environ)
    configure_logging(args.verbose, 0 if args.log_all_processes else place.rank)
    try:
        with start(place) as world:
            flags.notices(args, world.size)
            work(args, world)
    except FirstProcessFailed:
        sys.exit(USER_ERROR)
