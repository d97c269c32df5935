"""Initial weights of a run: a checkpoint of any format, checked against the graph."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tensorflow.compat.v1 as tf

from funnel.checkpoints import detect, load_checkpoint
from funnel.checkpoints.base import check_finite, describe_mismatches
from funnel.checkpoints.names import find_partial_heads, is_optimizer_state
from funnel.checkpoints.saved_head import DECODER
from funnel.formats.tensor_bundle import TFCheckpoint, write_tf_checkpoint
from funnel.utils.errors import CheckpointError
from funnel.utils.text import join_names
from funnel_tf.models.variables import variable_name

logger = logging.getLogger(__name__)

# Variables that a checkpoint must have if the graph has them. Heads and the generator may be new.
_BODY = re.compile(r"^model/(?:input|encoder|decoder)/")
_SHOWN = 20  # names in a message


@dataclass(frozen=True)
class InitConfig:
    """Initial weights of a new run.

    Attributes:
        checkpoint: a TensorFlow prefix, its directory or ``DIRECTORY/latest``; empty for random
            weights.
        with_optimizer: also restore Adam slots and the step counter, where the checkpoint has
            them.
        random_decoder: a checkpoint without decoder is no error: the decoder starts fresh.
    """

    checkpoint: str = ""
    with_optimizer: bool = False
    random_decoder: bool = False


@dataclass
class InitReport:
    """Names of a graph's variables by whether a checkpoint has them.

    Attributes:
        restored: in the checkpoint with the same shape.
        fresh: heads or optimizer slots that it lacks.
        missing: parts of encoder, decoder or embeddings that it lacks.
        mismatched: in the checkpoint with another shape; the entries include both.
    """

    restored: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)


def compare(variables: Sequence[tf.Variable], reader: TFCheckpoint) -> InitReport:
    """Compare names and shapes of ``variables`` with those in a checkpoint."""
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


def init_from_checkpoint(
    checkpoint: str, variables: Sequence[tf.Variable], random_decoder: bool = False
) -> InitReport:
    """Replace the initializers of ``variables`` by the values in ``checkpoint``.

    The checkpoint may lack heads, optimizer slots and, with ``random_decoder``, the decoder; these
    keep their initializers.

    Raises:
        CheckpointError: other variables are missing or have another shape; lists all of them.
    """
    reader = TFCheckpoint(checkpoint)
    report = compare(variables, reader)
    if random_decoder and not any(name.startswith(DECODER) for name in report.restored):
        report.fresh += [name for name in report.missing if name.startswith(DECODER)]
        report.missing = [name for name in report.missing if not name.startswith(DECODER)]
    _raise_mismatches(reader, report.missing, report.mismatched)
    _drop_partial_heads(report, reader)
    check_finite(((name, reader[name]) for name in report.restored), reader.prefix)
    logger.info("%s: %d variables restored", reader.prefix, len(report.restored))
    if report.fresh:
        logger.warning(
            "%s: lacks %s, which start fresh", reader.prefix, join_names(report.fresh, _SHOWN)
        )
    tf.train.init_from_checkpoint(str(reader.prefix), {name: name for name in report.restored})
    return report


def check_complete(reader: TFCheckpoint, variables: Sequence[tf.Variable]) -> None:
    """Check that a checkpoint has all ``variables``, heads included.

    Raises:
        CheckpointError: some are missing or have another shape; lists all of them.
    """
    report = compare(variables, reader)
    _raise_mismatches(reader, report.missing + report.fresh, report.mismatched)
    check_finite(((name, reader[name]) for name in report.restored), reader.prefix)


def _drop_partial_heads(report: InitReport, reader: TFCheckpoint) -> None:
    """Let a head of another kind start fresh with all its variables, not half random."""
    for head, prefixes in find_partial_heads(report.fresh, report.restored).items():
        dropped = [name for name in report.restored if name.startswith(prefixes)]
        report.restored = [name for name in report.restored if name not in dropped]
        report.fresh += dropped
        logger.warning(
            "%s: its %s is of another kind than this model's, which starts fresh as a whole",
            *(reader.prefix, head),
        )


def _raise_mismatches(
    reader: TFCheckpoint, missing: Sequence[str], mismatched: Sequence[str]
) -> None:
    """Raise CheckpointError unless both lists are empty."""
    problems = {"missing": missing, "of another shape": mismatched}
    if told := describe_mismatches(problems, _SHOWN):
        raise CheckpointError(
            f"{reader.prefix}: does not fit the model: {told} "
            "(do --model_config and the flags of the head describe this checkpoint?)"
        )


def as_tf_checkpoint(path: str, directory: Path, config_path: str = "") -> str:
    """Return the prefix of a TensorFlow checkpoint; convert other formats into ``directory``.

    Raises:
        CheckpointError: ``path`` holds no checkpoint of a known format.
    """
    kind, source = detect(path)
    if kind == "tf":
        return str(source)
    checkpoint = load_checkpoint(path, config_path=config_path or None)
    prefix = directory / "model.ckpt"
    write_tf_checkpoint(prefix, checkpoint.tensors)
    logger.info("%s: copied to %s", path, prefix)
    return str(prefix)
