"""Everything a checkpoint can compute for a batch, as float32 arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf

from funnel.checkpoints import Checkpoint
from funnel.config.model import ModelConfig
from funnel.features.feature_extraction import ModelParts, detect_parts
from funnel.utils.errors import CheckpointError
from funnel.utils.text import join_names
from funnel_tf.models.heads import discriminator_logits
from funnel_tf.models.modeling import ModelInputs, funnel_decoder, funnel_encoder, funnel_summary
from funnel_tf.models.options import GraphOptions
from funnel_tf.models.variables import assign_tensors

Ids = np.ndarray


class FeatureExtractor:
    """A checkpoint's weights in a session, with a graph for every length of input that comes."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        session_config: tf.ConfigProto | None = None,
        **changes: Any,
    ) -> None:
        """``changes`` are settings of the checkpoint's config.

        Raises:
            CheckpointError: weights are missing or of the wrong shape.
        """
        if checkpoint.config.rel_attn_type == "factorized":
            # The same function; factorized is the form for TPUs.
            changes.setdefault("rel_attn_type", "rel_shift")
        self.config: ModelConfig = checkpoint.config.replace(**changes)
        self.parts = detect_parts(checkpoint)
        self._graph = tf.Graph()
        self._session = tf.Session(graph=self._graph, config=session_config)
        self._built: dict[tuple, tuple[ModelInputs, dict[str, tf.Tensor]]] = {}
        self._build((2, False, False))
        with self._graph.as_default():
            report = assign_tensors(self._session, checkpoint.tensors)
        problems = [f"missing {name}" for name in report.missing]
        problems += [f"wrong shape: {text}" for text in report.mismatched]
        if problems:
            shown = join_names(problems, separator="; ")
            raise CheckpointError(f"{checkpoint.metadata.get('path')}: does not fit: {shown}")

    def extract(
        self, input_ids: Ids, token_type_ids: Ids | None = None, attention_mask: Ids | None = None
    ) -> dict[str, np.ndarray]:
        """The outputs for [B, T] arrays, of which the last two may be None (see the program)."""
        has = (attention_mask is not None, token_type_ids is not None)
        inputs, found = self._build((input_ids.shape[1], *has))
        padding = None if attention_mask is None else 1 - attention_mask
        arrays = (input_ids, padding, token_type_ids)
        feed = {
            placeholder: array
            for placeholder, array in zip(inputs, arrays, strict=True)
            if placeholder is not None
        }
        return self._session.run(found, feed)

    def _build(self, key: tuple) -> tuple[ModelInputs, dict[str, tf.Tensor]]:
        """The graph for inputs of a length, with or without mask and segments."""
        if key not in self._built:
            length, has_mask, has_segments = key
            with self._graph.as_default():
                inputs = ModelInputs(
                    tf.placeholder(tf.int32, [None, length]),
                    tf.placeholder(tf.float32, [None, length]) if has_mask else None,
                    tf.placeholder(tf.int32, [None, length]) if has_segments else None,
                )
                self._built[key] = inputs, feature_tensors(self.config, inputs, self.parts)
        return self._built[key]


def feature_tensors(
    config: ModelConfig, inputs: ModelInputs, parts: ModelParts
) -> dict[str, tf.Tensor]:
    """All outputs by name, each float32."""
    options = GraphOptions()
    encoded = funnel_encoder(config, inputs, options)
    found = {"embedding": encoded.hidden_states[0]}
    found |= {f"hidden_{i}": state for i, state in enumerate(encoded.hidden_states[1:])}
    output = encoded.output
    if parts.decoder:
        found["decoder"] = output = funnel_decoder(config, encoded, options)
    if parts.summary:
        found["summary"] = funnel_summary(config, encoded, options)
    if parts.discriminator:
        found["discriminator_logits"] = discriminator_logits(output, config, options)
    return found
