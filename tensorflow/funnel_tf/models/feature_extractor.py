"""Compute the hidden states and head outputs of a checkpoint as float32 arrays."""

from __future__ import annotations

from collections.abc import Collection
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
    """The weights of a checkpoint in a session, with one graph per input length."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        session_config: tf.ConfigProto | None = None,
        **changes: Any,
    ) -> None:
        """Load the weights.

        Args:
            checkpoint: any checkpoint with an encoder.
            session_config: devices and threads.
            **changes: settings that replace those of the checkpoint's config.

        Raises:
            CheckpointError: weights are missing or have the wrong shape.
        """
        if checkpoint.config.rel_attn_type == "factorized":
            # The same function; the factorized form is slower on anything but a TPU.
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
        self,
        input_ids: Ids,
        token_type_ids: Ids | None = None,
        attention_mask: Ids | None = None,
        names: Collection[str] | None = None,
    ) -> dict[str, np.ndarray]:
        """Compute outputs for integer arrays [B, T].

        Args:
            input_ids: token ids.
            token_type_ids: 0 first segment, 1 second, 2 [CLS]; None for no segments.
            attention_mask: 1 for a real token, 0 for padding; None for no padding.
            names: the outputs to compute; None is all.
        """
        arrays = (input_ids, attention_mask, token_type_ids)
        key = (input_ids.shape[1], attention_mask is not None, token_type_ids is not None)
        inputs, outputs = self._build(key)
        feed = {
            placeholder: array
            for placeholder, array in zip(inputs, arrays, strict=True)
            if placeholder is not None
        }
        chosen = outputs if names is None else {name: outputs[name] for name in names}
        return self._session.run(chosen, feed)

    def _build(self, key: tuple[int, bool, bool]) -> tuple[ModelInputs, dict[str, tf.Tensor]]:
        """Build the graph for a length, with or without mask and segments, or reuse it."""
        if key not in self._built:
            length, has_mask, has_segments = key
            with self._graph.as_default():
                inputs = ModelInputs(
                    tf.placeholder(tf.int32, [None, length]),
                    tf.placeholder(tf.float32, [None, length]) if has_mask else None,
                    tf.placeholder(tf.int32, [None, length]) if has_segments else None,
                )
                self._built[key] = inputs, build_outputs(self.config, inputs, self.parts)
        return self._built[key]


def build_outputs(
    config: ModelConfig, inputs: ModelInputs, parts: ModelParts
) -> dict[str, tf.Tensor]:
    """Build the float32 tensors of all outputs that ``parts`` has weights for, by name."""
    options = GraphOptions()
    encoded = funnel_encoder(config, inputs, options)
    outputs = {"embedding": encoded.hidden_states[0]}
    outputs |= {f"hidden_{i}": state for i, state in enumerate(encoded.hidden_states[1:])}
    final = encoded.output
    if parts.decoder:
        outputs["decoder"] = final = funnel_decoder(config, encoded, options)
    if parts.summary:
        outputs["summary"] = funnel_summary(config, encoded, options)
    if parts.discriminator:
        outputs["discriminator_logits"] = discriminator_logits(final, config, options)
    return outputs
