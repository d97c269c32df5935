"""Session hooks that log training and check checkpoints; host-call summaries for TPUs."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow.compat.v1 as tf

from funnel.formats.tensor_bundle import TFCheckpoint
from funnel.runs.timing import StepTimer
from funnel.utils.errors import RunError
from funnel.utils.logging import RunLog
from funnel_tf.models.initial_model import check_complete

logger = logging.getLogger(__name__)

# With skip_nan_grad, a run has diverged after this many steps in a row without finite gradients.
_MAX_SKIPS_IN_A_ROW = 50


class LoggingHook(tf.train.SessionRunHook):
    """Logs every ``every`` steps and after the last step.

    The loss is the mean since the last log line, other scalars are those of the current step.

    Args:
        scalars: tensors by name, ``loss`` among them.
        log: destination of the metrics.
        every: steps between log lines.
        total_steps: the last step.
        examples: examples per step.
    """

    def __init__(
        self,
        scalars: Mapping[str, tf.Tensor],
        log: RunLog,
        *,
        every: int,
        total_steps: int,
        examples: int,
    ) -> None:
        self._scalars, self._log = dict(scalars), log
        self._every, self._total, self._examples = max(1, every), total_steps, examples
        self._step, self._skips_in_a_row = 0, 0
        self._skipped: float | None = None
        self._loss_sum, self._loss_steps = 0.0, 0
        self._clock = StepTimer(0)

    def after_create_session(self, session: tf.Session, coord: Any) -> None:
        """Start counting at the step of the restored checkpoint."""
        self._step = int(session.run(tf.train.get_global_step(session.graph)))
        self._clock, self._skipped = StepTimer(self._step), None

    def state(self) -> dict[str, float]:
        """Return the state since the last log line, for a checkpoint."""
        return {"loss_sum": self._loss_sum, "loss_steps": self._loss_steps}

    def load(self, state: Mapping[str, float]) -> None:
        """Restore the result of :meth:`state`."""
        self._loss_sum = float(state.get("loss_sum", 0.0))
        self._loss_steps = int(state.get("loss_steps", 0))

    def before_run(self, run_context: Any) -> tf.train.SessionRunArgs:
        """Request the scalars."""
        return tf.train.SessionRunArgs(self._scalars)

    def after_run(self, run_context: Any, run_values: Any) -> None:
        """Count the step, and log if it is time to."""
        values = {name: float(value) for name, value in run_values.results.items()}
        self._step += 1
        self._count(values)
        if self._step % self._every == 0 or self._step == self._total:
            self._report(values)
        self._clock.started(self._step)

    def _count(self, values: dict[str, float]) -> None:
        skipped = values.get("skipped", 0.0)
        is_skipped = self._skipped is not None and skipped > self._skipped
        self._skips_in_a_row = self._skips_in_a_row + 1 if is_skipped else 0
        self._skipped = skipped
        if math.isfinite(values["loss"]):
            self._loss_sum += values["loss"]
            self._loss_steps += 1
        if self._skips_in_a_row >= _MAX_SKIPS_IN_A_ROW:
            raise RunError(
                f"step {self._step}: gradients of {self._skips_in_a_row} steps in a row were not "
                "finite; try a lower --learning_rate"
            )

    def _report(self, values: dict[str, float]) -> None:
        loss = self._loss_sum / self._loss_steps if self._loss_steps else math.nan
        self._loss_sum, self._loss_steps = 0.0, 0
        rate = self._examples / self._clock.lap(self._step)
        scalars = values | {"loss": loss, "examples_per_second": round(rate, 2)}
        if "skipped" in values:
            scalars["skipped_in_a_row"] = self._skips_in_a_row
        self._log.log(self._step, "train", **scalars)
        shown = [f"{name} {value:.4g}" for name, value in scalars.items() if name in values]
        left = self._clock.left(self._total - self._step)
        logger.info(
            "step %d/%d | %s | %.1f ex/s | left %s",
            *(self._step, self._total, " | ".join(shown), rate, left),
        )


class CheckpointCheckHook(tf.train.SessionRunHook):
    """Checks that a checkpoint has all variables of an evaluation or prediction graph."""

    def __init__(self, checkpoint: str | Path) -> None:
        self._reader = TFCheckpoint(checkpoint)

    def begin(self) -> None:
        """Raise CheckpointError for variables that are missing or have another shape."""
        # The step counter is restored too.
        check_complete(self._reader, tf.global_variables())


HostCall = tuple[Callable[..., Any], dict[str, tf.Tensor]]


def build_host_call(
    step: tf.Tensor, scalars: Mapping[str, tf.Tensor], model_dir: str | Path, every: int
) -> HostCall:
    """Build the host call that writes ``scalars`` as TensorBoard summaries every ``every`` steps.

    On a TPU, a session hook sees scalars only after ``iterations`` steps, and a summary operation
    does not run at all. A host call receives the tensors of every step on the host, those of all
    cores concatenated along the first axis: hence the shape [1] here and the mean in
    :func:`_write_summaries`.
    """
    tensors = {"global_step": tf.reshape(step, [1])}
    tensors |= {name: tf.reshape(value, [1]) for name, value in scalars.items()}
    return partial(_write_summaries, str(model_dir), max(1, every)), tensors


def _write_summaries(
    model_dir: str, every: int, global_step: tf.Tensor, **values: tf.Tensor
) -> list[tf.Operation]:
    """Write the means of ``values`` over the cores, if the step is a multiple of ``every``."""
    number = global_step[0]
    summary = tf.compat.v2.summary
    writer = summary.create_file_writer(model_dir, max_queue=1000)
    with writer.as_default(), summary.record_if(tf.equal(number % every, 0)):
        for name, value in values.items():
            summary.scalar(f"train/{name}", tf.reduce_mean(value), step=number)
        return tf.summary.all_v2_summary_ops()
