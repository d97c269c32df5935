"""Loading pretrained models from every checkpoint format, and saving them in one."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from torch import nn

from funnel.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from funnel.checkpoints.names import find_partial_heads
from funnel.config.model import ModelConfig
from funnel.tokenization import Tokenizer
from funnel.utils.errors import CheckpointError, ConfigError
from funnel.utils.text import join_names
from funnel_torch.models.initialization import initialize, skip_init
from funnel_torch.models.weight_mapping import LoadReport, export_tensors, import_tensors

logger = logging.getLogger(__name__)


class PretrainedModel(nn.Module):
    """Base class of all models: a module with a config that can be loaded and saved.

    A head overrides :meth:`head_arguments`, :meth:`head_metadata`, :meth:`variable_scopes` and,
    if its variables have names of their own, :meth:`adapt_tensors`.

    Attributes:
        architecture: class name written to ``config.json``, for transformers.
        has_head: whether weights besides the pretrained ones may be missing in a checkpoint.
        vocab_path: vocabulary of the checkpoint that the model was loaded from, empty without one.
        label_names: classes in the order of the outputs, of a model that was loaded with its head
            or that ``finetune`` returned; empty where they are not known.
    """

    architecture: ClassVar[str]
    has_head: ClassVar[bool] = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.vocab_path = ""
        self.label_names: tuple[str, ...] = ()

    @classmethod
    def head_arguments(cls, checkpoint: Checkpoint) -> dict[str, Any]:
        """Return the constructor arguments that match the head in a checkpoint."""
        return {}

    def head_metadata(self) -> dict[str, Any]:
        """Return what a checkpoint has to record about the head besides its weights."""
        return {}

    def variable_scopes(self) -> dict[str, str]:
        """Return the variable scope, without ``model/``, of each head module.

        Keys are module paths, or parameter paths for parameters that are not a weight or bias.
        """
        return {}

    def adapt_tensors(self, tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Return a checkpoint's tensors under the variable names of this model."""
        return tensors

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, config_path: str | Path | None = None, **overrides: Any
    ) -> Self:
        """Load a model from any supported file or directory; the format is detected.

        Args:
            path: directory in this package's or the Hugging Face layout, a released PyTorch
                directory or ``.pt`` file, a TensorFlow directory or checkpoint prefix.
            config_path: config file to use instead of the one in the same directory.
            **overrides: settings of the config (``truncate_seq=False``) or arguments of the head
                (``num_labels=3``).

        Returns:
            The model in evaluation mode. Weights that the checkpoint lacks (a new head) are
            initialized and listed in a warning, and so is the decoder below a head on tokens.

        Raises:
            CheckpointError: the checkpoint is corrupt, unsafe, or of another kind of model, or it
                lacks the decoder of a model without a head, whose outputs are used untrained.
        """
        checkpoint = load_checkpoint(path, config_path=config_path)
        return cls.from_checkpoint(checkpoint, **overrides)

    @classmethod
    def from_checkpoint(
        cls, checkpoint: Checkpoint, *, complete: bool = False, **overrides: Any
    ) -> Self:
        """Build the model from a checkpoint in memory; see :meth:`from_pretrained`.

        With ``complete`` the checkpoint must have the head too: a model that is not trained is
        useless with a random one.
        """
        settings = checkpoint.config.to_dict()
        changes = {key: overrides.pop(key) for key in list(overrides) if key in settings}
        if checkpoint.config.rel_attn_type == "factorized":
            # Both forms compute the same function; factorized is the faster one on TPUs only.
            changes.setdefault("rel_attn_type", "rel_shift")
        arguments = cls.head_arguments(checkpoint) | overrides
        with skip_init():
            model = cls(checkpoint.config.replace(**changes), **arguments)
        report = import_tensors(model, model.adapt_tensors(checkpoint.tensors))
        _check(report, checkpoint.metadata, complete, cls.has_head)
        if report.missing_parameters:
            initialize(model, model.config, only=set(report.missing_parameters))
        known = checkpoint.metadata.get("vocab_path")
        model.vocab_path = known if known and Path(known).is_file() else ""
        labels = checkpoint.metadata.get("labels")
        if isinstance(labels, list) and not report.missing_parameters:
            model.label_names = tuple(map(str, labels))
        return model.eval()

    def save_pretrained(
        self,
        directory: str | Path,
        *,
        vocab_path: str | Path | None = None,
        tokenizer: Tokenizer | None = None,
        labels: Sequence[str] | None = None,
    ) -> list[str]:
        """Write the model in the Hugging Face layout, atomically.

        Args:
            directory: receives ``config.json``, ``net_config.json``, ``model.safetensors``, a
                model card and, if given, the vocabulary.
            vocab_path: vocabulary or SentencePiece model to save in the directory, with the
                settings recorded next to it; default: that of the checkpoint the model is from.
            tokenizer: the tokenizer to save, instead of a file.
            labels: class names in the order of the logits.

        Returns:
            Names of the weights that transformers cannot load; they are saved in
            ``funnel_extra.safetensors`` in the same directory.

        Raises:
            ConfigError: two labels have the same name.
            CheckpointError: there are more or fewer labels than outputs, or the model is int8.
        """
        metadata: dict[str, Any] = {"architecture": self.architecture}
        if tokenizer is not None:
            metadata["tokenizer"] = tokenizer
        elif vocab_path is not None or self.vocab_path:
            metadata["vocab_path"] = str(vocab_path or self.vocab_path)
        if labels is not None:
            name, count = Counter(labels).most_common(1)[0] if labels else ("", 0)
            if count > 1:
                # Programs refuse such a model, whose predictions would not say what they mean.
                raise ConfigError(f"labels: {name!r} is the name of several classes")
            metadata["labels"] = list(labels)
        metadata |= self.head_metadata()
        checkpoint = Checkpoint(self.config, export_tensors(self), metadata)
        return save_checkpoint(checkpoint, directory, "hf")


