"""The initial model of a run: from a checkpoint of any format, or with random weights.

This module does not import torch, so that command lines can use :class:`InitConfig`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from funnel.checkpoints import Checkpoint, load_checkpoint
from funnel.checkpoints.names import is_task_head
from funnel.checkpoints.vocabulary import check_vocabulary, fit_vocabulary
from funnel.config.geometry import check_length
from funnel.config.model import ModelConfig
from funnel.tasks.labels import fold_label
from funnel.tokenization import Tokenizer
from funnel.utils.errors import CheckpointError, ConfigError
from funnel.utils.text import join_names

if TYPE_CHECKING:
    from funnel_torch.models.pretrained import PretrainedModel

logger = logging.getLogger(__name__)

Model = TypeVar("Model", bound="PretrainedModel")


@dataclass(frozen=True)
class InitConfig:
    """Initial weights and configuration of a run.

    The model's configuration is the file ``config_path``, else the checkpoint's, else
    ``fallback``.

    Attributes:
        checkpoint: any path that :func:`funnel.checkpoints.load_checkpoint` accepts; empty for
            random weights.
        config_path: model config file.
        fallback: configuration from the command line.
        overwrite: keys for which ``fallback`` takes precedence over the file or checkpoint.
        attn_type: form in which relative attention is computed.
        truncate_seq: replaces the configuration's setting; None keeps it.
        new_head: ignore the task head in the checkpoint.
        labels: the task's labels, in the order that a head in the checkpoint must have.
        with_optimizer: also read Adam moments and step counter of a TensorFlow checkpoint.
        complete: refuse a checkpoint that lacks the head.
    """

    checkpoint: str = ""
    config_path: str = ""
    fallback: ModelConfig | None = None
    overwrite: tuple[str, ...] = ()
    attn_type: str = "rel_shift"
    truncate_seq: bool | None = None
    new_head: bool = False
    labels: tuple[str, ...] | None = None
    with_optimizer: bool = False
    complete: bool = False


def read_initial_checkpoint(init: InitConfig) -> Checkpoint | None:
    """Read the checkpoint that a run starts from; None for random weights.

    Raises:
        CheckpointError: it is corrupt or of no known format.
    """
    if not init.checkpoint:
        return None
    return load_checkpoint(
        init.checkpoint,
        config_path=init.config_path or None,
        with_optimizer=init.with_optimizer,
    )


def build_model(
    head: type[Model],
    init: InitConfig,
    tokenizer: Tokenizer,
    max_length: int,
    checkpoint: Checkpoint | None = None,
    **arguments: Any,
) -> Model:
    """Build a model with a head, from a checkpoint or initialized by torch's global generator.

    Args:
        head: class of the model.
        init: initial weights and configuration.
        tokenizer: its vocabulary must fit the model.
        max_length: longest input in tokens.
        checkpoint: result of :func:`read_initial_checkpoint` for ``init``, where the caller needs
            it too; None reads it here.
        **arguments: arguments of ``head``, e.g. ``num_labels``.

    Raises:
        ConfigError: vocabulary, length or settings do not fit the configuration.
        CheckpointError: corrupt weights, a head of another size, or none where it is needed.
    """
    checkpoint = checkpoint or read_initial_checkpoint(init)
    config = resolve_config(init, None if checkpoint is None else checkpoint.config)
    if checkpoint is None:
        config = fit_vocabulary(config, tokenizer.vocab_size, tokenizer.path)
    check_vocabulary(
        config,
        tokenizer.path,
        tokenizer.vocab_size,
        pretrained=checkpoint is not None,
        pretrained_vocab=None if checkpoint is None else checkpoint.metadata.get("vocab_path"),
    )
    check_length(config, max_length)
    if checkpoint is None:
        logger.info("no --init_ckpt: the model starts from random weights")
        return head(config, **arguments)
    if init.new_head:
        kept = {k: v for k, v in checkpoint.tensors.items() if not is_task_head(k)}
        checkpoint = Checkpoint(checkpoint.config, kept, {"path": init.checkpoint})
    else:
        check_num_labels(checkpoint, init.checkpoint, arguments.get("num_labels"))
        check_labels(checkpoint.metadata.get("labels"), init.labels)
    settings = config.to_dict() | arguments
    return head.from_checkpoint(checkpoint, complete=init.complete, **settings)


def resolve_config(init: InitConfig, found: ModelConfig | None) -> ModelConfig:
    """Return the model configuration of a run.

    Args:
        init: settings of the run.
        found: the checkpoint's configuration; None without a checkpoint.

    Raises:
        ConfigError: there is no configuration, or a key of ``overwrite`` is not a setting.
    """
    if found is None and init.config_path:
        found = ModelConfig.load(init.config_path)
    config = found or init.fallback
    if config is None:
        raise ConfigError("neither a checkpoint nor a model configuration is given")
    if init.fallback is not None and config is not init.fallback:
        values = init.fallback.to_dict()
        unknown = [key for key in init.overwrite if key not in values]
        if unknown:
            raise ConfigError(f"overwrite_keys: {unknown[0]!r} is no setting of a model")
        config = config.replace(**{key: values[key] for key in init.overwrite})
    if config.rel_attn_type != "null":
        config = config.replace(rel_attn_type=init.attn_type)
    if init.truncate_seq is not None:
        config = config.replace(truncate_seq=init.truncate_seq)
    return config


def check_num_labels(checkpoint: Checkpoint, path: str | Path, num_labels: int | None) -> None:
    """Check that the checkpoint's classification head has ``num_labels`` outputs.

    Raises:
        CheckpointError: it has another number of outputs.
    """
    for name, array in checkpoint.tensors.items():
        is_output = num_labels is not None and name.endswith("/logit/kernel")
        if is_output and array.shape[-1] != num_labels:
            raise CheckpointError(
                f"{path}: its classification head has {array.shape[-1]} outputs, the task "
                f"needs {num_labels}; --new_head starts with a fresh head"
            )


def check_labels(checkpoint_labels: Sequence[str] | None, labels: Sequence[str] | None) -> None:
    """Check that a head's outputs are read as the labels they were trained on.

    Raises:
        ConfigError: the labels or their order differ, in more than case and blanks.
    """
    if checkpoint_labels is None or labels is None:
        return
    if list(map(fold_label, checkpoint_labels)) != list(map(fold_label, labels)):
        raise ConfigError(
            f"the checkpoint's labels are {join_names(checkpoint_labels)} in this order, the "
            f"task's are {join_names(labels)}; --new_head starts with a fresh head"
        )
