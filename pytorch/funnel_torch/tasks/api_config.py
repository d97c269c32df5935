"""Settings of :func:`funnel_torch.finetune`; does not import PyTorch."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from funnel.config.training.optimizer import OptimizerConfig
from funnel.tokenization import Tokenizer
from funnel.utils.errors import ConfigError
from funnel_torch.data.config import BatchConfig
from funnel_torch.tasks.config import FineTuneConfig

# Fields of FineTuneConfig that are settings classes themselves.
_GROUPS = ("batches", "optimizer")


@dataclass(frozen=True)
class FinetuneOptions:
    """Keyword arguments of :func:`funnel_torch.finetune`.

    Attributes:
        epochs: passes over the training data.
        lr: peak learning rate.
        batch_size: examples per step.
        max_length: tokens kept of a text, special tokens included.
        seed: of initial weights, data order and dropout.
        eval_batch_size: examples per step without training.
        text, text_b, label: columns or keys, where the data has names; ``text_b`` is used if there
            is such a column.
        labels: the classes in the order of the outputs; default: those of the model, else of the
            data.
        regression: labels are numbers to predict; default: if they are fractional numbers.
        metric: selects the best model; default: accuracy, or pearson_spearman.
        tokenizer: tokenizer or vocabulary; default: that of the model.
        new_head: ignore a classification head of the model.
        output_dir: directory of the run, as the programs write it; the same call resumes there.
            Default: nothing is written.
        overwrite: delete a run in that directory.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        more: further fields of ``FineTuneConfig``, ``BatchConfig`` and ``OptimizerConfig``.
    """

    epochs: int = 3
    lr: float = 2e-5
    batch_size: int = 16
    max_length: int = 128
    seed: int = 0
    eval_batch_size: int = 32
    text: str = "text"
    text_b: str | None = None
    label: str = "label"
    labels: Sequence[Any] | None = None
    regression: bool | None = None
    metric: str | None = None
    tokenizer: Tokenizer | str | os.PathLike[str] | None = None
    new_head: bool = False
    output_dir: str | os.PathLike[str] | None = None
    overwrite: bool = False
    device: str = "auto"
    precision: str = "fp32"
    more: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def build(cls, given: Mapping[str, Any]) -> FinetuneOptions:
        """Return the options of keyword arguments.

        Raises:
            ConfigError: there is no such option, or its value is not possible.
        """
        own = [item.name for item in fields(cls) if item.name != "more"]
        chosen = {name: value for name, value in given.items() if name in own}
        more = {name: value for name, value in given.items() if name not in own}
        known = [*own, *_further_names()]
        for name in more:
            if name not in known:
                close = difflib.get_close_matches(name, known, 1) or _spelled_elsewhere(name)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise ConfigError(f"finetune: there is no option {name!r}{hint}")
        options = cls(**chosen, more=more)
        options.training()
        return options

    def training(self) -> FineTuneConfig:
        """Return the settings of training.

        Raises:
            ConfigError: a value is not possible.
        """
        more = dict(self.more)
        batches = BatchConfig(
            batch_size=self.batch_size, seed=self.seed, **_take(BatchConfig, more)
        )
        return FineTuneConfig(
            batches=batches,
            optimizer=OptimizerConfig(**_take(OptimizerConfig, more)),
            lr=self.lr,
            epochs=self.epochs,
            precision=self.precision,
            **more,
        )

    def columns(self) -> dict[str, Any]:
        """Return the arguments of :class:`~funnel_torch.tasks.in_memory.ColumnNames`."""
        return {"text": self.text, "text_b": self.text_b, "label": self.label}

    def to_record(self) -> dict[str, Any]:
        """Return the options that decide the result of a run, as JSON values."""
        left_out = ("output_dir", "overwrite", "device", "tokenizer", "eval_batch_size", "labels")
        values = dataclasses.asdict(dataclasses.replace(self, tokenizer=None))
        return {name: value for name, value in values.items() if name not in left_out}


def _take(settings: type, values: dict[str, Any]) -> dict[str, Any]:
    """Remove the fields of a settings class from ``values`` and return them."""
    names = [item.name for item in fields(settings)]
    return {name: values.pop(name) for name in names if name in values}


def _further_names() -> list[str]:
    classes = (FineTuneConfig, BatchConfig, OptimizerConfig)
    names = [item.name for settings in classes for item in fields(settings)]
    return [name for name in names if name not in _GROUPS]


def _spelled_elsewhere(name: str) -> list[str]:
    """Return our option for a name that another library gives it."""
    theirs = {
        "learning_rate": "lr",
        "num_train_epochs": "epochs",
        "per_device_train_batch_size": "batch_size",
        "max_seq_length": "max_length",
        "num_labels": "labels",
        "text_pair": "text_b",
    }
    return [theirs[name]] if name in theirs else []


def show_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a function that takes ``**options``: its signature lists them with defaults."""
    signature = inspect.signature(function)
    named = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    rest = [p for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD]
    options = [
        inspect.Parameter(
            item.name, inspect.Parameter.KEYWORD_ONLY, default=item.default, annotation=item.type
        )
        for item in fields(FinetuneOptions)
        if item.name != "more"
    ]
    function.__signature__ = signature.replace(parameters=[*named, *options, *rest])  # type: ignore[attr-defined]
    return function