def _check(report: LoadReport, metadata: Mapping[str, Any], complete: bool, has_head: bool) -> None:
    """Warn of newly initialized heads; refuse a checkpoint without the model's own weights.

    Raises:
        CheckpointError: embeddings or encoder are incomplete, a shape differs, or a head of another
            kind would be loaded in part; ``complete`` and the head is missing, or the decoder of a
            model without one.
    """
    path = metadata.get("path")
    needed = [n for n in report.missing if n.startswith(("model/input/", "model/encoder/"))]
    if needed or report.mismatched:
        parts = []
        if needed:
            parts.append("missing " + join_names(needed))
        if report.mismatched:
            parts.append("wrong shape: " + join_names(report.mismatched))
        raise CheckpointError(f"{path}: does not fit the model: {'; '.join(parts)}")
    for prefix, reason in metadata.get("left_out", {}).items():
        if any(name.startswith(prefix) for name in report.missing):
            raise CheckpointError(f"{path}: {reason}: that head cannot be loaded")
    for head, prefixes in find_partial_heads(report.missing, report.loaded).items():
        lacking = [name for name in report.missing if name.startswith(prefixes)]
        raise CheckpointError(
            f"{path}: its {head} is of another kind: this model's also has {join_names(lacking)}, "
            "so it would be partly random"
        )
    if report.missing and complete:
        raise CheckpointError(
            f"{path}: lacks {join_names(report.missing)}: without training its results would be "
            "those of random weights; fine-tune it first, or name the fine-tuned model"
        )
    if report.missing and not has_head:
        raise CheckpointError(
            f"{path}: has no decoder, or not all of it: lacks {join_names(report.missing)}, so the "
            "model's output would be that of random layers. FunnelEncoder loads the encoder; the "
            "decoder is in the pretrained checkpoint"
        )
    if report.missing:
        logger.warning("%s: newly initialized: %s", path, join_names(report.missing))
    if report.unexpected:
        logger.info("%s: not used by this model: %s", path, join_names(report.unexpected))
