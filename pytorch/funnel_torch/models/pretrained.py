"""Loading and saving models: ``from_pretrained`` for every format, ``save_pretrained`` in one."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from torch import nn

from funnel.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from funnel.config.model import ModelConfig
from funnel.utils.errors import CheckpointError
from funnel.utils.text import join_names
from funnel_torch.models.initialization import initialize, unfilled
from funnel_torch.models.weight_mapping import LoadReport, export_tensors, import_tensors

logger = logging.getLogger(__name__)


class PretrainedModel(nn.Module):
    """A module with a config that can be loaded and saved."""

    architecture: ClassVar[str]

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def head_arguments(cls, checkpoint: Checkpoint) -> dict[str, Any]:
        """Arguments of the constructor that a checkpoint's own head implies."""
        return {}

    def head_metadata(self) -> dict[str, Any]:
        """What a saved checkpoint should tell of the head besides its weights."""
        return {}

    def variable_scopes(self) -> dict[str, str]:
        """Variable scope of every head module (or name, of a bare parameter), without model/."""
        return {}

    def adapt_tensors(self, tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """A checkpoint's tensors under the names that this model looks for."""
        return tensors

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, config_path: str | Path | None = None, **overrides: Any
    ) -> Self:
        """Load a model from any supported file or directory; the kind is detected.

        Args:
            path: our or Hugging Face's directory, a released PyTorch directory or ``.pt`` file,
                a TensorFlow directory or checkpoint prefix.
            config_path: config file to use instead of the one beside the weights.
            **overrides: settings of the config (``truncate_seq=False``) or arguments of the head
                (``num_labels=3``).

        Returns:
            The model in evaluation mode. Weights that the checkpoint lacks (a new head) are
            initialised and named in a warning.

        Raises:
            CheckpointError: damaged, unsafe, or not the weights of such a model.
        """
        checkpoint = load_checkpoint(path, config_path=config_path)
        return cls.from_checkpoint(checkpoint, **overrides)

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, **overrides: Any) -> Self:
        """Build the model of a loaded checkpoint; see :meth:`from_pretrained`."""
        settings = checkpoint.config.to_dict()
        changes = {key: overrides.pop(key) for key in list(overrides) if key in settings}
        if checkpoint.config.rel_attn_type == "factorized":
            # The same function; factorized is the form for TPUs.
            changes.setdefault("rel_attn_type", "rel_shift")
        arguments = cls.head_arguments(checkpoint) | overrides
        with unfilled():
            model = cls(checkpoint.config.replace(**changes), **arguments)
        report = import_tensors(model, model.adapt_tensors(checkpoint.tensors))
        _check(report, checkpoint.metadata.get("path"))
        if report.missing_parameters:
            initialize(model, model.config, only=set(report.missing_parameters))
        return model.eval()

    def save_pretrained(
        self,
        directory: str | Path,
        *,
        vocab_path: str | Path | None = None,
        labels: Sequence[str] | None = None,
    ) -> list[str]:
        """Write the model in the Hugging Face layout, whole or not at all.

        Args:
            directory: receives ``config.json``, ``net_config.json``, ``model.safetensors``, a
                model card and, if given, the vocabulary.
            vocab_path: vocabulary or SentencePiece model to keep with the weights.
            labels: class names in the order of the logits.

        Returns:
            Names of weights that transformers cannot load; they are kept in a file beside.
        """
        metadata: dict[str, Any] = {"architecture": self.architecture}
        if vocab_path is not None:
            metadata["vocab_path"] = str(vocab_path)
        if labels is not None:
            metadata["labels"] = list(labels)
        metadata |= self.head_metadata()
        checkpoint = Checkpoint(self.config, export_tensors(self), metadata)
        return save_checkpoint(checkpoint, directory, "hf")


def _check(report: LoadReport, path: str | None) -> None:
    """Warn of new weights; raise if the model itself is not in the checkpoint."""
    needed = [n for n in report.missing if n.startswith(("model/input/", "model/encoder/"))]
    if needed or report.mismatched:
        parts = []
        if needed:
            parts.append("missing " + join_names(needed))
        if report.mismatched:
            parts.append("wrong shape: " + join_names(report.mismatched))
        raise CheckpointError(f"{path}: does not fit the model: {'; '.join(parts)}")
    if report.missing:
        logger.warning("%s: newly initialised: %s", path, join_names(report.missing))
    if report.unexpected:
        logger.info("%s: not used by this model: %s", path, join_names(report.unexpected))
