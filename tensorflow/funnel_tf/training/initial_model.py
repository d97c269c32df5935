"""Weights a run starts from: a checkpoint of any kind, compared with the graph beforehand."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tensorflow.compat.v1 as tf

from funnel.checkpoints import detect, load_checkpoint
from funnel.checkpoints.base import describe_mismatches
from funnel.checkpoints.names import is_optimizer_state
from funnel.formats.tensor_bundle import TFCheckpoint, write_tf_checkpoint
from funnel.utils.errors import CheckpointError
from funnel.utils.text import join_names
from funnel_tf.training.optimizer import SKIPPED_STEPS, variable_name

logger = logging.getLogger(__name__)

# What a checkpoint must have if the graph has it; heads and the generator may start fresh.
_BODY = re.compile(r"^model/(?:input|encoder|decoder)/")
_SHOWN = 20  # names in a message


@dataclass(frozen=True)
class InitConfig:
    """Which weights a fresh run starts from.

    ``checkpoint`` is a TensorFlow prefix, its directory or ``DIRECTORY/latest``; empty for random
    weights. ``with_optimizer`` also takes over Adam slots and the step counter where it has them.
    """

    checkpoint: str = ""
    with_optimizer: bool = False


@dataclass
class InitReport:
    """How the variables of a graph compare with a checkpoint, by name.

    ``restored`` take their values from it, ``fresh`` are heads (or slots) that it lacks.
    ``missing`` are parts of the body that it lacks; ``mismatched`` also say both shapes.
    """

    restored: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)


def compare(variables: Sequence[tf.Variable], reader: TFCheckpoint) -> InitReport:
    """Sort ``variables`` by what ``reader`` has for them."""
    report = InitReport()
    for variable in variables:
        name, shape = variable_name(variable), tuple(variable.shape.as_list())
        if name not in reader:
            is_body = _BODY.match(name) and not is_optimizer_state(name)
            (report.missing if is_body else report.fresh).append(name)
        elif reader.entries[name].shape != shape:
            found = list(reader.entries[name].shape)
            report.mismatched.append(f"{name} {found} should be {list(shape)}")
        else:
            report.restored.append(name)
    return report


def init_from_checkpoint(config: InitConfig) -> InitReport:
    """Let the current graph's variables begin with the values of ``config.checkpoint``.

    Call it after the graph is built: without ``with_optimizer`` it looks at trainable variables,
    with it at all.

    Raises:
        CheckpointError: what is missing and what has another shape, all in one message.
    """
    reader = TFCheckpoint(config.checkpoint)
    variables = tf.global_variables() if config.with_optimizer else tf.trainable_variables()
    report = compare([v for v in variables if variable_name(v) != SKIPPED_STEPS], reader)
    _refuse(reader, report.missing, report.mismatched)
    logger.info("%s: %d variables restored", reader.prefix, len(report.restored))
    if report.fresh:
        logger.warning(
            "%s: lacks %s, which start fresh", reader.prefix, join_names(report.fresh, _SHOWN)
        )
    tf.train.init_from_checkpoint(str(reader.prefix), {name: name for name in report.restored})
    return report


class FitHook(tf.train.SessionRunHook):
    """Compares a graph that is to be looked at with its checkpoint, of which it needs all."""

    def __init__(self, checkpoint: str | Path) -> None:
        self._reader = TFCheckpoint(checkpoint)

    def begin(self) -> None:
        """Raise CheckpointError for everything missing or of another shape."""
        report = compare(tf.trainable_variables(), self._reader)
        _refuse(self._reader, report.missing + report.fresh, report.mismatched)


def _refuse(reader: TFCheckpoint, missing: Sequence[str], mismatched: Sequence[str]) -> None:
    """Raise CheckpointError if there is anything to name."""
    problems = {"missing": missing, "of another shape": mismatched}
    if told := describe_mismatches(problems, _SHOWN):
        raise CheckpointError(
            f"{reader.prefix}: does not fit the model: {told} "
            "(do --model_config and the flags of the head describe this checkpoint?)"
        )


def as_tf_checkpoint(path: str, directory: Path, config_path: str = "") -> str:
    """``path`` itself if TensorFlow can read it, else a copy that it can, in ``directory``.

    Raises:
        CheckpointError: nothing known is there.
    """
    kind, source = detect(path)
    if kind == "tf":
        return str(source)
    checkpoint = load_checkpoint(path, config_path=config_path or None)
    prefix = directory / "model.ckpt"
    write_tf_checkpoint(prefix, checkpoint.tensors)
    logger.info("%s: copied to %s", path, prefix)
    return str(prefix)
