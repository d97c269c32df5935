"""Checkpoints of a training run: at fixed steps, by the clock, and on a stop signal.

Checkpoints of the last two kinds only serve to resume: the next checkpoint deletes them, so that a
run leaves (and evaluates) the same checkpoints whether it was interrupted or not.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tensorflow.compat.v1 as tf

from funnel.utils.errors import RunError
from funnel.utils.files import atomic_write_json
from funnel.utils.interruption import stop_requests
from funnel.utils.json_files import read_json_object
from funnel.utils.run_lock import check_lock
from funnel_tf.training.run_directory import SAVE_STATE, delete_checkpoint, newest_step


class DeferStopsHook(tf.train.SessionRunHook):
    """Lets stop signals only be recorded while the session exists, until :meth:`close`.

    Before that, while the graph is built, there is nothing to save.
    """

    def __init__(self) -> None:
        self._deferral = contextlib.ExitStack()

    def after_create_session(self, session: tf.Session, coord: Any) -> None:
        """Begin to record signals."""
        self._deferral.enter_context(stop_requests.deferred())

    def close(self) -> None:
        """Let signals end the program at once again."""
        self._deferral.close()


class SaveHook(tf.train.CheckpointSaverHook):
    """Saves the first step, all multiples of ``every``, and the last step; stops on a signal.

    Unlike in the base class, the steps do not depend on where a run was resumed.

    Args:
        model_dir: directory of the checkpoints.
        every: steps between checkpoints; None: the first and the last only.
        total_steps: the last step.
        minutes: minutes between further checkpoints, which the next one deletes; 0: none.
        log_state: returns the state of the log, saved along with the checkpoint.
    """

    def __init__(
        self,
        model_dir: str | Path,
        *,
        every: int | None,
        total_steps: int,
        minutes: float,
        log_state: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        super().__init__(str(model_dir), save_steps=every or max(1, total_steps))
        self._folder, self._every, self._total = Path(model_dir), every, total_steps
        self._seconds, self._log_state = minutes * 60.0, log_state
        self._step, self._saved = 0, time.monotonic()
        self._temporary: set[int] = set()

    def after_create_session(self, session: tf.Session, coord: Any) -> None:
        """Save the first step of a new run; resume the record of temporary checkpoints."""
        self._step = int(session.run(self._global_step_tensor))
        self._temporary = set(_read_state(self._folder).get("temporary", ()))
        # The base class also writes the graph as text, which takes a second of every start; the
        # event file has it for TensorBoard.
        if self._summary_writer is not None:
            self._summary_writer.add_graph(session.graph)
        self._save(session, self._step)
        self._timer.update_last_triggered_step(self._step)
        self._forget(self._temporary)
        self._saved = time.monotonic()

    def after_run(self, run_context: Any, run_values: Any) -> None:
        """Save if the step is one to save, if it is time to, or to stop after a stop signal."""
        session, is_stopping = run_context.session, stop_requests.received is not None
        step = int(session.run(self._global_step_tensor))
        is_regular = self._is_regular(step)
        is_late = 0 < self._seconds <= time.monotonic() - self._saved
        if is_regular:
            self._save(session, step)
        elif is_late or is_stopping:
            self._save_temporarily(session, step)
        if is_stopping:
            run_context.request_stop()
        self._step = step

    def _is_regular(self, step: int) -> bool:
        # On a TPU a session call makes many steps: has it passed a multiple?
        passed = self._every is not None and step // self._every > self._step // self._every
        return passed or step >= self._total

    def _save(self, session: tf.Session, step: int) -> bool:
        """Save a checkpoint to keep; called by the base class, too."""
        if newest_step(self._folder) == step:
            return False  # the run was resumed here, or has just saved
        check_lock(self._folder)
        outdated, self._temporary = self._temporary - {int(step)}, set()
        self._write_state(step, outdated)
        super()._save(session, step)
        self._delete(outdated)
        return False

    def _save_temporarily(self, session: tf.Session, step: int) -> None:
        check_lock(self._folder)
        saver, outdated = self._get_saver(), set(self._temporary)
        kept = list(saver.last_checkpoints)
        self._temporary = {step}
        # Before the checkpoint: a kill in between must not leave one that nobody will delete.
        self._write_state(step, outdated | {step})
        # The saver deletes the oldest checkpoints it knows: hide them, this one does not count.
        saver.set_last_checkpoints_with_time([])
        super()._save(session, step)
        saver.set_last_checkpoints_with_time([(path, _written(path)) for path in kept])
        names = [*map(os.path.basename, kept), f"model.ckpt-{step}"]
        tf.train.update_checkpoint_state(str(self._folder), names[-1], names)
        self._delete(outdated)

    def _write_state(self, step: int, temporary: set[int]) -> None:
        self._saved = time.monotonic()
        state = {"step": int(step), "temporary": sorted(temporary), "log": dict(self._log_state())}
        atomic_write_json(self._folder / SAVE_STATE, state)

    def _delete(self, steps: set[int]) -> None:
        self._forget(steps)
        for step in steps:
            delete_checkpoint(self._folder, f"model.ckpt-{step}")

    def _forget(self, steps: set[int]) -> None:
        """Remove checkpoints from the list of those that the saver counts."""
        saver = self._get_saver()
        names = {f"model.ckpt-{step}" for step in steps}
        kept = [path for path in saver.last_checkpoints if os.path.basename(path) not in names]
        saver.set_last_checkpoints_with_time([(path, _written(path)) for path in kept])


def read_log_state(folder: str | Path) -> dict[str, float]:
    """Return the state of the log at the newest checkpoint; empty without record."""
    state = _read_state(folder)
    is_current = bool(state) and state.get("step") == newest_step(folder)
    return state.get("log", {}) if is_current else {}


def _read_state(folder: str | Path) -> dict[str, Any]:
    path = Path(folder) / SAVE_STATE
    return read_json_object(path, RunError) if path.is_file() else {}


def _written(prefix: str) -> float:
    index = Path(f"{prefix}.index")
    return index.stat().st_mtime if index.is_file() else 0.0
