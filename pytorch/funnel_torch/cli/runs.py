"""Building blocks of the PyTorch programs: run directory, model, training.

A program adds its task: its settings, the sources of its batches and the scores of its outputs.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from funnel.checkpoints import Checkpoint
from funnel.config import hub
from funnel.config.inputs import SegmentIds
from funnel.runs.endings import (
    Ending,
    describe_interruption,
    log_ending,
    next_command,
    next_commands,
)
from funnel.runs.provenance import describe_run
from funnel.runs.scores import format_scores
from funnel.tokenization import Tokenizer
from funnel.tokenization.choice import open_tokenizer, weights_directory
from funnel.utils.errors import RunError
from funnel.utils.logging import MetricsLog, NullLog, RunLog
from funnel.utils.run_directory import refuse_foreign_results
from funnel.utils.run_lock import acquire
from funnel_torch.cli.model_factory import Model, ModelFactory
from funnel_torch.cli.settings.base import FineTuneSettings, ProgramSettings
from funnel_torch.data.batching import ExampleSource
from funnel_torch.models.initial_model import (
    InitConfig,
    read_initial_checkpoint,
)
from funnel_torch.tasks.finetune import Evaluation, fine_tune, prepare_model
from funnel_torch.training.distributed import (
    DistributedContext,
    FirstProcessFailed,
)
from funnel_torch.training.freezing import count_parameters
from funnel_torch.training.progress import Progress
from funnel_torch.training.rng import seed_everything
from funnel_torch.training.run_directory import RunDirectory
from funnel_torch.training.saving import ModelSaver
from funnel_torch.training.stopping import raise_if_stopped
from funnel_torch.training.trainer import RunOutput, Scores

logger = logging.getLogger(__name__)

# Flags that a command to continue with leaves out: they begin a run, or belong to one that trains.
_BEGINNING = ("overwrite", "resume")
_TRAINING = (*_BEGINNING, "new_head", "init_ckpt", "do_train")


def load_tokenizer(
    settings: ProgramSettings,
    *,
    trains: bool,
    segments: SegmentIds | None = None,
    keep_accents: bool = False,
) -> Tokenizer:
    """Open the tokenizer of the initial checkpoint, or that of --tokenizer_path.

    What is recorded next to the weights (case, symbols, segment ids) precedes the defaults.

    Args:
        settings: those of the program.
        trains: whether the run trains; if not, the weights are those in --model_dir.
        segments: the program's segment ids.
        keep_accents: the program's flag.

    Raises:
        ConfigError: there is no vocabulary, or a flag contradicts what is recorded.
    """
    init_ckpt, weights = settings.init.init_ckpt, []
    if init_ckpt or not trains:
        trained = None if trains else settings.trained_model
        weights = [weights_directory(trained or hub.resolve(init_ckpt))]
    request = settings.tokenizer.request(settings.given, segments, keep_accents)
    return open_tokenizer(request, weights)


@dataclass(frozen=True)
class RunContext:
    """An opened run.

    Attributes:
        directory: None where nothing is kept.
        seed: that of the run, set already.
        checkpoint: the run's own model to continue from or, without training, to evaluate; None:
            the initial model.
        divergence: how training diverged, in words; empty if it has not.
        endings: how training ended; empty before.
    """

    directory: RunDirectory | None
    seed: int
    checkpoint: Path | None
    divergence: list[str] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)

    @property
    def resumes(self) -> bool:
        """Whether the run continues from its newest checkpoint."""
        return self.directory is not None and self.directory.can_resume


def open_run(
    settings: ProgramSettings,
    config: Mapping[str, Any],
    seed: int,
    world: DistributedContext,
    *,
    trains: bool,
) -> RunContext:
    """Check that the run may use its directory, and set its seed; nothing is written but a lock.

    Args:
        settings: those of the program.
        config: what decides the result of the run.
        seed: for a run that has not begun.
        world: the processes; rank 0 holds the lock for all of them.
        trains: whether the run trains.

    Raises:
        RunError: the directory belongs to another run, or another process is writing there.
    """
    run, directory, checkpoint = settings.run, None, None
    if trains and not run.debug:
        if world.is_rank_zero:
            acquire(run.model_dir)
        extends = getattr(settings.training, "extend_to", None) is not None
        resume = run.resume or extends
        directory = RunDirectory(run.model_dir, config, resume=resume, overwrite=run.overwrite)
        if extends and not directory.can_resume:
            raise RunError(f"--extend_to: {run.model_dir} holds no run to train further")
        recorded = directory.recorded("seed")
        seed = seed if recorded is None else recorded
        checkpoint = directory.last if directory.can_resume else None
    elif not trains:
        checkpoint = settings.trained_model
        if checkpoint is not None and settings.init.init_ckpt:
            logger.info("%s is evaluated, and --init_ckpt ignored", checkpoint)
    seed_everything(seed)
    return RunContext(directory, seed, checkpoint)


def read_start(settings: ProgramSettings, run_context: RunContext) -> Checkpoint | None:
    """Read the checkpoint from which a run starts or continues; None for random weights."""
    flags = settings.init
    init = InitConfig(checkpoint=flags.init_ckpt, config_path=flags.init_ckpt_config)
    if (own := run_context.checkpoint) is not None:
        # A file of the original has no config of its own next to it.
        config_path = init.config_path if own.is_file() else ""
        init = InitConfig(checkpoint=str(own), config_path=config_path)
    return read_initial_checkpoint(init)


def check_results(settings: ProgramSettings, run_context: RunContext, **folders: str) -> None:
    """Check that the results of this run replace those of no other.

    Args:
        settings: those of the program.
        run_context: the run.
        **folders: directories that results are written to, by flag; empty ones are left out.

    Raises:
        RunError: a directory holds another run.
    """
    if settings.run.debug:
        return
    model = run_context.checkpoint or Path(settings.init.init_ckpt)
    if run_context.directory is not None:
        model = run_context.directory.path
    for flag, folder in folders.items():
        if folder:
            refuse_foreign_results(folder, model, f"--{flag}")


def open_output(
    run_context: RunContext,
    factory: ModelFactory[Model],
    saver: ModelSaver,
    world: DistributedContext,
    **more: Any,
) -> RunOutput:
    """Create the run's directory and its log; ``more`` as in :class:`RunOutput`."""
    directory = run_context.directory
    if directory is None:
        return RunOutput(**more)
    model = saver.model
    information = {"seed": run_context.seed, "command": sys.argv}
    versions = {"torch": torch.__version__}
    # A process that is still checking the directory must not find what this run writes.
    world.barrier()
    if world.is_rank_zero:
        sizes = (count_parameters(model), factory.tokenizer, factory.max_length)
        information |= describe_run(model.config, *sizes, versions)
    world.on_rank_zero(directory.create, model.config, information)
    step = directory.resume_step
    log: RunLog = NullLog()
    if world.is_rank_zero:
        log = MetricsLog(directory.path, resume_step=step, replaces=True)
    return RunOutput(directory, log, saver, **more)


