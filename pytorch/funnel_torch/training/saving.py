"""Saving of models during a run, sharded or not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from funnel.tokenization import Tokenizer
from funnel_torch.models.pretrained import PretrainedModel
from funnel_torch.training.fsdp import ShardedModel
from funnel_torch.training.lora import has_adapters, merged_copy

SaveModel = Callable[[Path], None]


class CheckpointStore(Protocol):
    """Where a run keeps its best and its newest model: a directory, or memory.

    Attributes:
        overwrites: whether a run that was there is deleted.
        overwrite_flag: what the user sets for that.
    """

    overwrites: bool
    overwrite_flag: ClassVar[str]

    @property
    def last(self) -> Path:
        """Directory of the newest checkpoint."""
        ...

    def save_best(self, save_model: SaveModel, result: Mapping[str, Any]) -> None:
        """Replace the best model and its scores."""
        ...

    def save_last(
        self, save_model: SaveModel, state: Mapping[str, Any], progress: Mapping[str, Any]
    ) -> None:
        """Replace the newest checkpoint."""
        ...

    def load_state(self) -> dict[str, Any]:
        """Return the training state of the newest checkpoint."""
        ...

    def read_progress(self) -> tuple[int, int | None]:
        """Return the step of the newest checkpoint and the last step of its run."""
        ...


@dataclass(frozen=True)
class ModelSaver:
    """Saves a model with its vocabulary and labels.

    Attributes:
        model: the model.
        tokenizer: saved with it.
        labels: class names in the order of the logits.
        sharded: given if the model is sharded: gathers its weights.
    """

    model: PretrainedModel
    tokenizer: Tokenizer | None = None
    labels: tuple[str, ...] | None = None
    sharded: ShardedModel | None = None

    def gather(self) -> None:
        """Collect the weights of a sharded model; to be called in every process before saving."""
        if self.sharded is not None:
            self.sharded.gather()

    def save(self, folder: Path) -> None:
        """Write the model to ``folder``; to be called on rank 0."""
        model = self.model if self.sharded is None else self.sharded.cpu_copy
        assert isinstance(model, PretrainedModel), "a sharded model is saved on rank 0 only"
        if has_adapters(model):
            model = merged_copy(model)
        model.save_pretrained(folder, tokenizer=self.tokenizer, labels=self.labels)
