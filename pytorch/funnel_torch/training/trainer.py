"""The training loop, for models that take a batch as keyword arguments and return a loss."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor, nn

from funnel.runs.scores import format_scores
from funnel.runs.timing import StepTimer
from funnel.utils.errors import RunError
from funnel.utils.interruption import Interrupted, stop_requests
from funnel.utils.logging import NullLog, RunLog
from funnel_torch.data.batching import Batches, MicroBatch, to_device
from funnel_torch.kernels.choices import choices
from funnel_torch.training.config import TrainerConfig
from funnel_torch.training.devices import autocast
from funnel_torch.training.distributed import DistributedContext, no_sync
from funnel_torch.training.fsdp import full_optimizer_state, load_full_optimizer_state
from funnel_torch.training.lora import adapter_state, load_adapter_state
from funnel_torch.training.optimizer import (
    ScheduleConfig,
    clip_gradients,
    scale_gradients,
    set_learning_rate,
    step_if_finite,
)
from funnel_torch.training.progress import Progress, Scores
from funnel_torch.training.rng import get_rng_state, set_rng_state
from funnel_torch.training.saving import CheckpointStore, ModelSaver
from funnel_torch.training.stopping import (
    EvaluationStopped,
    StepRequests,
    StepResult,
    StepResults,
)

logger = logging.getLogger(__name__)

# fp16 starts with a loss scale of 2^16 and skips a step whenever it has to halve it; this many
# skipped steps in a row mean that training has diverged.
_MAX_SKIPS_IN_A_ROW = 50


class Meter:
    """Extra training metrics; the base class is a no-op.

    All methods are called in every process.
    """

    def update(self, output: Any) -> None:
        """Add the model output of a micro-batch."""

    def report(self, seconds_per_step: float) -> dict[str, float]:
        """Return the metrics of the steps since the last report."""
        return {}

    def describe(self, metrics: Mapping[str, float]) -> str:
        """Return the end of the console log line for reported metrics."""
        return ""

    def state(self) -> list[float]:
        """Return the state since the last report, for a checkpoint."""
        return []

    def load(self, state: list[float]) -> None:
        """Restore the result of :meth:`state`."""


@dataclass(frozen=True)
class RunOutput:
    """Output destinations: directory, logger, model saver, metrics.

    Without ``directory`` or ``saver`` nothing is saved.
    """

    directory: CheckpointStore | None = None
    log: RunLog = field(default_factory=NullLog)
    saver: ModelSaver | None = None
    meter: Meter = field(default_factory=Meter)


class Trainer:
    """State of a training run; :meth:`train` is the loop.

    Args:
        model: called with the inputs of a micro-batch as keyword arguments, it returns an object
            with a ``loss``.
        optimizer: its parameter groups may have scales, see
            :func:`~funnel_torch.training.optimizer.parameter_groups`.
        schedule: learning rate by step.
        batches: training data.
        config: number of steps and intervals.
        world: the processes.
        output: destinations of logs and checkpoints; by default nothing is written.
        step_model: the same model in the form called for training (compiled, or wrapped for several
            processes); by default ``model``.
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
        self._requests, self._results = StepRequests(world, config.save_minutes), StepResults()
        self._parameters = list(model.parameters())

    def train(self, evaluate: Callable[[], Scores] | None = None) -> Progress:
        """Train from step ``progress.step`` to the last step.

        ``evaluate`` is called in every process, every ``eval_steps`` and after the last step. It
        may raise EvaluationStopped, and is then called again when the run resumes.

        Raises:
            Interrupted: a process received a stop signal; a checkpoint of the current step was
                written. Not raised after the last step.
        """
        with stop_requests.deferred():
            if self.progress.evaluation_pending:
                # Saved in any case, so that it is not repeated once more.
                self._finish_step(evaluate, StepTimer(self.progress.step), save=True)
            self._train(evaluate)
        return self.progress

    def _train(self, evaluate: Callable[[], Scores] | None) -> None:
        config, progress = self.config, self.progress
        clock = StepTimer(progress.step)
        self.step_model.train()
        remaining = 0 if self._is_finished() else config.total_steps - progress.step
        for micro_batches in islice(self.batches.stream(progress.step), max(0, remaining)):
            lr = self.schedule.lr_at(progress.step)
            set_learning_rate(self.optimizer, lr)
            numbers = self._enqueue_step(micro_batches)
            # Skipped steps count too: schedule and data order are functions of the step number.
            progress.step += 1
            self._results.add(progress.step, numbers)
            # The first step of a process is read at once, so that the clock starts at its end.
            is_first, intervals = not clock.is_started, (config.eval_steps, config.save_steps)
            results = self._read(is_first or any(map(self._is_due, (config.log_steps, *intervals))))
            if self._is_due(config.log_steps):
                self._log(lr, results[-1].norm, clock)
            clock.started(progress.step)
            stop, save = any(r.stop for r in results), any(r.save for r in results)
            self._finish_step(evaluate, clock, stop, save)
            if progress.stopped_early:
                break
        self._read(everything=True)  # of data that end before the last step

    def _enqueue_step(self, micro_batches: Sequence[MicroBatch]) -> Tensor:
        """Make a step without waiting for the device; return what to read later.

        A step whose gradient norm is not finite changes neither weights nor optimizer.

        Returns:
            Gradient norm, mean loss, and the numbers of processes that ask to stop and to save.
        """
        loss = torch.zeros((), device=self.world.device)
        for number, (inputs, weight) in enumerate(micro_batches, start=1):
            loss += self._backward(inputs, weight, sync=number == len(micro_batches))
        # Clipping needs the true gradients: fp16 gradients are scaled until here.
        self.scaler.unscale_(self.optimizer)
        norm = clip_gradients(self._parameters, self.config.clip)
        sums = self.world.sum(self._requests.with_loss(loss))
        scale_gradients(self.optimizer)
        # Not scaler.step, which asks whether a gradient overflowed: then the norm is not finite.
        step_if_finite(self.optimizer, norm)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return torch.cat([norm[None], sums])

    def _read(self, everything: bool) -> list[StepResult]:
        """Return the results of earlier steps, counted; those of the newest too if they matter."""
        results = self._results.read(everything or self._requests.are_known)
        for result in results:
            self._count(result)
        return results

    def _finish_step(
        self,
        evaluate: Callable[[], Scores] | None,
        clock: StepTimer,
        stop: bool = False,
        save: bool = False,
    ) -> None:
        """Evaluate and save after a step, as far as it is time to; stop if a process was asked to.

        There is little time between the signal and the end: an evaluation waits for the next start.
        """
        progress, config = self.progress, self.config
        progress.evaluation_pending = evaluate is not None and self._is_due(config.eval_steps)
        with clock.stopped():
            if progress.evaluation_pending and evaluate is not None and not stop:
                try:
                    scores = evaluate()
                    progress.evaluation_pending = False
                    self._update_best(scores)
                except EvaluationStopped:
                    stop = True
                self.step_model.train()
            if stop or save or progress.stopped_early or self._is_due(config.save_steps):
                self.save()
        if stop and not self._is_finished():
            raise Interrupted(self._describe_stop())

    def _is_finished(self) -> bool:
        progress = self.progress
        is_at_end = progress.step >= self.config.total_steps or progress.stopped_early
        return is_at_end and not progress.evaluation_pending

    def _describe_stop(self) -> str:
        directory, cause = self.output.directory, stop_requests.received or "a signal"
        text = f"stopped by {cause} after step {self.progress.step}/{self.config.total_steps}"
        if directory is None or self.output.saver is None:
            return f"{text}; nothing was saved, as this run has no directory"
        command = "the same command"
        if directory.overwrites:
            command += f" without {directory.overwrite_flag}"
        return f"{text}, which is saved in {directory.last}; {command} resumes there"

    def _backward(self, inputs: Mapping[str, Any], weight: float, sync: bool) -> Tensor:
        """Add the gradients of a micro-batch; return its part of the loss of the step.

        Gradients are averaged over the processes, in the last micro-step only (``sync``). The loss
        is multiplied by the number of processes, so that the average becomes the sum.
        """
        world = self.world
        inputs = to_device(inputs, world.device)
        with contextlib.nullcontext() if sync else no_sync(self.step_model):
            with autocast(world.device, self.config.precision):
                output = self.step_model(**inputs)
                loss = output.loss * weight
            self.scaler.scale(loss * world.size).backward()
        self.output.meter.update(output)
        return loss.detach()

    def _is_due(self, every: int) -> bool:
        step = self.progress.step
        return step == self.config.total_steps or (every > 0 and step % every == 0)

    def _count(self, result: StepResult) -> None:
        progress = self.progress
        if math.isfinite(result.norm):
            progress.skipped_in_a_row = 0
            progress.loss_sum += result.loss
            progress.loss_steps += 1
            return
        progress.skipped += 1
        progress.skipped_in_a_row += 1
        if progress.skipped_in_a_row >= _MAX_SKIPS_IN_A_ROW:
            raise RunError(
                f"step {result.step}: gradients of {progress.skipped_in_a_row} steps in a row "
                "were not finite; try a lower --lr, or --bf16 instead of --fp16"
            )

    def _log(self, lr: float, norm: float, clock: StepTimer) -> None:
        progress, batches = self.progress, self.batches
        loss = progress.loss_sum / progress.loss_steps if progress.loss_steps else math.nan
        progress.loss_sum, progress.loss_steps = 0.0, 0
        seconds = clock.lap(progress.step)
        rate = batches.examples_per_step / seconds
        metrics = self.output.meter.report(seconds)
        self.output.log.log(
            progress.step,
            "train",
            loss=loss,
            lr=lr,
            grad_norm=norm,
            skipped=progress.skipped,
            examples_per_second=round(rate, 2),
            **metrics,
        )
        left = clock.left(self.config.total_steps - progress.step)
        logger.info(
            "step %d/%d, epoch %.2f | loss %.4f | lr %.2e | norm %.2f | %.1f ex/s | left %s%s%s",
            *(progress.step, self.config.total_steps, progress.step / batches.steps_per_epoch),
            *(loss, lr, norm, rate, left, self.output.meter.describe(metrics)),
            f" | {progress.skipped} skipped" if progress.skipped else "",
        )

    def _update_best(self, scores: Scores) -> None:
        """Log the scores of an evaluation; save the model if it is the best so far."""
        progress, config = self.progress, self.config
        for split, metrics in scores.items():
            self.output.log.log(progress.step, split, **metrics)
            logger.info("step %d, %s: %s", progress.step, split, format_scores(metrics))
        if not progress.add_evaluation(scores, config.higher_is_better, config.patience):
            return
        split, metrics = next(iter(scores.items()))
        result = {
            "split": split,
            "metric": next(iter(metrics)),
            "score": progress.best_score,
            "step": progress.step,
            "epoch": progress.step / self.batches.steps_per_epoch,
            "scores": progress.best,
        }
        directory, saver = self.output.directory, self.output.saver
        if directory is not None and saver is not None:
            saver.gather()
            self.world.on_rank_zero(directory.save_best, saver.save, result)

    def save(self) -> None:
        """Write the last checkpoint; to be called in every process."""
        directory, saver = self.output.directory, self.output.saver
        if directory is None or saver is None:
            return
        progress, total = self.progress, self.config.total_steps
        state = {
            "progress": asdict(progress),
            "data": self.batches.fingerprint,
            "optimizer": full_optimizer_state(self.optimizer),
            "meter": self.output.meter.state(),
            "scaler": self.scaler.state_dict(),
            "random": self.world.gather(get_rng_state(self.world.device)),
            "kernels": choices.state(),
            "adapters": adapter_state(self.model),
        }
        summary = {"step": progress.step, "total_steps": total, "finished": self._is_finished()}
        saver.gather()
        self.world.on_rank_zero(directory.save_last, saver.save, state, summary)
        self._requests.reset_clock()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the state that :meth:`save` wrote; the caller loads the weights of the model.

        Raises:
            RunError: the checkpoint was written by another number of processes.
        """
        random_states = state["random"]
        if len(random_states) != self.world.size:
            raise RunError(
                f"the checkpoint was written by {len(random_states)} processes, "
                f"this run has {self.world.size}: resume with the same number"
            )
        choices.restore(state.get("kernels", {}))
        self.progress = Progress(**state["progress"])
        load_full_optimizer_state(self.optimizer, state["optimizer"])
        load_adapter_state(self.model, state.get("adapters", {}))
        self.output.meter.load(state.get("meter", []))
        self.scaler.load_state_dict(state["scaler"])
        set_rng_state(random_states[self.world.rank], self.world.device)


def compiled(model: nn.Module) -> nn.Module:
    """Return ``model`` compiled, sharing its parameters."""
    # Static shapes: with symbolic lengths the compiler (torch 2.13) fails on the pooled ones.
    return cast(nn.Module, torch.compile(model, dynamic=False))
