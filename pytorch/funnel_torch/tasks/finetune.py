"""Fine-tuning of any model with a head: batches, optimizer, schedule and evaluation.

A task provides its examples (an :class:`~funnel_torch.data.batching.ExampleSource`), its model
(which takes a batch as keyword arguments) and, for each evaluation split, a function that scores
the outputs of the model.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import nn

from funnel.utils.errors import ConfigError
from funnel.utils.logging import progress as progress_bar
from funnel_torch.data.batching import (
    BatchConfig,
    ExampleSource,
    TrainBatches,
    as_tensors,
    evaluation_plan,
    to_device,
)
from funnel_torch.training.distributed import DistributedContext
from funnel_torch.training.optimizer import OptimizerConfig, ScheduleConfig, build_optimizer
from funnel_torch.training.rng import seed_everything
from funnel_torch.training.trainer import (
    Progress,
    RunOutput,
    Trainer,
    TrainerConfig,
    autocast,
    compiled,
)

logger = logging.getLogger(__name__)

Outputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class FineTuneConfig:
    """Settings of a fine-tuning run.

    ``train_steps`` takes precedence over ``epochs``, and ``warmup_steps`` over ``warmup_prop``.
    ``eval_steps`` and ``save_steps`` None mean once per epoch.
    """

    batches: BatchConfig
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    lr: float = 1e-5
    min_lr: float = 0.0
    decay_method: str = "poly"
    warmup_prop: float = 0.1
    warmup_steps: int | None = None
    epochs: int = 10
    train_steps: int | None = None
    logs_per_epoch: int = 20
    eval_steps: int | None = None
    save_steps: int | None = None
    precision: str = "fp32"
    compile: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.warmup_prop <= 1.0:
            raise ConfigError(f"warmup_prop={self.warmup_prop}: must be from 0 to 1")
        if self.train_steps is None and self.epochs < 1:
            raise ConfigError(f"epochs={self.epochs}: must be at least 1")
        # Report settings that contradict each other before the data is read.
        self.schedule(1)
        self.trainer(1)

    def total_steps(self, steps_per_epoch: int) -> int:
        """Return the number of optimizer steps of the run."""
        return self.epochs * steps_per_epoch if self.train_steps is None else self.train_steps

    def schedule(self, steps_per_epoch: int) -> ScheduleConfig:
        """Return the learning-rate schedule."""
        total, warmup = self.total_steps(steps_per_epoch), self.warmup_steps
        return ScheduleConfig(
            lr=self.lr,
            total_steps=total,
            warmup_steps=int(self.warmup_prop * total) if warmup is None else warmup,
            min_lr=self.min_lr,
            decay_method=self.decay_method,
        )

    def trainer(self, steps_per_epoch: int) -> TrainerConfig:
        """Return the settings of the training loop."""
        return TrainerConfig(
            total_steps=self.total_steps(steps_per_epoch),
            precision=self.precision,
            clip=self.optimizer.clip,
            log_steps=max(1, steps_per_epoch // max(1, self.logs_per_epoch)),
            eval_steps=steps_per_epoch if self.eval_steps is None else self.eval_steps,
            save_steps=steps_per_epoch if self.save_steps is None else self.save_steps,
        )


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
    """
    batches = TrainBatches(train, config.batches, world.rank, world.size)
    # Every process has its own dropout masks.
    seed_everything(config.batches.seed + world.rank)
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
    if resume and output is not None and output.directory is not None:
        trainer.restore(output.directory.load_state())
        logger.info("resumed at step %d", trainer.progress.step)
    if not evaluations:
        return trainer.train()
    return trainer.train(partial(evaluate_all, model, evaluations, world, config.precision))


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

    The model is left in evaluation mode.
    """
    model.eval()
    plan = evaluation_plan(source.lengths, batch_size, world.rank, world.size)
    parts: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []
    with torch.inference_mode(), autocast(world.device, precision):
        for indices in progress_bar(
            plan, desc="predict", disable=None if world.is_rank_zero else True
        ):
            inputs = as_tensors(source.collate(indices))
            # Without labels the model computes no loss, which is not needed here.
            inputs.pop("labels", None)
            result = model(**to_device(inputs, world.device))
            fields = {name: getattr(result, name).float().cpu().numpy() for name in outputs}
            parts.append((indices, fields))
    all_parts = [part for process_parts in world.gather(parts) for part in process_parts]
    order = np.argsort(np.concatenate([indices for indices, _ in all_parts]))
    return {
        name: np.concatenate([fields[name] for _, fields in all_parts])[order] for name in outputs
    }
