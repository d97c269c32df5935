"""The directory of a training run: its checkpoints, which to keep, and how it is resumed.

run_config.json      settings, seed and command line, written before the first step
net_config.json      the model's configuration, with vocabulary and labels next to it
model.ckpt-STEP.*    checkpoints with optimizer state, as TensorFlow writes them
metrics.jsonl, events.out.tfevents.*    loss and scores over steps
best_result.json     name and scores of the best checkpoint
progress.json        last step, written at the end of the run
save_state.json      written with every checkpoint: what else is needed to resume
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from funnel.checkpoints.base import LABELS_FILE, write_side_files
from funnel.config.model import NET_CONFIG, ModelConfig
from funnel.formats.tensor_bundle import STATE_FILE, resolve_prefix
from funnel.tokenization.saved import TOKENIZER_CONFIG
from funnel.utils.errors import CheckpointError, RunError
from funnel.utils.files import atomic_write_json, atomic_write_text
from funnel.utils.json_files import read_json_object
from funnel.utils.logging import METRICS_FILE, read_metrics
from funnel.utils.run_directory import BEST_RESULT, PROGRESS, RUN_CONFIG, BaseRunDirectory

logger = logging.getLogger(__name__)

SAVE_STATE = "save_state.json"
_POLL_SECONDS = 5.0
_CHECKPOINT = re.compile(r"(.*-(\d+))\.index")


@dataclass(frozen=True)
class SavedStep:
    """A checkpoint of a run."""

    step: int
    prefix: Path


class RunDirectory(BaseRunDirectory):
    """Directory of a TensorFlow run; the constructor writes nothing.

    Args:
        path, settings, overwrite: see :class:`~funnel.utils.run_directory.BaseRunDirectory`.

    Raises:
        RunError: the directory belongs to another run, or to this one and it is finished.
    """

    overwrite_flag = "--overwrite_run"
    evaluate_flag = "--do_train=False"
    own_files = (
        *(RUN_CONFIG, NET_CONFIG, BEST_RESULT, PROGRESS, "metrics.jsonl", LABELS_FILE, STATE_FILE),
        TOKENIZER_CONFIG,
        *("model.ckpt-*", "graph.pbtxt", "events.out.tfevents.*", "init_checkpoint", "submit"),
        *(
            "test_results.*",
            "valid_results.*",
            "final_scores.json",
            "*predictions.*",
            "*null_odds.json",
        ),
        *("*.logits.json", SAVE_STATE),
    )
    # Those to name at the end of a run.
    result_files = (
        *(BEST_RESULT, "metrics.jsonl", "final_scores.json", "test_results.txt"),
        *("predictions.json", "null_odds.json", "submit"),
    )

    def __init__(
        self, path: str | Path, settings: Mapping[str, Any], *, overwrite: bool = False
    ) -> None:
        super().__init__(path, settings, overwrite=overwrite)
        # Without a checkpoint no run has begun, even if a failed start has left a record.
        if overwrite or not (self.path / STATE_FILE).is_file():
            return
        if not (self.path / RUN_CONFIG).is_file():
            raise RunError(
                f"{self.path}: holds checkpoints but no {RUN_CONFIG}; choose another --model_dir, "
                "or --overwrite_run deletes them"
            )
        self._load_record()
        self._refuse_finished(self.path / PROGRESS)

    @property
    def step(self) -> int:
        """The step to resume from, 0 for a new run."""
        return 0 if self.overwrites else latest_step(self.path)

    def create(
        self, config: ModelConfig, information: Mapping[str, Any], metadata: Mapping[str, Any]
    ) -> None:
        """Create the directory and record the run; a resumed run keeps its record.

        Args:
            config: written to ``net_config.json``.
            information: recorded but not compared: seed and command line.
            metadata: facts that checkpoints need besides their weights: vocab_path, labels,
                cls_scope, problem_type.
        """
        self._write_record({"model": config.to_dict(), **information})
        # Also when resuming: a kill may have come between the record and these files.
        config.save_net_config(self.path / NET_CONFIG)
        write_side_files(metadata, self.path)

    def finish(self, step: int, total_steps: int) -> None:
        """Record the last step, and whether the run is finished.

        Raises:
            RunError: training diverged: the results are those of a model that is of no use.
        """
        progress = {"step": step, "total_steps": total_steps, "finished": step >= total_steps}
        atomic_write_json(self.path / PROGRESS, progress)
        if reason := find_divergence(self.path):
            raise RunError(f"{self.path} diverged: {reason}; try a lower --learning_rate")


def find_divergence(model_dir: str | Path) -> str | None:
    """Return in words how a run has ended without a usable model, from its metrics; None if not."""
    path = Path(model_dir) / METRICS_FILE
    rows = read_metrics(path) if path.is_file() else []
    training = [row for row in rows if row["split"] == "train"]
    last = training[-1] if training else {}
    # --skip_nan_grad skips steps on the way, but a run must not end on one.
    if last.get("grad_norm", 0.0) is None:
        return f"the gradients of the last steps, up to {last['step']}, were not finite"
    evaluated = [row for row in rows if row["split"] != "train"]
    newest = max((row["step"] for row in evaluated), default=0)
    losses = [row["loss"] for row in evaluated if row["step"] == newest and "loss" in row]
    return f"the loss in the evaluation of step {newest} is not finite" if None in losses else None


def newest_step(model_dir: str | Path) -> int | None:
    """Return the step of the newest checkpoint of ``model_dir``, None without one."""
    return latest_step(model_dir) if (Path(model_dir) / STATE_FILE).is_file() else None


def latest_step(model_dir: str | Path) -> int:
    """Return the step of the newest checkpoint of ``model_dir``, 0 without one."""
    if not (Path(model_dir) / STATE_FILE).is_file():
        return 0
    prefix = resolve_prefix(model_dir)
    number = prefix.name.rpartition("-")[2]
    return int(number) if number.isdigit() else 0


def saved_steps(folder: str | Path, after: int = -1, upto: int = 10**9) -> list[SavedStep]:
    """Return the checkpoints of ``folder`` with ``after`` < step <= ``upto`` in order of steps.

    Raises:
        CheckpointError: there is none.
    """
    kept = [saved for saved in _list_steps(folder) if after < saved.step <= upto]
    if not kept:
        raise CheckpointError(
            f"{folder}: no checkpoint (model.ckpt-STEP) of a step above {after} and up to {upto}"
        )
    return kept


def _list_steps(folder: str | Path) -> list[SavedStep]:
    """Return all checkpoints of ``folder`` in order of steps."""
    matches = (_CHECKPOINT.fullmatch(path.name) for path in Path(folder).glob("*.index"))
    found = [SavedStep(int(m.group(2)), Path(folder, m.group(1))) for m in matches if m]
    return sorted(found, key=lambda saved: saved.step)


def _list_regular_steps(folder: str | Path) -> list[SavedStep]:
    """Return the checkpoints of ``folder`` without those that the next one deletes."""
    found, state = _list_steps(folder), Path(folder) / SAVE_STATE
    # Read last: the record of such a checkpoint is written before it.
    temporary = read_json_object(state, RunError).get("temporary", ()) if state.is_file() else ()
    return [saved for saved in found if saved.step not in temporary]


def wait_for_steps(
    folder: str | Path, after: int, upto: int, last_step: int, patience: float
) -> Iterator[SavedStep]:
    """Yield the checkpoints of a run that is training in another process, as they appear.

    Those that only serve to resume are left out: the run deletes them, even if one were the best.

    Args:
        folder: directory of the run; it need not exist yet.
        after: checkpoints of this step and before are left out.
        upto: checkpoints after this step are left out.
        last_step: the step at which that run ends.
        patience: seconds to wait for the next checkpoint.

    Raises:
        CheckpointError: none appeared.
    """
    seen, end, deadline = after, min(upto, last_step), time.monotonic() + patience
    any_left = False
    logger.info("%s: waiting for checkpoints up to step %d", folder, end)
    while True:
        # Read first: a run that is finished writes no further checkpoint.
        is_finished, is_late = _is_finished(folder), time.monotonic() >= deadline
        new = [saved for saved in _list_regular_steps(folder) if seen < saved.step <= upto]
        for saved in new:
            seen = saved.step
            # The run may delete old checkpoints while this one is evaluated.
            if Path(f"{saved.prefix}.index").is_file():
                any_left = True
                yield saved
        if seen >= end or is_finished or (is_late and not new):
            break
        if new:
            deadline = time.monotonic() + patience
        time.sleep(min(_POLL_SECONDS, patience))
    if not any_left:
        raise CheckpointError(
            f"{folder}: no checkpoint (model.ckpt-STEP) of a step above {after} and up to {upto} "
            f"in {patience:g} seconds"
        )
    if seen < end:
        logger.info("%s: no checkpoint after step %d came", folder, seen)


def _is_finished(folder: str | Path) -> bool:
    progress = Path(folder) / PROGRESS
    return progress.is_file() and bool(read_json_object(progress, RunError).get("finished"))


def retain(folder: str | Path, steps: Collection[int]) -> list[int]:
    """Delete all checkpoints of ``folder`` except those of ``steps``; return the deleted steps.

    The ``checkpoint`` file is rewritten first, so that it never names a deleted checkpoint.
    """
    folder = Path(folder)
    every = saved_steps(folder)
    kept = [saved.prefix.name for saved in every if saved.step in steps]
    if not kept:
        raise ValueError(f"{folder}: none of the steps {sorted(steps)} exists")
    lines = [f'model_checkpoint_path: "{kept[-1]}"']
    lines += [f'all_model_checkpoint_paths: "{name}"' for name in kept]
    atomic_write_text(folder / STATE_FILE, "\n".join(lines) + "\n")
    deleted = [saved for saved in every if saved.step not in steps]
    for saved in deleted:
        delete_checkpoint(folder, saved.prefix.name)
    return [saved.step for saved in deleted]


def delete_checkpoint(folder: Path, name: str) -> None:
    """Delete the files of a checkpoint, its index first: without it, it is no checkpoint."""
    for file in sorted(folder.glob(f"{name}.*"), key=lambda file: file.suffix != ".index"):
        file.unlink(missing_ok=True)