@contextlib.contextmanager
def explained_interruption(run_context: RunContext, world: DistributedContext) -> Iterator[None]:
    """Let Ctrl-C during training say how to resume, and from which step."""
    try:
        yield
    except KeyboardInterrupt:
        directory = run_context.directory
        if directory is None:
            raise KeyboardInterrupt(describe_interruption(None)) from None
        # Several processes have a launcher, whose command line is not known here.
        command = "" if world.size > 1 else next_command(sys.argv, without=_BEGINNING)
        progress = directory.read_progress()
        text = describe_interruption(directory.path, *progress, command)
        raise KeyboardInterrupt(text) from None


def train(
    settings: FineTuneSettings,
    run_context: RunContext,
    factory: ModelFactory[Model],
    model: Model,
    source: ExampleSource,
    evaluations: Sequence[Evaluation],
    world: DistributedContext,
) -> tuple[Model, Scores]:
    """Fine-tune ``model``; return the best model (with --debug: the last one) and its scores."""
    directory, device = run_context.directory, settings.device
    config = replace(
        settings.training,
        batches=replace(settings.training.batches, seed=run_context.seed),
        precision=device.precision,
        compile=device.compile,
    )
    prepare_model(model, config, bool(evaluations))  # may refuse, so nothing is written before
    output = open_output(run_context, factory, factory.saver(model), world)
    if directory is not None:
        world.on_rank_zero(directory.expect_results)
    with explained_interruption(run_context, world):
        progress = fine_tune(model, source, evaluations, config, world, output, run_context.resumes)
    output.log.close()
    record_ending(run_context, progress, device.precision)
    raise_if_stopped(world)
    is_best = progress.best_step == progress.step
    if is_best or directory is None or not progress.best:
        return model, progress.best if is_best else {}
    if run_context.divergence:
        # The best checkpoint may hold weights that are not finite, which are never loaded.
        return model, {}
    return factory.load(directory.best).to(world.device), progress.best


def record_ending(run_context: RunContext, progress: Progress, precision: str) -> None:
    """Remember how training ended, for :func:`close_run`."""
    directory = run_context.directory
    # Without a directory the best model was not kept.
    is_best = bool(progress.best) and (directory is not None or progress.best_step == progress.step)
    place, total_steps = None, None
    if directory is not None:
        place = directory.best if is_best else directory.last
        total_steps = directory.read_progress()[1]
    step, scores = (progress.best_step, progress.best) if is_best else (progress.step, {})
    run_context.divergence[:] = progress.divergence(precision)
    ending = Ending(
        place, scores, step, total_steps or progress.step, is_best, progress.stopped_early
    )
    run_context.endings[:] = [ending]


def close_run(
    run_context: RunContext, world: DistributedContext, evaluation: Mapping[str, Sequence[str]]
) -> None:
    """Record the end of a run whose results are all written, and log its last lines.

    Args:
        run_context: the run.
        world: the processes.
        evaluation: flags with which the program uses the model again, by purpose.

    Raises:
        RunError: training diverged: the results are those of a model that is of no use.
    """
    directory = run_context.directory
    if directory is not None:
        world.on_rank_zero(directory.complete)
    for reason in run_context.divergence:
        if not world.is_rank_zero:
            raise FirstProcessFailed
        where = "the run" if directory is None else str(directory.path)
        raise RunError(f"{where} diverged: {reason}; try a lower --lr, or a longer warm-up")
    for ending in run_context.endings:
        commands = next_commands(sys.argv, evaluation, without=_TRAINING)
        log_ending(
            ending, directory.path if directory else None, RunDirectory.result_files, commands
        )


def log_scores(split: str, scores: Mapping[str, float]) -> None:
    """Log the scores of the final model."""
    logger.info("final model, %s: %s", split, format_scores(scores))
