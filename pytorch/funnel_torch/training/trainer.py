"""The training loop, for any model whose forward takes a batch as keywords and returns a loss."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from funnel.utils.errors import RunError
from funnel.utils.logging import NullLog, RunLog
from funnel_torch.data.batching import Batches, MicroBatch, to_device
from funnel_torch.training.config import TrainerConfig
from funnel_torch.training.distributed import DistributedContext, no_sync
from funnel_torch.training.fsdp import load_whole_state, whole_state
from funnel_torch.training.optimizer import (
    ScheduleConfig,
    clip_gradients,
    scale_gradients,
    set_learning_rate,
)
from funnel_torch.training.rng import capture_random_state, restore_random_state
from funnel_torch.training.run_directory import RunDirectory, SaveModel

logger = logging.getLogger(__name__)

_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# fp16 begins with a loss scale of 2^16 and may have to halve it that often; more is divergence.
_MAX_SKIPS_IN_A_ROW = 50

# What an evaluation brings back: the metrics of every split, the main one of the first split first.
Scores = Mapping[str, Mapping[str, float]]


@dataclass
class Progress:
    """Where training stands; all of it goes into a checkpoint.

    ``loss_sum`` gathers the loss of the ``loss_steps`` steps since the last log line.
    """

    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    loss_sum: float = 0.0
    loss_steps: int = 0
    best_step: int = -1
    best_score: float = math.nan
    best: dict[str, dict[str, float]] = field(default_factory=dict)


class Meter:
    """What a log line says besides loss and speed; this one says nothing.

    Called alike in every process.
    """

    def update(self, output: Any) -> None:
        """Take in what the model returned for a micro-batch."""

    def report(self, seconds_per_step: float) -> dict[str, float]:
        """Figures of the steps since the last report."""
        return {}

    def describe(self, figures: Mapping[str, float]) -> str:
        """The report in a few words, to follow the line on the console."""
        return ""

    def state(self) -> list[float]:
        """What has been taken in and not yet reported."""
        return []

    def load(self, state: list[float]) -> None:
        """Go on from :meth:`state`."""


@dataclass(frozen=True)
class RunOutput:
    """Where a run leaves its traces. ``directory`` None keeps none (and ``log`` writes nothing).

    ``save_model`` is called in the first process; before it ``before_save`` in all of them.
    """

    directory: RunDirectory | None = None
    log: RunLog = field(default_factory=NullLog)
    save_model: SaveModel | None = None
    before_save: Callable[[], None] = lambda: None
    meter: Meter = field(default_factory=Meter)


class Trainer:
    """Everything one training run needs; :meth:`train` is the loop.

    ``model`` is called with the inputs of a batch as keywords and returns an object with a
    ``loss``, the mean over the batch's examples. ``step_model`` is the same model as it is to be
    called for training (compiled, or wrapped for several processes); by default ``model`` itself.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: ScheduleConfig,
        batches: Batches,
        config: TrainerConfig,
        world: DistributedContext,
        output: RunOutput | None = None,
        step_model: nn.Module | None = None,
    ) -> None:
        self.model, self.step_model = model, model if step_model is None else step_model
        self.optimizer, self.schedule = optimizer, schedule
        self.batches, self.config, self.world = batches, config, world
        self.output = output or RunOutput()
        self.progress = Progress()
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=config.precision == "fp16")

    def train(self, evaluate: Callable[[], Scores] | None = None) -> Progress:
        """Train from where :attr:`progress` stands to the last step.

        ``evaluate`` is called in every process, every ``eval_steps`` and after the last step.
        """
        config, progress, parameters = self.config, self.progress, list(self.model.parameters())
        clock = _Clock(progress.step)
        self.step_model.train()
        remaining = config.total_steps - progress.step
        for micro_batches in islice(self.batches.stream(progress.step), max(0, remaining)):
            lr = self.schedule.lr_at(progress.step)
            set_learning_rate(self.optimizer, lr)

            loss = torch.zeros((), device=self.world.device)
            for number, micro_batch in enumerate(micro_batches, start=1):
                loss += self._backward(micro_batch, exchange=number == len(micro_batches))

            self.scaler.unscale_(self.optimizer)
            total_norm = clip_gradients(parameters, config.clip)
            # The one place where a step waits for the GPU: both numbers at once.
            norm, mean_loss = torch.stack([total_norm, self.world.sum(loss)]).tolist()
            if math.isfinite(norm):
                scale_gradients(self.optimizer)
                self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad(set_to_none=True)
            progress.step += 1
            self._count(mean_loss, applied=math.isfinite(norm))

            if self._is_due(config.log_steps):
                self._log(lr, norm, clock)
            if evaluate is not None and self._is_due(config.eval_steps):
                with clock.stopped():
                    self._keep_if_best(evaluate())
                self.step_model.train()
            if self._is_due(config.save_steps):
                with clock.stopped():
                    self.save()
        return progress

    def _backward(self, micro_batch: MicroBatch, exchange: bool) -> Tensor:
        """Add a micro-batch's gradients; returns its part of the step's mean loss.

        Processes average their gradients, so each weighs its part by their number. They do it in
        the last micro-step only (``exchange``).
        """
        world = self.world
        inputs = to_device(micro_batch.inputs, world.device)
        with contextlib.nullcontext() if exchange else no_sync(self.step_model):
            with autocast(world.device, self.config.precision):
                output = self.step_model(**inputs)
                loss = output.loss * micro_batch.share
            self.scaler.scale(loss * world.size).backward()
        self.output.meter.update(output)
        return loss.detach()

    def _is_due(self, every: int) -> bool:
        step = self.progress.step
        return step == self.config.total_steps or (every > 0 and step % every == 0)

    def _count(self, loss: float, applied: bool) -> None:
        progress = self.progress
        if applied:
            progress.skipped_in_a_row = 0
            progress.loss_sum += loss
            progress.loss_steps += 1
            return
        progress.skipped += 1
        progress.skipped_in_a_row += 1
        if progress.skipped_in_a_row >= _MAX_SKIPS_IN_A_ROW:
            raise RunError(
                f"step {progress.step}: gradients of {progress.skipped_in_a_row} steps in a row "
                "were not finite; try a lower --lr, or --bf16 instead of --fp16"
            )

    def _log(self, lr: float, norm: float, clock: _Clock) -> None:
        progress, batches = self.progress, self.batches
        loss = progress.loss_sum / progress.loss_steps if progress.loss_steps else math.nan
        progress.loss_sum, progress.loss_steps = 0.0, 0
        seconds = clock.seconds_per_step(progress.step)
        rate = batches.examples_per_step / seconds
        figures = self.output.meter.report(seconds)
        self.output.log.log(
            progress.step,
            "train",
            loss=loss,
            lr=lr,
            grad_norm=norm,
            skipped=progress.skipped,
            examples_per_second=round(rate, 2),
            **figures,
        )
        left = time.strftime(
            "%H:%M:%S", time.gmtime(seconds * (self.config.total_steps - progress.step))
        )
        logger.info(
            "step %d/%d, epoch %.2f | loss %.4f | lr %.2e | norm %.2f | %.1f ex/s | left %s%s%s",
            *(progress.step, self.config.total_steps, progress.step / batches.steps_per_epoch),
            *(loss, lr, norm, rate, left, self.output.meter.describe(figures)),
            f" | {progress.skipped} skipped" if progress.skipped else "",
        )

    def _keep_if_best(self, scores: Scores) -> None:
        progress = self.progress
        for split, metrics in scores.items():
            self.output.log.log(progress.step, split, **metrics)
            text = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
            logger.info("step %d, %s: %s", progress.step, split, text)
        split, metrics = next(iter(scores.items()))
        metric, score = next(iter(metrics.items()))
        if not self._is_better(score):
            return
        progress.best_step, progress.best_score = progress.step, score
        progress.best = {name: dict(values) for name, values in scores.items()}
        result = {"split": split, "metric": metric, "score": score, "step": progress.step}
        result["epoch"] = progress.step / self.batches.steps_per_epoch
        self._write(
            lambda directory, save: directory.save_best(save, {**result, "scores": progress.best})
        )

    def _is_better(self, score: float) -> bool:
        """Whether a score beats the best so far; any number beats none and NaN."""
        best = self.progress.best_score
        if self.progress.best_step < 0 or math.isnan(best):
            return self.progress.best_step < 0 or not math.isnan(score)
        return score > best if self.config.higher_is_better else score < best

    def save(self) -> None:
        """Write the newest checkpoint; every process has to call it."""
        progress, total = self.progress, self.config.total_steps
        random_states = self.world.gather(capture_random_state(self.world.device))
        state = {
            "progress": asdict(progress),
            "optimizer": whole_state(self.optimizer),
            "meter": self.output.meter.state(),
            "scaler": self.scaler.state_dict(),
            "random": random_states,
        }
        summary = {"step": progress.step, "total_steps": total, "finished": progress.step >= total}
        self._write(lambda directory, save: directory.save_last(save, state, summary))

    def _write(self, write: Callable[[RunDirectory, SaveModel], None]) -> None:
        directory, save_model = self.output.directory, self.output.save_model
        if directory is not None and save_model is not None:
            self.output.before_save()
            self.world.on_rank_zero(lambda: write(directory, save_model))

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`save` wrote; the model's weights are loaded by the caller.

        Raises:
            RunError: the checkpoint was made by another number of processes.
        """
        random_states = state["random"]
        if len(random_states) != self.world.size:
            raise RunError(
                f"the checkpoint was written by {len(random_states)} processes, "
                f"this run has {self.world.size}: resume with the same number"
            )
        self.progress = Progress(**state["progress"])
        load_whole_state(self.optimizer, state["optimizer"])
        self.output.meter.load(state.get("meter", []))
        self.scaler.load_state_dict(state["scaler"])
        restore_random_state(random_states[self.world.rank], self.world.device)


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Run in ``precision`` where that is safe; parameters stay fp32."""
    dtype = _DTYPES[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


class _Clock:
    """Seconds per training step since the last look, evaluation and saving left out."""

    def __init__(self, step: int) -> None:
        self._step, self._since, self._away = step, time.perf_counter(), 0.0

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._away += time.perf_counter() - start

    def seconds_per_step(self, step: int) -> float:
        now = time.perf_counter()
        seconds = max(now - self._since - self._away, 1e-9) / max(1, step - self._step)
        self._step, self._since, self._away = step, now, 0.0
        return seconds
