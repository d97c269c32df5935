"""Fine-tuning of any model with a head: batches, optimizer, schedule and evaluation.

A task provides its examples (an :class:`~funnel_torch.data.batching.ExampleSource`), its model
(which takes a batch as keyword arguments) and, for each evaluation split, a function that scores
the outputs of the model.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from funnel.inference.collect import OutputArrays
from funnel.utils.errors import ConfigError, RunError
from funnel.utils.logging import progress as progress_bar
from funnel_torch.data.batching import (
    ExampleSource,
    TrainBatches,
    as_tensors,
    evaluation_plan,
    to_device,
)
from funnel_torch.kernels.sharing import share_choices
from funnel_torch.models.layers import recompute_layers
from funnel_torch.tasks.config import FineTuneConfig
from funnel_torch.training.devices import autocast
from funnel_torch.training.distributed import DistributedContext
from funnel_torch.training.freezing import freeze, log_frozen
from funnel_torch.training.lora import add_adapters, check_adapters
from funnel_torch.training.optimizer import build_optimizer
from funnel_torch.training.rng import seed_everything
from funnel_torch.training.stopping import until_stopped
from funnel_torch.training.trainer import Progress, RunOutput, Trainer, compiled

logger = logging.getLogger(__name__)

Outputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Evaluation:
    """Evaluation of a split.

    Attributes:
        split: name of the split.
        source: the examples.
        score: returns metrics, the main one first, from arrays [n, ...] by the names in
            ``outputs``, in the order of the examples.
        outputs: fields of the model output that ``score`` needs.
        batch_size: examples per process and batch.
    """

    split: str
    source: ExampleSource
    score: Callable[[Outputs], dict[str, float]]
    outputs: tuple[str, ...] = ("logits",)
    batch_size: int = 32


def fine_tune(
    model: nn.Module,
    train: ExampleSource,
    evaluations: Sequence[Evaluation],
    config: FineTuneConfig,
    world: DistributedContext,
    output: RunOutput | None = None,
    resume: bool = False,
) -> Progress:
    """Train a model and evaluate it in regular intervals.

    Args:
        model: model on ``world.device``.
        train: training examples.
        evaluations: evaluation splits; the first metric of the first one selects the best model.
        config: settings.
        world: the processes.
        output: destinations of logs and checkpoints.
        resume: restore optimizer, schedule, data order and random generators from the last
            checkpoint of ``output.directory``; ``model`` must already have its weights.

    Raises:
        ConfigError: a part to freeze does not exist.
        RunError: the checkpoint is of a run with another number of steps, or other training data.
    """
    prepare_model(model, config, bool(evaluations))
    batches = TrainBatches(train, config.batches, world.rank, world.size)
    # Every process has its own dropout masks.
    seed_everything(config.batches.seed + world.rank)
    share_choices(model, world)
    trainer = Trainer(
        model,
        build_optimizer(model, config.optimizer),
        config.schedule(batches.steps_per_epoch),
        batches,
        config.trainer(batches.steps_per_epoch),
        world,
        output,
        world.wrap(compiled(model) if config.compile else model),
    )
    _log_sizes(train, batches, config, world)
    log_frozen(model)
    if resume and output is not None and output.directory is not None:
        state, recorded = output.directory.load_state(), output.directory.read_progress()[1]
        trainer.restore(state)
        _check_data(trainer, config, state.get("data"), recorded)
        _check_length(trainer, config, recorded)
        logger.info("resumed at step %d", trainer.progress.step)
    if not evaluations:
        return trainer.train()
    return trainer.train(partial(evaluate_all, model, evaluations, world, config.precision))


def prepare_model(model: nn.Module, config: FineTuneConfig, evaluates: bool) -> None:
    """Freeze parts of a model and turn on recomputation, as the settings say.

    Raises:
        ConfigError: a part to freeze does not exist, all adapters would be frozen, or patience has
            no evaluations to count.
    """
    if config.patience and not evaluates:
        raise ConfigError("--patience: needs dev data to evaluate on")
    if config.lora_rank is not None:
        if config.compile:
            raise ConfigError("--lora_rank goes without --compile: peft changes the model per step")
        add_adapters(model, config.lora_rank)
    if config.freeze:
        freeze(model, config.freeze)
        check_adapters(model, config.freeze)
    if config.recompute_layers:
        recompute_layers(model)


def _check_data(
    trainer: Trainer,
    config: FineTuneConfig,
    saved: Mapping[str, int] | None,
    recorded: int | None,
) -> None:
    """Refuse to train further on other data: the order of examples and the epochs would be others.

    A run that has nothing left to train may be evaluated again. Older checkpoints do not say what
    their data was.
    """
    now, total = trainer.batches.fingerprint, trainer.config.total_steps
    if not saved or saved == now:
        return
    is_over = trainer.progress.step >= total
    is_over |= trainer.progress.stopped_early and config.extend_to is None
    if is_over and recorded == total:
        return
    before, count = saved.get("examples"), now["examples"]
    change = (
        f"{count} examples, not {before}" if before != count else "as many examples, but others"
    )
    raise RunError(
        f"the training data has changed since the checkpoint of this run ({change}): bring back "
        "the files to train it further, or begin another --model_dir, where --init_ckpt can name "
        "the model trained so far"
    )


def _check_length(trainer: Trainer, config: FineTuneConfig, recorded: int | None) -> None:
    """Refuse to go back from an extension, and other data; let an extended run continue."""
    total = trainer.config.total_steps
    if recorded is not None and recorded > total:
        raise RunError(
            f"the run has {recorded} steps, now it would have {total}: repeat its --extend_to to "
            "resume or evaluate it; if it was not extended, its training data were larger: "
            "restore them, or choose another --model_dir"
        )
    # All settings are those of the run, so only its data can have another number of steps.
    if recorded is not None and recorded < total and config.extend_to is None:
        raise RunError(
            f"the run has {recorded} steps, now it would have {total}: its training data were "
            "smaller; restore them, or choose another --model_dir"
        )
    if config.extend_to is not None and trainer.progress.step < total:
        trainer.progress.stopped_early = False
        trainer.progress.evaluations_since_best = 0


def _log_sizes(
    train: ExampleSource, batches: TrainBatches, config: FineTuneConfig, world: DistributedContext
) -> None:
    total = config.total_steps(batches.steps_per_epoch)
    logger.info(
        "%d training examples, %d steps (%.1f epochs) on %s, %s",
        *(len(train.lengths), total, total / batches.steps_per_epoch, world.device),
        config.precision,
    )
    logger.info(
        "batch size %d per device x %d processes x %d accumulated = %d",
        *(config.batches.batch_size, world.size, config.batches.grad_accum),
        batches.examples_per_step,
    )
    config.schedule(batches.steps_per_epoch).warn_of_warmup()


def evaluate_all(
    model: nn.Module,
    evaluations: Sequence[Evaluation],
    world: DistributedContext,
    precision: str = "fp32",
) -> dict[str, dict[str, float]]:
    """Return the metrics of several splits by their names."""
    return {one.split: evaluate(model, one, world, precision) for one in evaluations}


def evaluate(
    model: nn.Module, evaluation: Evaluation, world: DistributedContext, precision: str = "fp32"
) -> dict[str, float]:
    """Return the metrics of a split, the same in every process; each example counts once."""
    return evaluation.score(
        predict(
            model,
            evaluation.source,
            evaluation.outputs,
            world,
            batch_size=evaluation.batch_size,
            precision=precision,
        )
    )


def predict(
    model: nn.Module,
    source: ExampleSource,
    outputs: Sequence[str],
    world: DistributedContext,
    *,
    batch_size: int = 32,
    precision: str = "fp32",
) -> dict[str, np.ndarray]:
    """Return the named outputs [n, ...] of all examples, in their order, in every process.

    Large outputs are in a temporary file, which ends with the arrays.

    The model is left in evaluation mode.
    """
    model.eval()
    plan = evaluation_plan(source.lengths, batch_size, world.rank, world.size)
    rounds = len(evaluation_plan(source.lengths, batch_size, 0, world.size))
    found = OutputArrays(len(source.lengths))
    parts: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []
    with torch.inference_mode(), autocast(world.device, precision):
        for indices in progress_bar(
            until_stopped(plan, world, rounds),
            desc="predict",
            total=len(plan),
            disable=None if world.is_rank_zero else True,
        ):
            inputs = as_tensors(source.collate(indices))
            # Without labels the model computes no loss, which is not needed here.
            inputs.pop("labels", None)
            result = model(**to_device(inputs, world.device))
            fields = {name: getattr(result, name).float().cpu().numpy() for name in outputs}
            # The plan sorts examples by length and deals the batches out to the processes.
            if world.size == 1:
                found.put(indices, fields)
            else:
                parts.append((indices, fields))
    for process_parts in world.gather(parts) if world.size > 1 else ():
        for indices, fields in process_parts:
            found.put(indices, fields)
    return found.arrays()
