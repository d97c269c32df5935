"""Settings of :func:`funnel_torch.finetune`; does not import PyTorch."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import inspect
import numbers
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from funnel.config.training.optimizer import OptimizerConfig
from funnel.tokenization import Tokenizer
from funnel.utils.errors import ConfigError, FunnelError
from funnel_torch.data.config import BatchConfig
from funnel_torch.tasks.config import FineTuneConfig

# Fields of FineTuneConfig that are settings classes themselves.
_GROUPS = ("batches", "optimizer")
# Further options that a run may change when it resumes, such as ``extend_to``.
_WITHOUT_EFFECT = frozenset(
    item.name
    for settings in (FineTuneConfig, BatchConfig, OptimizerConfig)
    for item in fields(settings)
    if not item.metadata.get("affects_result", True)
)
_FLAG = re.compile(r"(?<![\w-])--(\w+)")
_TYPES = {"int": numbers.Integral, "float": numbers.Real, "bool": bool, "str": str}


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
        chosen, more = _checked(cls, chosen), more
        for settings in (FineTuneConfig, BatchConfig, OptimizerConfig):
            more = _checked(settings, more)
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
        kept = {name: value for name, value in self.more.items() if name not in _WITHOUT_EFFECT}
        values = dataclasses.asdict(dataclasses.replace(self, tokenizer=None, more=kept))
        return {name: value for name, value in values.items() if name not in left_out}


def _checked(settings: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with numbers of NumPy as those of Python.

    Raises:
        ConfigError: an option that is a field of ``settings`` has a value of another type.
    """
    found = dict(values)
    for item in fields(settings):
        # Annotations are strings, as in "int | None"; others than these types are not checked.
        kinds = str(item.type).split(" | ")
        wanted = _TYPES.get(kinds[0])
        if item.name not in found or wanted is None:
            continue
        value = found[item.name]
        if isinstance(value, np.generic):
            value = found[item.name] = value.item()
        is_number = wanted is bool or not isinstance(value, bool)
        if (value is None and "None" in kinds) or not set(kinds) <= {*_TYPES, "None"}:
            continue
        if not (isinstance(value, wanted) and is_number):
            raise ConfigError(
                f"finetune: {item.name}={value!r} is a {type(value).__name__}, should be of type "
                f"{kinds[0]}"
            )
    return found


@contextlib.contextmanager
def named_as_arguments() -> Iterator[None]:
    """Let the messages of errors name arguments of :func:`finetune` in place of flags.

    Raises:
        FunnelError: the block raised it.
    """
    theirs = {"model_dir": "output_dir", "train_bsz": "batch_size", "overwrite": "overwrite=True"}
    known = theirs | {name: name for name in _further_names()}
    try:
        yield
    except FunnelError as error:
        text = _FLAG.sub(lambda flag: known.get(flag[1], flag[0]), str(error))
        if text == str(error):
            raise
        raise type(error)(text) from error


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
