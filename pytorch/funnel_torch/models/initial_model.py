"""The model a run starts from: a checkpoint of any kind, or fresh weights for a config."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from funnel.checkpoints import Checkpoint, load_checkpoint
from funnel.checkpoints.names import is_task_head
from funnel.checkpoints.vocabulary import check_vocabulary
from funnel.config.model import MAX_ABSOLUTE_POSITIONS, ModelConfig
from funnel.tokenization import Tokenizer
from funnel.utils.errors import CheckpointError, ConfigError
from funnel_torch.models.pretrained import PretrainedModel

logger = logging.getLogger(__name__)

Model = TypeVar("Model", bound=PretrainedModel)


@dataclass(frozen=True)
class InitConfig:
    """Where weights and configuration come from.

    ``checkpoint`` is any path :func:`funnel.checkpoints.load_checkpoint` takes, empty for fresh
    weights. The configuration is the file ``config_path``, else the checkpoint's, else
    ``fallback``. ``overwrite`` names the keys for which ``fallback`` beats the file.
    ``attn_type`` is how relative attention is computed; ``truncate_seq`` None keeps what the file
    says. ``new_head`` leaves a task's head in the checkpoint unread; ``labels`` are the
    task's, in the order in which such a head must have them.
    """

    checkpoint: str = ""
    config_path: str = ""
    fallback: ModelConfig | None = None
    overwrite: tuple[str, ...] = ()
    attn_type: str = "rel_shift"
    truncate_seq: bool | None = None
    new_head: bool = False
    labels: tuple[str, ...] | None = None


def build_model(
    head: type[Model],
    start: InitConfig,
    tokenizer: Tokenizer,
    max_length: int,
    **arguments: Any,
) -> Model:
    """The model of a head, loaded or freshly initialised (with torch's global generator).

    ``arguments`` are the head's own, e.g. ``num_labels``.

    Raises:
        ConfigError: the vocabulary, the length or the settings do not fit the configuration.
        CheckpointError: damaged weights, or a head of another size.
    """
    if not start.checkpoint:
        config = final_config(start, None)
        check_vocabulary(config, tokenizer.path, tokenizer.vocab_size, pretrained=False)
        check_length(config, max_length)
        logger.info("no --init_ckpt: the model starts from random weights")
        return head(config, **arguments)
    checkpoint = load_checkpoint(start.checkpoint, config_path=start.config_path or None)
    config = final_config(start, checkpoint.config)
    check_vocabulary(
        config,
        tokenizer.path,
        tokenizer.vocab_size,
        pretrained=True,
        pretrained_vocab=checkpoint.metadata.get("vocab_path"),
    )
    check_length(config, max_length)
    if start.new_head:
        kept = {k: v for k, v in checkpoint.tensors.items() if not is_task_head(k)}
        checkpoint = Checkpoint(checkpoint.config, kept, {"path": start.checkpoint})
    else:
        check_num_labels(checkpoint, start.checkpoint, arguments.get("num_labels"))
        check_labels(checkpoint.metadata.get("labels"), start.labels)
    return head.from_checkpoint(checkpoint, **config.to_dict(), **arguments)


def final_config(start: InitConfig, found: ModelConfig | None) -> ModelConfig:
    """The configuration of the run; ``found`` is the checkpoint's, None without one.

    Raises:
        ConfigError: there is none, or a key of ``overwrite`` is no setting of a model.
    """
    if found is None and start.config_path:
        found = ModelConfig.load(start.config_path)
    config = found or start.fallback
    if config is None:
        raise ConfigError("neither a checkpoint nor a model configuration is given")
    if start.fallback is not None and config is not start.fallback:
        known = start.fallback.to_dict()
        unknown = [key for key in start.overwrite if key not in known]
        if unknown:
            raise ConfigError(f"overwrite_keys: {unknown[0]!r} is no setting of a model")
        config = config.replace(**{key: known[key] for key in start.overwrite})
    if config.rel_attn_type != "null":
        config = config.replace(rel_attn_type=start.attn_type)
    if start.truncate_seq is not None:
        config = config.replace(truncate_seq=start.truncate_seq)
    return config


def check_length(config: ModelConfig, max_length: int) -> None:
    """Refuse sequences longer than a model with absolute positions can tell apart."""
    if config.rel_attn_type == "null" and max_length > MAX_ABSOLUTE_POSITIONS:
        raise ConfigError(
            f"max_length={max_length}: a model with rel_attn_type 'null' has "
            f"{MAX_ABSOLUTE_POSITIONS} positions"
        )


def check_num_labels(checkpoint: Checkpoint, path: str | Path, num_labels: int | None) -> None:
    """Refuse a checkpoint whose classification head has another number of outputs."""
    for name, array in checkpoint.tensors.items():
        is_output = num_labels is not None and name.endswith("/logit/kernel")
        if is_output and array.shape[-1] != num_labels:
            raise CheckpointError(
                f"{path}: its classification head has {array.shape[-1]} outputs, the task "
                f"needs {num_labels}; --new_head starts with a fresh head"
            )


def check_labels(checkpoint_labels: Sequence[str] | None, labels: Sequence[str] | None) -> None:
    """Refuse to read a head's outputs in another order than it was trained with.

    Raises:
        ConfigError: both name the same labels in different orders.
    """
    if checkpoint_labels is None or labels is None or list(checkpoint_labels) == list(labels):
        return
    if sorted(checkpoint_labels) == sorted(labels):
        raise ConfigError(
            f"the checkpoint's labels are {', '.join(checkpoint_labels)} in this order, the "
            f"task's are {', '.join(labels)}; --new_head starts with a fresh head"
        )
