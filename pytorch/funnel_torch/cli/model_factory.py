"""The models of a run: built from its settings, loaded from checkpoints, and saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from funnel.checkpoints import Checkpoint
from funnel.cli.flags import split_list
from funnel.config.model import ModelConfig
from funnel.tokenization import Tokenizer
from funnel.tokenization.choice import warn_of_length
from funnel.utils.errors import ConfigError
from funnel_torch.cli.settings.base import ProgramSettings
from funnel_torch.kernels.quantization import quantize_int8
from funnel_torch.models.attention import choose_attention
from funnel_torch.models.initial_model import (
    InitConfig,
    build_model,
    read_initial_checkpoint,
)
from funnel_torch.models.pretrained import PretrainedModel
from funnel_torch.training.devices import is_accelerator
from funnel_torch.training.fsdp import ShardedModel
from funnel_torch.training.saving import ModelSaver

Model = TypeVar("Model", bound=PretrainedModel)


@dataclass(frozen=True)
class ModelFactory(Generic[Model]):
    """Builds and saves the models of a run.

    Attributes:
        head: class of the models.
        tokenizer: their vocabulary, saved with them.
        init: initial weights and configuration.
        max_length: longest sequence they will read.
        arguments: keyword arguments of ``head``, e.g. ``num_labels``.
        int8: quantize the linear layers.
        attention: how attention is computed, see
            :func:`funnel_torch.models.attention.choose_attention`.
    """

    head: type[Model]
    tokenizer: Tokenizer
    init: InitConfig
    max_length: int
    arguments: Mapping[str, Any]
    int8: bool = False
    attention: str = "auto"

    def read_initial(self, with_optimizer: bool) -> Checkpoint | None:
        """Read the initial checkpoint, to pass it to :meth:`load`; None for random weights."""
        return read_initial_checkpoint(replace(self.init, with_optimizer=with_optimizer))

    def load(self, checkpoint: Path | None = None, initial: Checkpoint | None = None) -> Model:
        """Return the model of a ``checkpoint`` of this run; None: the initial model.

        ``initial`` is that checkpoint, or the initial one, if it has been read already.
        """
        init = self.init
        if checkpoint is not None:
            # A file of the original has no config of its own next to it.
            path = init.config_path if checkpoint.is_file() else ""
            init = replace(init, checkpoint=str(checkpoint), config_path=path, overwrite=())
            init = replace(init, new_head=False, complete=True)
        model = build_model(
            self.head, init, self.tokenizer, self.max_length, initial, **self.arguments
        )
        choose_attention(model, self.attention)
        return quantize_int8(model.eval()) if self.int8 else model

    def saver(self, model: Model, sharded: ShardedModel | None = None) -> ModelSaver:
        """Return the saver of a model, with its vocabulary and labels."""
        return ModelSaver(model, self.tokenizer, self.init.labels, sharded)


def make_factory(
    settings: ProgramSettings,
    head: type[Model],
    tokenizer: Tokenizer,
    max_length: int,
    arguments: Mapping[str, Any],
    labels: tuple[str, ...] | None = None,
) -> ModelFactory[Model]:
    """Return the factory of the models that ``settings`` describe.

    Raises:
        ConfigError: the sizes are not valid, or 8 bits are asked for on a GPU.
    """
    device = settings.device
    if device.int8 and is_accelerator(device.device_id, device.device):
        raise ConfigError("--int8 computes on the CPU: it goes with --device_id=-1")
    warn_of_length(tokenizer, max_length)
    flags = settings.init
    init = InitConfig(
        checkpoint=flags.init_ckpt,
        config_path=flags.init_ckpt_config,
        fallback=ModelConfig(vocab_size=tokenizer.vocab_size, **settings.model.sizes()),
        overwrite=split_list(flags.overwrite_keys),
        attn_type=flags.attn_type,
        truncate_seq=flags.truncate_seq,
        new_head=flags.new_head,
        labels=labels,
        complete=not settings.trains,
    )
    return ModelFactory(head, tokenizer, init, max_length, arguments, device.int8, device.attention)
