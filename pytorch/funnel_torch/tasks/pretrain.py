"""Pretraining: batches with loss denominators and sampling noise, metrics, evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from funnel.flops import FORWARD_PASSES_PER_STEP, pretraining_cost
from funnel.utils.logging import progress as progress_bar
from funnel_torch.data.batching import MicroBatch, to_device
from funnel_torch.data.pretraining_loader import PretrainBatches
from funnel_torch.kernels.float64 import float64_device
from funnel_torch.kernels.sharing import share_choices
from funnel_torch.models.electra import (
    ElectraPretraining,
    MLMPretraining,
    PretrainingSums,
    gumbel_noise,
)
from funnel_torch.models.pretraining_batch import LossDenominators, PretrainingBatch
from funnel_torch.training.devices import autocast
from funnel_torch.training.distributed import DistributedContext
from funnel_torch.training.optimizer import (
    FunnelAdamW,
    OptimizerConfig,
    ScheduleConfig,
    build_optimizer,
)
from funnel_torch.training.optimizer_import import AdamState, load_adam_state
from funnel_torch.training.pretraining_metrics import SCORE_BINS, score_histogram, summarize
from funnel_torch.training.rng import seed_everything
from funnel_torch.training.stopping import raise_if_stopped
from funnel_torch.training.trainer import Meter, RunOutput, Trainer, TrainerConfig, compiled

PretrainingModel = MLMPretraining | ElectraPretraining


class PretrainingSteps:
    """The micro-batches of a run with all other inputs of the model.

    Adds the loss denominators of the step and, for ELECTRA, the noise of the samples. Both depend
    on the records of the step alone, so any number of processes computes the same losses.
    """

    def __init__(
        self, batches: PretrainBatches, model: PretrainingModel, world: DistributedContext
    ) -> None:
        self._batches, self._model, self._world = batches, model, world
        self.examples_per_step = batches.examples_per_step
        self.steps_per_epoch = batches.steps_per_epoch

    @property
    def fingerprint(self) -> dict[str, int]:
        """Nothing: record files may be added to a pretraining that goes on."""
        return {}

    def stream(self, first_step: int = 0) -> Iterator[list[MicroBatch]]:
        """Yield the micro-batches of each step from ``first_step`` on, without end."""
        device = self._world.device
        for batches in self._batches.stream(first_step):
            denominators = step_denominators(batches, self._world)
            inputs = [model_inputs(self._model, batch, device) for batch in batches]
            # Losses are divided by the denominators of the step, so they are added with weight 1.
            yield [(one | {"denominators": denominators}, 1.0) for one in inputs]


def step_denominators(
    batches: Sequence[PretrainingBatch], world: DistributedContext
) -> LossDenominators:
    """Return the numbers of targets and tokens of a step over all micro-steps and processes."""
    counts = [[int(batch.target_mask.sum()), int(batch.attention_mask.sum())] for batch in batches]
    # Losses are weighted by targets and tokens, whose numbers differ between micro-batches: a mean
    # of means would depend on how a step is divided. At least 1, as divisors.
    own = to_device({"counts": torch.tensor(counts).sum(0)}, world.device)["counts"]
    return LossDenominators(*world.sum(own).clamp(min=1))


def model_inputs(
    model: PretrainingModel, batch: PretrainingBatch, device: torch.device
) -> dict[str, Any]:
    """Return the keyword arguments of ``model`` for a batch: the batch and the sampling noise."""
    if not isinstance(model, ElectraPretraining):
        return {"batch": batch}
    return {"batch": batch, "noise": sampling_noise(batch, model.config.vocab_size, device)}


def sampling_noise(batch: PretrainingBatch, vocab_size: int, device: torch.device) -> Tensor:
    """Return the noise [B, P, V] for :class:`ElectraPretraining`, from the seeds of the records."""
    assert batch.noise_seeds is not None, "the batch was masked without a generator"
    seeds = batch.noise_seeds.tolist()
    generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
    return gumbel_noise((*batch.target.shape, vocab_size), device, generators)


@dataclass
class PretrainingMeter(Meter):
    """Losses, accuracies and throughput of the training steps.

    Attributes:
        world: the processes over which sums are taken.
        tokens_per_step: number of tokens per step in all processes.
        flops_per_step: FLOPs per step in all processes, forward and backward.
        take_wait: returns the seconds waited for input since the last call.
        peak: peak throughput of a device in TFLOP/s, None if unknown.
    """

    world: DistributedContext
    tokens_per_step: int
    flops_per_step: float
    take_wait: Callable[[], float]
    peak: float | None = None
    _sums: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._sums = _zero_sums(self.world.device)

    def update(self, output: Any) -> None:
        """Add the output of a micro-batch."""
        self._sums += output.sums.vector()

    def report(self, seconds_per_step: float) -> dict[str, float]:
        """Return means since the last report, tokens per second, TFLOP/s and MFU per device."""
        sums = self.world.sum(self._sums)
        self._sums = _zero_sums(self.world.device)
        metrics = summarize(PretrainingSums(*sums))
        metrics["tokens_per_second"] = round(self.tokens_per_step / seconds_per_step, 1)
        tflops = self.flops_per_step / seconds_per_step / self.world.size / 1e12
        metrics["tflops_per_device"] = float(f"{tflops:.4g}")
        if self.peak is not None:
            metrics["mfu"] = round(tflops / self.peak, 4)
        metrics["input_wait_seconds"] = round(self.take_wait(), 3)
        return metrics

    def describe(self, metrics: Mapping[str, float]) -> str:
        """Return losses, throughput and waiting time for the console."""
        text = f" | mlm {metrics['mlm_loss']:.3f}"
        if "disc_loss" in metrics:
            text += f" disc {metrics['disc_loss']:.4f}"
        text += f" | {metrics['tokens_per_second']:.0f} tok/s"
        if "mfu" in metrics:
            text += f", MFU {metrics['mfu']:.1%}"
        return text + f" | waited {metrics['input_wait_seconds']:.1f} s"

    def state(self) -> list[float]:
        """Return the sums over all processes since the last report."""
        return self.world.sum(self._sums).tolist()

    def load(self, state: list[float]) -> None:
        """Restore the sums; rank 0 takes those of all processes."""
        # The saved sums are totals, and the next report adds those of all processes again.
        if state and self.world.is_rank_zero:
            self._sums = torch.tensor(
                state, dtype=torch.float64, device=float64_device(self.world.device)
            )


def _zero_sums(device: torch.device) -> Tensor:
    fields = len(PretrainingSums._fields)
    return torch.zeros(fields, dtype=torch.float64, device=float64_device(device))


def make_meter(
    model: PretrainingModel,
    batches: PretrainBatches,
    world: DistributedContext,
    lengths: tuple[int, int],
    peak: float | None,
) -> PretrainingMeter:
    """Return the meter of a run.

    Args:
        model: the model.
        batches: the training batches.
        world: the processes.
        lengths: numbers of tokens and of targets per record.
        peak: peak throughput of a device in TFLOP/s, None if unknown.
    """
    generator = model.generator.config if isinstance(model, ElectraPretraining) else None
    seq_len, num_predict = lengths
    micro_batch = max(1, batches.examples_per_step // world.size)
    cost = pretraining_cost(model.config, seq_len, num_predict, generator, micro_batch)
    return PretrainingMeter(
        world,
        tokens_per_step=batches.examples_per_step * seq_len,
        flops_per_step=FORWARD_PASSES_PER_STEP * cost * batches.examples_per_step,
        take_wait=batches.wait.take,
        peak=peak,
    )


def evaluate(
    model: PretrainingModel,
    batches: Iterable[PretrainingBatch],
    world: DistributedContext,
    precision: str = "fp32",
) -> dict[str, float]:
    """Return loss and metrics of held-out records, the same in every process; ``loss`` is first.

    Masks and samples depend on the records alone, so evaluating a model twice gives the same
    result. The model is left in evaluation mode.
    """
    model.eval()
    sums = _zero_sums(world.device)
    place = float64_device(world.device)
    histogram = torch.zeros(2, SCORE_BINS, dtype=torch.float64, device=place)
    quiet = None if world.is_rank_zero else True
    with torch.no_grad(), autocast(world.device, precision):
        for batch in progress_bar(batches, desc="evaluate", disable=quiet):
            raise_if_stopped(world)
            output = model(**to_device(model_inputs(model, batch, world.device), world.device))
            # A dummy only takes part in the collective operations of a sharded model.
            if batch.is_dummy:
                continue
            sums += output.sums.vector()
            if output.disc_logits is not None:
                attention_mask = batch.attention_mask.to(world.device)
                histogram += score_histogram(output.disc_logits, output.is_replaced, attention_mask)
    metrics = summarize(PretrainingSums(*world.sum(sums)), world.sum(histogram))
    coefficient = model.pretraining.disc_coeff
    loss = metrics["mlm_loss"] + coefficient * metrics.get("disc_loss", 0.0)
    return {"loss": loss, **metrics}


@dataclass(frozen=True)
class PretrainConfig:
    """Settings of the training loop, the optimizer and the schedule.

    ``seed`` seeds the dropout; order, masks and samples have the seed of the batches.
    """

    trainer: TrainerConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    seed: int = 0
    compile: bool = False


def make_trainer(
    model: PretrainingModel,
    batches: PretrainBatches,
    config: PretrainConfig,
    world: DistributedContext,
    output: RunOutput,
    adam_state: AdamState | None = None,
) -> Trainer:
    """Build the training loop of a run.

    Args:
        model: the model on ``world.device``, possibly sharded.
        batches: training batches.
        config: settings.
        world: the processes.
        output: destinations of logs and checkpoints.
        adam_state: moments and step of an earlier pretraining to continue; None starts at step 0.
    """
    # Every process has its own dropout masks.
    seed_everything(config.seed + world.rank)
    share_choices(model, world)
    optimizer = build_optimizer(model, config.optimizer)
    trainer = Trainer(
        model,
        optimizer,
        config.schedule,
        PretrainingSteps(batches, model, world),
        config.trainer,
        world,
        output,
        world.wrap(compiled(model) if config.compile else model),
    )
    if adam_state is not None and isinstance(optimizer, FunnelAdamW):
        load_adam_state(optimizer, dict(model.named_parameters()), adam_state)
        trainer.progress.step = adam_state.step
    return trainer
