"""The directory of a training run: its checkpoints, and how it is resumed.

    run_config.json    settings, seed and command line, written before the first step
    net_config.json    the model's configuration
    metrics.jsonl, events.out.tfevents.*    loss and scores over steps
    best/              the best model so far; best_result.json: its scores
    last/              the newest checkpoint: model, training_state.pt, progress.json
    .results_pending   exists until the results after training are complete

``last/`` is replaced atomically, so that model and training state are always of the same step and
the previous checkpoint survives a kill or a full disk.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from funnel.checkpoints.torch_file import find_oddity, verify_archive
from funnel.config.limits import describe, first_line
from funnel.config.model import NET_CONFIG, ModelConfig
from funnel.utils.errors import CheckpointError, RunError
from funnel.utils.files import atomic_directory, atomic_write_json, recover_swap
from funnel.utils.json_files import read_json_object
from funnel.utils.run_directory import BEST_RESULT, PROGRESS, RUN_CONFIG, BaseRunDirectory
from funnel.utils.run_lock import check_lock
from funnel_torch.training.progress import Progress

TRAINING_STATE = "training_state.pt"
_STATE_PARTS: dict[str, type] = {
    "progress": dict,
    "data": dict,
    "optimizer": dict,
    "scaler": dict,
    "random": list,
    "kernels": dict,
}
_OPTIONAL_PARTS = ("kernels", "data")  # older runs did not save them
_MAX_NESTING = 6  # of the training state: optimizer.state.INDEX.exp_avg
_RESULTS_PENDING = ".results_pending"
# Files a user may have put there before the run began: output of `tee`, notes.
_HARMLESS = (".log", ".out", ".err", ".txt", ".md")

SaveModel = Callable[[Path], None]


class RunDirectory(BaseRunDirectory):
    """Directory of a PyTorch run; the constructor writes nothing.

    Args:
        path, settings, overwrite: see :class:`~funnel.utils.run_directory.BaseRunDirectory`.
        resume: accept a run that is finished, to evaluate it again.

    Raises:
        RunError: the directory belongs to another run, holds other files, or holds this run
            finished without ``resume``.
    """

    overwrite_flag = "--overwrite"
    evaluate_flag = "--resume"
    own_files = (
        *(RUN_CONFIG, NET_CONFIG, "metrics.jsonl", "events.out.tfevents.*", BEST_RESULT),
        *("best", "last", "submit", "test_results.*", "valid_results.*", "final_scores.json"),
        *(
            "predictions.csv",
            "predictions.jsonl",
            "predictions.json",
            "nbest_predictions.json",
            "null_odds.json",
            "logits.json",
        ),
        _RESULTS_PENDING,
    )
    # Those to name at the end of a run.
    result_files = (
        *("best", "last", BEST_RESULT, "final_scores.json", "metrics.jsonl", "submit"),
        *("valid_results.txt", "test_results.txt", "predictions.json", "null_odds.json"),
    )

    def __init__(
        self,
        path: str | Path,
        settings: Mapping[str, Any],
        *,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        super().__init__(path, settings, overwrite=overwrite)
        if resume and overwrite:
            raise RunError("--resume and --overwrite contradict each other")
        if overwrite or not self.path.is_dir():
            return
        if not (self.path / RUN_CONFIG).is_file():
            self._check_unused()
            return
        self._load_record()
        recover_swap(self.last)
        recover_swap(self.best)
        if not resume and not (self.path / _RESULTS_PENDING).exists():
            self._refuse_finished(self.last / PROGRESS)

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
        """Whether there is a checkpoint to resume from."""
        return not self.overwrites and (self.last / TRAINING_STATE).is_file()

    @property
    def resume_step(self) -> int:
        """The step of that checkpoint, 0 without one."""
        if not self.can_resume:
            return 0
        path = self.last / PROGRESS
        step = read_json_object(path, RunError).get("step", 0)
        if type(step) is not int or step < 0:
            raise RunError(f"{path}: step: {describe(step)} should be a number of steps")
        return step

    def read_progress(self) -> tuple[int, int | None]:
        """Return the step of the newest checkpoint, 0 without one, and the last step of the run."""
        path = self.last / PROGRESS
        found = read_json_object(path, RunError) if path.is_file() else {}
        step, total = found.get("step"), found.get("total_steps")
        return (step if type(step) is int else 0), (total if type(total) is int else None)

    def _check_unused(self) -> None:
        for item in sorted(self.path.iterdir()):
            is_harmless = item.name.startswith(".") or (
                item.suffix in _HARMLESS and not item.is_dir()
            )
            if not is_harmless:
                raise RunError(
                    f"{self.path}: holds files of something else ({item.name}); "
                    "choose an empty --model_dir, or --overwrite to write among them"
                )

    def create(self, config: ModelConfig, information: Mapping[str, Any]) -> None:
        """Create the directory and record the run; a resumed run keeps its record.

        ``information`` is recorded but not compared: seed, command line, sizes, versions.
        """
        if self._write_record({"model": config.to_dict(), **information}):
            config.save_net_config(self.path / NET_CONFIG)

    def expect_results(self) -> None:
        """Do not regard the run as finished before :meth:`complete`, even if training is."""
        (self.path / _RESULTS_PENDING).touch()

    def complete(self) -> None:
        """Record that everything after training has been written, too."""
        (self.path / _RESULTS_PENDING).unlink(missing_ok=True)

    def save_last(
        self, save_model: SaveModel, state: Mapping[str, Any], progress: Mapping[str, Any]
    ) -> None:
        """Replace the newest checkpoint."""
        check_lock(self.path)
        with atomic_directory(self.last) as folder:
            save_model(folder)
            _save_training_state(dict(state), folder / TRAINING_STATE)
            atomic_write_json(folder / PROGRESS, dict(progress))

    def save_best(self, save_model: SaveModel, result: Mapping[str, Any]) -> None:
        """Replace the best model and its scores."""
        check_lock(self.path)
        with atomic_directory(self.best) as folder:
            save_model(folder)
        atomic_write_json(self.path / BEST_RESULT, dict(result))

    def load_state(self) -> dict[str, Any]:
        """Return the training state of the newest checkpoint."""
        return load_training_state(self.last / TRAINING_STATE)


def _save_training_state(state: dict[str, Any], path: Path) -> None:
    with open(path, "wb") as stream:
        try:
            torch.save(state, stream)
        except RuntimeError as error:
            # torch.save reports a failed write (a full disk) as an internal assertion.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load_training_state(path: Path) -> dict[str, Any]:
    """Load a ``training_state.pt`` of tensors and plain values, without executing its pickle.

    Raises:
        CheckpointError: the file is missing, corrupt or holds other objects.
    """
    try:
        if zipfile.is_zipfile(path):
            verify_archive(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # torch.load raises many kinds for corrupt files
        raise CheckpointError(
            f"{path}: no readable training state ({first_line(error)})"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: no training state")
    for name, kind in _STATE_PARTS.items():
        if name not in state and name not in _OPTIONAL_PARTS:
            raise CheckpointError(f"{path}: no training state: {name} is missing")
        if name in state and not isinstance(state[name], kind):
            raise CheckpointError(f"{path}: no training state: {name} is no {kind.__name__}")
    known = {part.name for part in fields(Progress)}
    if unknown := [name for name in state["progress"] if name not in known]:
        raise CheckpointError(
            f"{path}: was written by another version of this program, which also counts "
            f"{describe(unknown[0])}; resume with that one"
        )
    for name, tensor in _tensors(state):
        if problem := find_oddity(tensor, path.stat().st_size):
            raise CheckpointError(f"{path}: {name} {problem}")
    return state


def _tensors(value: Any, name: str = "state", depth: int = 0) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield all tensors in nested containers, each with the keys that lead to it."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif depth < _MAX_NESTING and isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from _tensors(inner, f"{name}.{key}", depth + 1)
