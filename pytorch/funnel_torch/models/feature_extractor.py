"""Feature extraction: every output that a checkpoint can compute, as float32 arrays."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from funnel.checkpoints import Checkpoint
from funnel.config.model import ModelConfig
from funnel.features.feature_extraction import detect_parts
from funnel_torch.models.heads import DISCRIMINATOR_SCOPES, SUMMARY_SCOPE, DiscriminatorHead
from funnel_torch.models.initialization import initialize
from funnel_torch.models.modeling import Backbone, Decoder


class FeatureExtractor(Backbone):
    """Encoder with those of decoder, summary and discriminator that its checkpoint contains."""

    architecture = "FunnelForPreTraining"

    def __init__(
        self,
        config: ModelConfig,
        decoder: bool = True,
        summary: bool = False,
        discriminator: bool = False,
    ) -> None:
        super().__init__(config)
        self.decoder = Decoder(config) if decoder else None
        self.summary = nn.Linear(config.d_model, config.d_model) if summary else None
        self.discriminator = DiscriminatorHead(config) if discriminator else None
        initialize(self, config)

    @classmethod
    def head_arguments(cls, checkpoint: Checkpoint) -> dict[str, Any]:
        """Return which parts the checkpoint contains."""
        return detect_parts(checkpoint)._asdict()

    def variable_scopes(self) -> dict[str, str]:
        """Return the variable scope of each head module."""
        return DISCRIMINATOR_SCOPES | {"summary": SUMMARY_SCOPE["classifier.linear_hidden"]}

    @torch.inference_mode()
    def extract(
        self,
        input_ids: np.ndarray,
        token_type_ids: np.ndarray | None = None,
        attention_mask: np.ndarray | None = None,
        names: Collection[str] | None = None,
    ) -> dict[str, np.ndarray]:
        """Run one batch.

        Args:
            input_ids: [B, T].
            token_type_ids: [B, T].
            attention_mask: [B, T], 1 for a real token.
            names: the outputs to return; None is all.

        Returns:
            ``embedding``, ``hidden_0``, ``hidden_1`` ... and, where the model has the part,
            ``decoder``, ``summary`` and ``discriminator_logits``.
        """
        device = self.embeddings.word_embeddings.weight.device
        ids = torch.as_tensor(input_ids, device=device)
        mask, segments = _to_device(attention_mask, device), _to_device(token_type_ids, device)
        encoded, states = self.encode(ids, mask, segments, output_hidden_states=True)
        outputs = {}
        for index, state in enumerate(states or ()):
            outputs[f"hidden_{index - 1}" if index else "embedding"] = state
        final = self.decoder(encoded) if self.decoder is not None else encoded.hidden
        if self.decoder is not None:
            outputs["decoder"] = final
        if self.summary is not None:
            outputs["summary"] = torch.tanh(self.summary(encoded.hidden[:, 0]))
        if self.discriminator is not None:
            outputs["discriminator_logits"] = self.discriminator(final)
        chosen = outputs if names is None else {name: outputs[name] for name in names}
        return {name: tensor.float().cpu().numpy() for name, tensor in chosen.items()}


def _to_device(array: np.ndarray | None, device: torch.device) -> Tensor | None:
    return None if array is None else torch.as_tensor(array, device=device)
