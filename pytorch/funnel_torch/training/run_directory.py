"""The directory of a training run: what it holds, who may write to it, how it is resumed.

    run_config.json    the resolved settings, written before the first step
    net_config.json    the model's configuration
    metrics.jsonl, events.out.tfevents.*    loss and scores over steps
    best/              the best model so far; best_result.json: its scores
    last/              the newest checkpoint: model, training_state.pt, progress.json

``last/`` is swapped in as a whole, so model and training state are always of one step, and what
stood there survives a kill or a full disk.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from funnel.config.model import ModelConfig
from funnel.utils.errors import CheckpointError, RunError
from funnel.utils.files import atomic_directory, atomic_write_json, recover_swap

logger = logging.getLogger(__name__)

RUN_CONFIG = "run_config.json"
BEST_RESULT = "best_result.json"
TRAINING_STATE = "training_state.pt"
PROGRESS = "progress.json"
# Everything a run writes: what `overwrite` may delete, and nothing else.
_OURS = (
    *(RUN_CONFIG, "net_config.json", "metrics.jsonl", BEST_RESULT),
    *("best", "last", "submit", "test_results.txt", "valid_results.txt", "final_scores.json"),
    *("predictions.json", "nbest_predictions.json", "null_odds.json"),
)
_OUR_EVENTS = "events.out.tfevents.*"
# Files a user may have put there before the run began: `tee`d output, notes.
_HARMLESS = (".log", ".out", ".err", ".txt", ".md")

# Settings that older runs recorded by another name.
_RENAMED_SETTINGS = {"shuffle_window": "shuffle_buffer"}

SaveModel = Callable[[Path], None]


class RunDirectory:
    """Claims a directory for a run with given ``settings``; writes nothing before :meth:`create`.

    ``settings`` are what decides the result of the run; a directory belongs to a run if its
    settings are the same.

    Raises:
        RunError: the directory belongs to another run, holds foreign files, or holds this run
            finished while ``resume`` was not asked for.
    """

    def __init__(
        self,
        path: str | Path,
        settings: Mapping[str, Any],
        *,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        # What JSON makes of them is what a later run will compare with.
        self.settings: dict[str, Any] = json.loads(json.dumps(dict(settings)))
        self.overwritten = overwrite
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path}: is a file; --model_dir needs a directory")
        if resume and overwrite:
            raise RunError("--resume and --overwrite contradict each other")
        if overwrite or not self.path.is_dir():
            return
        if (self.path / RUN_CONFIG).is_file():
            self._check_same_run(resume)
        else:
            self._check_unused()

    @property
    def best(self) -> Path:
        """Directory of the best model."""
        return self.path / "best"

    @property
    def last(self) -> Path:
        """Directory of the newest checkpoint."""
        return self.path / "last"

    @property
    def can_resume(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return not self.overwritten and (self.last / TRAINING_STATE).is_file()

    @property
    def resume_step(self) -> int:
        """The step of that checkpoint, 0 without one."""
        return read_json(self.last / PROGRESS).get("step", 0) if self.can_resume else 0

    def recorded(self, key: str) -> Any:
        """What :meth:`create` was told under ``key`` when this run began, else None."""
        record = self.path / RUN_CONFIG
        return read_json(record).get(key) if record.is_file() and not self.overwritten else None

    def _check_same_run(self, resume: bool) -> None:
        recorded = read_json(self.path / RUN_CONFIG).get("settings", {})
        before = {_RENAMED_SETTINGS.get(key, key): value for key, value in recorded.items()}
        for key in sorted(set(before) | set(self.settings)):
            old, new = before.get(key), self.settings.get(key)
            if old != new:
                raise RunError(
                    f"{self.path}: holds another run ({key} was {old!r}, now {new!r}); "
                    "choose another --model_dir, or --overwrite to delete that run"
                )
        recover_swap(self.last)
        recover_swap(self.best)
        progress = self.last / PROGRESS
        if not resume and progress.is_file() and read_json(progress).get("finished"):
            raise RunError(
                f"{self.path}: this run is finished; --resume evaluates it again, "
                "--overwrite deletes it and starts anew"
            )

    def _check_unused(self) -> None:
        for item in sorted(self.path.iterdir()):
            if item.is_dir() or item.suffix not in _HARMLESS:
                if item.name.startswith("."):
                    continue
                raise RunError(
                    f"{self.path}: holds files of something else ({item.name}); "
                    "choose an empty --model_dir, or --overwrite to write among them"
                )

    def create(self, config: ModelConfig, information: Mapping[str, Any]) -> None:
        """Make the directory and say in it what runs there; ``information`` is not compared.

        A run that goes on keeps the record of its beginning.
        """
        if self.overwritten:
            self._delete()
        content = {"settings": self.settings, **information, "model": config.to_dict()}
        content["torch"] = torch.__version__
        if not (self.path / RUN_CONFIG).exists():
            atomic_write_json(self.path / RUN_CONFIG, content)
            config.save_net_config(self.path / "net_config.json")

    def _delete(self) -> None:
        names = [self.path / name for name in _OURS] + sorted(self.path.glob(_OUR_EVENTS))
        for item in names:
            if item.is_dir():
                shutil.rmtree(item)
            else:
                item.unlink(missing_ok=True)

    def save_last(
        self, save_model: SaveModel, state: Mapping[str, Any], progress: Mapping[str, Any]
    ) -> None:
        """Replace the newest checkpoint."""
        with atomic_directory(self.last) as folder:
            save_model(folder)
            _save_training_state(dict(state), folder / TRAINING_STATE)
            atomic_write_json(folder / PROGRESS, dict(progress))

    def save_best(self, save_model: SaveModel, result: Mapping[str, Any]) -> None:
        """Replace the best model and its scores."""
        with atomic_directory(self.best) as folder:
            save_model(folder)
        atomic_write_json(self.path / BEST_RESULT, dict(result))

    def load_state(self) -> dict[str, Any]:
        """The training state of the newest checkpoint; nothing but tensors and plain values."""
        return load_training_state(self.last / TRAINING_STATE)


def _save_training_state(state: dict[str, Any], path: Path) -> None:
    with open(path, "wb") as stream:
        try:
            torch.save(state, stream)
        except RuntimeError as error:
            # torch hides a failed write (a full disk) behind an internal check of its own.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load_training_state(path: Path) -> dict[str, Any]:
    """Read a ``training_state.pt`` without executing anything it might contain.

    Raises:
        CheckpointError: the file is missing, damaged or holds more than plain values.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds on damaged files
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path}: is no readable training state ({reason})") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: is no training state")
    return state


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of this directory.

    Raises:
        RunError: it is damaged.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error})") from error
    if not isinstance(value, dict):
        raise RunError(f"{path}: should hold a JSON object")
    return value
