"""Everything a checkpoint can compute for a batch, as float32 arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from funnel.checkpoints import Checkpoint
from funnel.config.model import ModelConfig
from funnel.features.feature_extraction import detect_parts
from funnel_torch.models.heads import DISCRIMINATOR_SCOPES, SUMMARY_SCOPE, DiscriminatorHead
from funnel_torch.models.initialization import initialize
from funnel_torch.models.modeling import Backbone, Decoder


class FeatureExtractor(Backbone):
    """A model with whatever of decoder, summary and discriminator its checkpoint has."""

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
        """Which parts there are."""
        return detect_parts(checkpoint)._asdict()

    def variable_scopes(self) -> dict[str, str]:
        """See the base class."""
        return DISCRIMINATOR_SCOPES | {"summary": SUMMARY_SCOPE["classifier.linear_hidden"]}

    @torch.inference_mode()
    def extract(
        self,
        input_ids: np.ndarray,
        token_type_ids: np.ndarray | None = None,
        attention_mask: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """Run one batch of [B, T] arrays; the names are those of ``extract_features.py``."""
        device = self.embeddings.word_embeddings.weight.device
        arrays = (input_ids, attention_mask, token_type_ids)
        ids, mask, segments = (
            None if array is None else torch.as_tensor(array, device=device) for array in arrays
        )
        encoded, states = self.encode(ids, mask, segments, output_hidden_states=True)
        found = {"embedding": states[0]}
        found |= {f"hidden_{index}": state for index, state in enumerate(states[1:])}
        output = self.decoder(encoded) if self.decoder is not None else encoded.hidden
        if self.decoder is not None:
            found["decoder"] = output
        if self.summary is not None:
            found["summary"] = torch.tanh(self.summary(encoded.hidden[:, 0]))
        if self.discriminator is not None:
            found["discriminator_logits"] = self.discriminator(output)
        return {name: tensor.float().cpu().numpy() for name, tensor in found.items()}
