"""Fine-tuning of any head: batches, optimizer, schedule and evaluation around the training loop.

A task brings its examples (an :class:`~funnel_torch.data.batching.ExampleSource`), its model (a
head whose
forward takes a batch as keywords) and, per split, a function that scores the model's outputs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from funnel.utils.logging import progress as progress_bar
from funnel_torch.data.batching import (
    ExampleSource,
    TrainBatches,
    as_tensors,
    evaluation_plan,
    to_device,
)
from funnel_torch.tasks.config import FineTuneConfig
from funnel_torch.training.distributed import DistributedContext
from funnel_torch.training.optimizer import build_optimizer
from funnel_torch.training.rng import seed_everything
from funnel_torch.training.trainer import Progress, RunOutput, Trainer, autocast

logger = logging.getLogger(__name__)

Outputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Evaluation:
    """One split: its examples and what their outputs are worth.

    ``score`` takes arrays by the names in ``outputs`` (fields of what the model returns), in the
    order of the examples, and returns metrics, the main one first.
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
    """Train ``model`` (on ``world.device`` already) and score it as the run goes along.

    With ``resume`` the optimizer, schedule, data order and random generators go on where the
    newest checkpoint of ``output.directory`` left them; the model must hold its weights.
    """
    batches = TrainBatches(train, config.batches, world.rank, world.size)
    # Every process draws its own dropout masks.
    seed_everything(config.batches.seed + world.rank)
    # Static shapes: with symbolic lengths the compiler (torch 2.13) fails on the pooled ones.
    step_model = torch.compile(model, dynamic=False) if config.compile else model
    trainer = Trainer(
        model,
        build_optimizer(model, config.optimizer),
        config.schedule(batches.steps_per_epoch),
        batches,
        config.trainer(batches.steps_per_epoch),
        world,
        output,
        world.wrap(step_model),
    )
    _announce(train, batches, config, world)
    if resume and output is not None and output.directory is not None:
        trainer.restore(output.directory.load_state())
        logger.info("resumed at step %d", trainer.progress.step)

    def evaluate_all() -> dict[str, dict[str, float]]:
        return {e.split: evaluate(model, e, world, config.precision) for e in evaluations}

    return trainer.train(evaluate_all if evaluations else None)


def _announce(
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


def evaluate(
    model: nn.Module, evaluation: Evaluation, world: DistributedContext, precision: str = "fp32"
) -> dict[str, float]:
    """The metrics of a split, equal in every process, each example counted once."""
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
    """The named outputs [n, ...] of all examples, in their order, in every process.

    Leaves the model in evaluation mode.
    """
    model.eval()
    plan = evaluation_plan(source.lengths, batch_size, world.rank, world.size)
    parts: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []
    with torch.inference_mode(), autocast(world.device, precision):
        for indices in progress_bar(
            plan, desc="predict", disable=None if world.is_rank_zero else True
        ):
            inputs = as_tensors(source.collate(indices))
            # Labels would only cost a loss; test sets have none anyway.
            inputs.pop("labels", None)
            result = model(**to_device(inputs, world.device))
            fields = {name: getattr(result, name).float().cpu().numpy() for name in outputs}
            parts.append((indices, fields))
    everyone = [part for parts_of_one in world.gather(parts) for part in parts_of_one]
    order = np.argsort(np.concatenate([indices for indices, _ in everyone]))
    return {
        name: np.concatenate([fields[name] for _, fields in everyone])[order] for name in outputs
    }
