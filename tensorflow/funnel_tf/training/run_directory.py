"""The directory of a run: who may train in it, which checkpoints it holds, which is the best.

run_config.json      the resolved settings, written before the first step
net_config.json      the model's configuration; vocabulary and labels beside it
model.ckpt-STEP.*    checkpoints with optimizer state, as TensorFlow writes them
metrics.jsonl, events.out.tfevents.*    loss and scores over steps
best_result.json     the best checkpoint's name and scores
progress.json        how far the run came; written at its end
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from funnel.checkpoints.base import copy_vocabulary, write_labels
from funnel.config.model import NET_CONFIG, ModelConfig
from funnel.formats.tensor_bundle import STATE_FILE, resolve_prefix
from funnel.utils.errors import CheckpointError, RunError
from funnel.utils.files import atomic_write_json, atomic_write_text
from funnel.utils.json_files import read_json_object

logger = logging.getLogger(__name__)

RUN_CONFIG = "run_config.json"
BEST_RESULT = "best_result.json"
PROGRESS = "progress.json"

_CHECKPOINT = re.compile(r"(.*-(\d+))\.index")
# Everything a run writes: what starting anew deletes, and nothing else.
_OURS = (
    *(RUN_CONFIG, NET_CONFIG, BEST_RESULT, PROGRESS, "metrics.jsonl", "labels.json", STATE_FILE),
    *("model.ckpt-*", "graph.pbtxt", "events.out.tfevents.*", "init_checkpoint", "submit"),
)


@dataclass(frozen=True)
class SavedStep:
    """A checkpoint of a run."""

    step: int
    prefix: Path


class RunDirectory:
    """Claims ``path`` for a training run with given ``settings``; writes nothing yet.

    ``settings`` are what decides the result: a directory belongs to the run whose settings it
    records. ``overwrite`` starts anew where another run, or this one, stands.

    Raises:
        RunError: the directory belongs to another run, or to this one and that is finished.
    """

    def __init__(
        self, path: str | Path, settings: Mapping[str, Any], *, overwrite: bool = False
    ) -> None:
        self.path = Path(path)
        # What JSON makes of them is what a later run will compare with.
        self.settings: dict[str, Any] = json.loads(json.dumps(dict(settings)))
        self._anew = overwrite
        self._before: dict[str, Any] = {}
        # Without a checkpoint nothing has begun, whatever a failed start has recorded.
        if overwrite or not (self.path / STATE_FILE).is_file():
            return
        record = self.path / RUN_CONFIG
        if not record.is_file():
            raise RunError(
                f"{self.path}: holds checkpoints but no {RUN_CONFIG}; choose another --model_dir, "
                "or --overwrite_run deletes them"
            )
        self._before = read_json_object(record)
        self._check_same()

    def _check_same(self) -> None:
        old, new = self._before.get("settings", {}), self.settings
        changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
        if changed:
            key = changed[0]
            raise RunError(
                f"{self.path}: another run stands there (--{key} was {old.get(key)!r}, now "
                f"{new.get(key)!r}); choose another --model_dir, or --overwrite_run deletes it"
            )
        progress = self.path / PROGRESS
        if progress.is_file() and read_json_object(progress).get("finished"):
            raise RunError(
                f"{self.path}: this run is finished; --do_train=False evaluates it again, "
                "--overwrite_run deletes it and starts anew"
            )

    @property
    def seed(self) -> int | None:
        """The seed with which this run began; None if it has not."""
        return self._before.get("seed")

    @property
    def step(self) -> int:
        """The step to go on from, 0 for a fresh run."""
        return 0 if self._anew else latest_step(self.path)

    def create(
        self, config: ModelConfig, information: Mapping[str, Any], metadata: Mapping[str, Any]
    ) -> None:
        """Make the directory and say what runs there.

        ``information`` (the seed must be among it) is recorded but not compared; ``metadata`` is
        what checkpoints say beside their weights: vocab_path, labels, cls_scope, problem_type.
        """
        if self._anew:
            delete_run(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        if not self._before:
            content = {"settings": self.settings, **information, "model": config.to_dict()}
            atomic_write_json(self.path / RUN_CONFIG, content)
        # These describe the checkpoints: a kill may have come between the record and them.
        config.save_net_config(self.path / NET_CONFIG)
        write_labels(metadata, self.path)
        copy_vocabulary(metadata, self.path)

    def finish(self, step: int, total_steps: int) -> None:
        """Record that everything this run was asked for is done."""
        progress = {"step": step, "total_steps": total_steps, "finished": step >= total_steps}
        atomic_write_json(self.path / PROGRESS, progress)


def delete_run(path: Path) -> None:
    """Delete what a run left in ``path``, and nothing else."""
    for item in (item for pattern in _OURS for item in path.glob(pattern)):
        if item.is_dir():
            shutil.rmtree(item)
        else:
            item.unlink()


def latest_step(model_dir: str | Path) -> int:
    """The step of the newest checkpoint of ``model_dir``, 0 without one."""
    if not (Path(model_dir) / STATE_FILE).is_file():
        return 0
    prefix = resolve_prefix(model_dir)
    number = prefix.name.rpartition("-")[2]
    return int(number) if number.isdigit() else 0


def saved_steps(folder: str | Path, after: int = -1, upto: int = 10**9) -> list[SavedStep]:
    """The checkpoints of ``folder`` with ``after`` < step <= ``upto``, by step.

    Raises:
        CheckpointError: there is none.
    """
    matches = (_CHECKPOINT.fullmatch(path.name) for path in Path(folder).glob("*.index"))
    found = [SavedStep(int(m.group(2)), Path(folder, m.group(1))) for m in matches if m]
    kept = sorted((s for s in found if after < s.step <= upto), key=lambda saved: saved.step)
    if not kept:
        raise CheckpointError(
            f"{folder}: no checkpoint (model.ckpt-STEP) of a step above {after} and up to {upto}"
        )
    return kept


def retain(folder: str | Path, steps: Collection[int]) -> list[int]:
    """Delete the checkpoints of ``folder`` but those of ``steps``; returns the steps deleted.

    The ``checkpoint`` file is rewritten first: it never names what is gone.
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
        for file in folder.glob(f"{saved.prefix.name}.*"):
            file.unlink()
    return [saved.step for saved in deleted]
