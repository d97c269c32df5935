"""A pretraining run: the training loop with the batches, samples and figures of pretraining."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from funnel.flops import pretraining_cost
from funnel.utils.logging import progress as progress_bar
from funnel_torch.data.batching import MicroBatch
from funnel_torch.data.pretraining_loader import PretrainBatches, PretrainMicroBatch
from funnel_torch.models.electra import (
    ElectraPretraining,
    LossTotals,
    MLMPretraining,
    gumbel_noise,
)
from funnel_torch.training.distributed import DistributedContext
from funnel_torch.training.mfu import FORWARD_PASSES_PER_STEP
from funnel_torch.training.optimizer import (
    FunnelAdamW,
    OptimizerConfig,
    ScheduleConfig,
    build_optimizer,
)
from funnel_torch.training.optimizer_import import set_moments
from funnel_torch.training.pretraining_metrics import (
    SCORE_BINS,
    PretrainingSums,
    score_histogram,
    summarize,
)
from funnel_torch.training.rng import seed_everything
from funnel_torch.training.trainer import Meter, RunOutput, Trainer, TrainerConfig, autocast

PretrainingModel = MLMPretraining | ElectraPretraining


class PretrainingSteps:
    """The records of a run with all that a model wants to know of them.

    Adds the counts of the whole step, over micro-steps and processes, which losses are divided by,
    and the noise that decides ELECTRA's samples. Both depend on the records alone, so any number
    of processes computes the same losses.
    """

    def __init__(
        self, batches: PretrainBatches, model: PretrainingModel, world: DistributedContext
    ) -> None:
        self._batches, self._world = batches, world
        self._samples_from = model.config.vocab_size if is_electra(model) else None
        self.examples_per_step = batches.examples_per_step
        self.steps_per_epoch = batches.steps_per_epoch

    def stream(self, first_step: int = 0) -> Iterator[list[MicroBatch]]:
        """The steps from ``first_step`` on, without end."""
        for step in self._batches.stream(first_step):
            counts = [[batch.targets, batch.tokens] for batch in step]
            own = torch.tensor(counts, device=self._world.device).sum(0)
            totals = LossTotals(*self._world.sum(own).clamp(min=1))
            yield [self._complete(batch, totals) for batch in step]

    def _complete(self, batch: PretrainMicroBatch, totals: LossTotals) -> MicroBatch:
        inputs: dict[str, Any] = {"batch": batch.batch, "totals": totals}
        if self._samples_from is not None:
            inputs["noise"] = sampling_noise(batch, self._samples_from, self._world.device)
        # Losses are sums over the totals of the step: they add up as they are.
        return MicroBatch(inputs, share=1.0)


def is_electra(model: PretrainingModel) -> bool:
    """Whether there is a generator that samples."""
    return isinstance(model, ElectraPretraining)


def sampling_noise(batch: PretrainMicroBatch, vocab_size: int, device: torch.device) -> Tensor:
    """Noise [B, P, V] for :class:`ElectraPretraining`, a function of the records alone."""
    generators = [torch.Generator(device).manual_seed(seed) for seed in batch.noise_seeds]
    return gumbel_noise((*batch.batch.target.shape, vocab_size), device, generators)


@dataclass
class PretrainingMeter(Meter):
    """Losses and scores of the training batches, and how fast they are computed.

    Attributes:
        world: processes among which everything is added up.
        tokens_per_step: of all processes.
        flops_per_step: of all processes, forward and backward.
        take_wait: seconds this process has waited for input since the last call.
        peak: TFLOP/s of one device, None if unknown.
    """

    world: DistributedContext
    tokens_per_step: int
    flops_per_step: float
    take_wait: Callable[[], float]
    peak: float | None = None
    _sums: Tensor = field(init=False)
    _steps: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._sums = _no_sums(self.world.device)

    def update(self, output: Any) -> None:
        """Add a micro-batch."""
        self._sums += output.sums.vector()

    def report(self, seconds_per_step: float) -> dict[str, float]:
        """Means since the last report, tokens per second, TFLOP/s and MFU of a device."""
        sums = self.world.sum(self._sums)
        self._sums = _no_sums(self.world.device)
        figures = summarize(PretrainingSums(*sums))
        figures["tokens_per_second"] = round(self.tokens_per_step / seconds_per_step, 1)
        tflops = self.flops_per_step / seconds_per_step / self.world.size / 1e12
        figures["tflops_per_device"] = float(f"{tflops:.4g}")
        if self.peak is not None:
            figures["mfu"] = round(tflops / self.peak, 4)
        figures["input_wait_seconds"] = round(self.take_wait(), 3)
        return figures

    def describe(self, figures: Mapping[str, float]) -> str:
        """What to watch on the console."""
        text = f" | mlm {figures['mlm_loss']:.3f}"
        if "disc_loss" in figures:
            text += f" disc {figures['disc_loss']:.4f}"
        text += f" | {figures['tokens_per_second']:.0f} tok/s"
        if "mfu" in figures:
            text += f", MFU {figures['mfu']:.1%}"
        return text + f" | waited {figures['input_wait_seconds']:.1f} s"

    def state(self) -> list[float]:
        """Sums of all processes that no report has told."""
        return self.world.sum(self._sums).tolist()

    def load(self, state: list[float]) -> None:
        """The first process goes on with the sums of all."""
        if state and self.world.is_rank_zero:
            self._sums = torch.tensor(state, dtype=torch.float64, device=self.world.device)


def _no_sums(device: torch.device) -> Tensor:
    return torch.zeros(len(PretrainingSums._fields), dtype=torch.float64, device=device)


def make_meter(
    model: PretrainingModel,
    batches: PretrainBatches,
    world: DistributedContext,
    lengths: tuple[int, int],
    peak: float | None,
) -> PretrainingMeter:
    """The meter of a run on records of ``lengths``: tokens, and targets among them."""
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
    batches: Iterable[PretrainMicroBatch],
    world: DistributedContext,
    precision: str = "fp32",
) -> dict[str, float]:
    """Loss and scores over held-out records, equal in every process; ``loss`` comes first.

    Leaves the model in evaluation mode. Masks and samples depend on the records alone, so two
    evaluations of one model are equal.
    """
    model.eval()
    sums = _no_sums(world.device)
    histogram = torch.zeros(2, SCORE_BINS, dtype=torch.float64, device=world.device)
    quiet = None if world.is_rank_zero else True
    with torch.no_grad(), autocast(world.device, precision):
        for batch in progress_bar(batches, desc="evaluate", disable=quiet):
            inputs = {"batch": batch.batch.to(world.device)}
            if is_electra(model):
                inputs["noise"] = sampling_noise(batch, model.config.vocab_size, world.device)
            output = model(**inputs)
            # A batch without records only keeps the processes in step.
            if batch.records == 0:
                continue
            sums += output.sums.vector()
            if output.disc_logits is not None:
                pads = inputs["batch"].pad_mask
                histogram += score_histogram(output.disc_logits, output.is_replaced, pads)
    figures = summarize(PretrainingSums(*world.sum(sums)), world.sum(histogram))
    coefficient = model.pretraining.disc_coeff
    loss = figures["mlm_loss"] + coefficient * figures.get("disc_loss", 0.0)
    return {"loss": loss, **figures}


@dataclass(frozen=True)
class PretrainConfig:
    """How a run is trained; batches and model are made already.

    ``seed`` is that of the dropout; records, masks and samples have the batches' own.
    """

    trainer: TrainerConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    seed: int = 0
    compile: bool = False


@dataclass(frozen=True)
class Continuation:
    """Where a run begins that goes on with another's pretraining.

    ``moments`` are Adam's, as of :func:`funnel_torch.training.optimizer_import.read_moments`.
    """

    step: int
    moments: Mapping[str, Mapping[str, Tensor]]


def make_trainer(
    model: PretrainingModel,
    batches: PretrainBatches,
    config: PretrainConfig,
    world: DistributedContext,
    output: RunOutput,
    begin: Continuation | None = None,
) -> Trainer:
    """The training loop of a run, at its first step.

    Args:
        model: on ``world.device``, perhaps sharded.
        batches: the records.
        config: settings.
        world: the processes.
        output: what the run leaves behind.
        begin: another run to go on with; None begins at step 0.
    """
    # Every process draws its own dropout masks.
    seed_everything(config.seed + world.rank)
    optimizer = build_optimizer(model, config.optimizer)
    step_model = torch.compile(model, dynamic=False) if config.compile else model
    is_sharded = hasattr(model, "set_requires_gradient_sync")
    trainer = Trainer(
        model,
        optimizer,
        config.schedule,
        PretrainingSteps(batches, model, world),
        config.trainer,
        world,
        output,
        step_model if is_sharded else world.wrap(step_model),
    )
    if begin is not None and isinstance(optimizer, FunnelAdamW):
        set_moments(optimizer, dict(model.named_parameters()), begin.moments, begin.step)
        trainer.progress.step = begin.step
    return trainer
