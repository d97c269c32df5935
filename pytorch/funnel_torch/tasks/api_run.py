"""The run of :func:`funnel_torch.finetune`: in memory, or in a directory that can be resumed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from funnel.checkpoints import Checkpoint, load_checkpoint
from funnel.checkpoints.names import is_task_head
from funnel.config.model import ModelConfig
from funnel.tasks import Task
from funnel.tokenization import Tokenizer
from funnel.utils.errors import RunError
from funnel.utils.logging import METRICS_FILE, MetricsLog, read_metrics
from funnel.utils.run_lock import acquire
from funnel_torch.data.batching import SequenceSource
from funnel_torch.models.attention import choose_attention
from funnel_torch.models.heads import FunnelForSequenceClassification
from funnel_torch.models.initial_model import InitConfig, build_model
from funnel_torch.tasks.api_config import FinetuneOptions
from funnel_torch.tasks.classification import build_evaluation
from funnel_torch.tasks.finetune import fine_tune
from funnel_torch.training.distributed import DistributedContext
from funnel_torch.training.rng import seed_everything
from funnel_torch.training.run_directory import RunDirectory
from funnel_torch.training.saving import ModelSaver, SaveModel
from funnel_torch.training.trainer import Progress, RunOutput

History = list[dict[str, Any]]
_DIGITS = 16  # hexadecimal, of the hash by which weights are known


@dataclass(frozen=True)
class InitialModel:
    """The initial model of a run: a checkpoint, or a configuration for random weights.

    Attributes:
        name: its path, or what it is.
        checkpoint: its weights; None for random ones.
        config: for random weights; None with a checkpoint.
        tokenizer: its tokenizer.
        is_object: whether the weights are those of an object, which has no path to know it by.
    """

    name: str
    checkpoint: Checkpoint | None
    config: ModelConfig | None
    tokenizer: Tokenizer
    is_object: bool = False

    def record(self) -> dict[str, Any]:
        """Return what a run records of the model, to tell it from others."""
        found: dict[str, Any] = {"model": self.name}
        config = self.config
        if self.is_object and self.checkpoint is not None:
            config = self.checkpoint.config
            digest = hashlib.sha256()
            for name, values in sorted(self.checkpoint.tensors.items()):
                digest.update(f"{name}{values.shape}".encode())
                digest.update(np.ascontiguousarray(values).data)
            found["weights"] = digest.hexdigest()[:_DIGITS]
        settings = {} if config is None else config.to_dict()
        return found | {f"model_config.{key}": value for key, value in settings.items()}


class BestInMemory:
    """Keeps the best weights of a run in memory, where the run has no directory."""

    overwrites = False
    overwrite_flag: ClassVar[str] = ""

    def __init__(self, model: FunnelForSequenceClassification) -> None:
        self._model = model
        self._weights: dict[str, Tensor] = {}

    @property
    def last(self) -> Path:
        """There is no newest checkpoint."""
        return Path()

    def save_best(self, save_model: SaveModel, result: Mapping[str, Any]) -> None:
        """Copy the weights of the model to the CPU."""
        weights = self._model.state_dict()
        self._weights = {
            name: value.detach().to("cpu", copy=True) for name, value in weights.items()
        }

    def save_last(
        self, save_model: SaveModel, state: Mapping[str, Any], progress: Mapping[str, Any]
    ) -> None:
        """Do nothing: the run cannot be resumed."""

    def load_state(self) -> dict[str, Any]:
        """Raise RunError: there is nothing to resume from."""
        raise RunError("a run without output_dir cannot be resumed")

    def read_progress(self) -> tuple[int, int | None]:
        """Return (0, None): nothing is saved."""
        return 0, None

    def restore(self) -> None:
        """Give the model the best weights, if it was evaluated."""
        if self._weights:
            self._model.load_state_dict(self._weights)


@dataclass
class HistoryLog:
    """Collects what is logged, as the rows of a ``metrics.jsonl``."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def log(self, step: int, split: str, **scalars: float) -> None:
        """Add one row."""
        self.rows.append({"step": step, "split": split, **scalars})

    def close(self) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class FinetuneRun:
    """One run of training, in memory or in a directory."""

    options: FinetuneOptions
    start: InitialModel
    task: Task
    world: DistributedContext

    def load(self, folder: Path | None = None) -> FunnelForSequenceClassification:
        """Return the initial model or, with a ``folder``, the one saved there, on the device."""
        seed_everything(self.options.seed)
        checkpoint = self.start.checkpoint if folder is None else load_checkpoint(folder)
        if folder is None and checkpoint is not None and self.options.new_head:
            kept = {k: v for k, v in checkpoint.tensors.items() if not is_task_head(k)}
            checkpoint = replace(checkpoint, tensors=kept)
        init = InitConfig(
            self.start.name if folder is None else str(folder),
            fallback=self.start.config,
            complete=folder is not None,
        )
        task, head = self.task, FunnelForSequenceClassification
        arguments: dict[str, Any] = {"num_labels": task.num_labels, "cls_scope": task.name}
        arguments["regression"] = task.is_regression
        if checkpoint is None:
            init = replace(init, checkpoint="")
        model = build_model(
            head, init, self.start.tokenizer, self.options.max_length, checkpoint, **arguments
        )
        choose_attention(model, "auto")
        return model.to(self.world.device)

    def train(
        self,
        model: FunnelForSequenceClassification,
        sources: Mapping[str, SequenceSource],
        data: str,
    ) -> tuple[FunnelForSequenceClassification, Progress, History]:
        """Train; return the best model (without dev data: the last one), progress and history."""
        if self.options.output_dir is None:
            return self._train_in_memory(model, sources)
        folder = Path(self.options.output_dir)
        lock = acquire(folder)
        try:
            return self._train_in(folder, model, sources, data)
        finally:
            lock.release()

    def _train_in_memory(
        self, model: FunnelForSequenceClassification, sources: Mapping[str, SequenceSource]
    ) -> tuple[FunnelForSequenceClassification, Progress, History]:
        store, log = BestInMemory(model), HistoryLog()
        saver = ModelSaver(model, self.start.tokenizer, self.task.labels)
        progress = self._fit(model, sources, RunOutput(store, log, saver))
        store.restore()
        return model.eval(), progress, log.rows

    def _train_in(
        self,
        folder: Path,
        model: FunnelForSequenceClassification,
        sources: Mapping[str, SequenceSource],
        data: str,
    ) -> tuple[FunnelForSequenceClassification, Progress, History]:
        options, task = self.options, self.task
        settings = options.to_record() | self.start.record() | {"data": data}
        settings |= {"labels": task.labels, "vocabulary": self.start.tokenizer.fingerprint}
        overwrite = options.overwrite
        directory = ApiRunDirectory(folder, settings, resume=not overwrite, overwrite=overwrite)
        resumes = directory.can_resume
        if resumes:
            model = self.load(directory.last)
        directory.create(model.config, {"seed": options.seed})
        log = MetricsLog(folder, resume_step=directory.resume_step, replaces=True)
        output = RunOutput(directory, log, ModelSaver(model, self.start.tokenizer, task.labels))
        try:
            progress = self._fit(model, sources, output, resumes)
        finally:
            log.close()
        if progress.best and progress.best_step != progress.step:
            model = self.load(directory.best)
        return model.eval(), progress, read_metrics(folder / METRICS_FILE)

    def _fit(
        self,
        model: FunnelForSequenceClassification,
        sources: Mapping[str, SequenceSource],
        output: RunOutput,
        resumes: bool = False,
    ) -> Progress:
        """Train the model in place.

        Raises:
            RunError: training diverged.
        """
        size, config = self.options.eval_batch_size, self.options.training()
        evaluations = [
            build_evaluation(self.task, name, source, size)
            for name, source in sources.items()
            if name != "train"
        ]
        train = sources["train"]
        progress = fine_tune(model, train, evaluations, config, self.world, output, resumes)
        for reason in progress.divergence(config.precision):
            raise RunError(f"finetune diverged: {reason}; try a lower lr, or a longer warm-up")
        return progress


class ApiRunDirectory(RunDirectory):
    """The directory of a run of :func:`finetune`; its messages name arguments, not flags."""

    overwrite_flag = "overwrite=True"
    evaluate_flag = "the same call"
