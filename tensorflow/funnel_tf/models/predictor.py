"""The outputs of a finished model for arrays, in a session with one graph per input length."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow.compat.v1 as tf

from funnel.checkpoints import Checkpoint
from funnel.config.heads import AnswerConfig
from funnel.config.model import ModelConfig
from funnel.features.squad_scoring import BEAM_FIELDS
from funnel.inference.rows import MULTIPLE_CHOICE, QUESTION_ANSWERING, TOKEN_CLASSIFICATION
from funnel.inference.saved_model import ModelHead
from funnel.utils.errors import CheckpointError, ConfigError
from funnel.utils.text import join_names
from funnel_tf.models.heads import classification_head, race_head
from funnel_tf.models.modeling import ModelInputs
from funnel_tf.models.options import GraphOptions
from funnel_tf.models.question_answering import squad_head
from funnel_tf.models.variables import assign_tensors

Arrays = Mapping[str, np.ndarray]
_FIRST_LENGTH = 8  # of the graph that creates the variables


class PredictionModel:
    """The weights of a checkpoint and its head.

    Args:
        checkpoint: any checkpoint with a head that there is a graph for.
        head: that head.
        session_config: devices and threads.

    Raises:
        ConfigError: there is no graph for the head.
        CheckpointError: weights are missing or have the wrong shape.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        head: ModelHead,
        session_config: tf.ConfigProto | None = None,
    ) -> None:
        if head.problem_type == TOKEN_CLASSIFICATION:
            raise ConfigError(
                f"{checkpoint.metadata.get('path')}: a token classification is predicted by "
                "pytorch/predict.py"
            )
        changes = {}
        if checkpoint.config.rel_attn_type == "factorized":
            # The same function; the factorized form is slower on anything but a TPU.
            changes["rel_attn_type"] = "rel_shift"
        self.config: ModelConfig = checkpoint.config.replace(**changes)
        self._head, tensors = head, checkpoint.tensors
        self._answers = AnswerConfig(
            conditional_end="model/end_logits/dense_0/kernel" in tensors,
            use_answer_class="model/answer_class/dense_0/kernel" in tensors,
        )
        self.shortest = 1
        if head.problem_type == QUESTION_ANSWERING:
            # The beam needs as many positions as it is wide.
            self.shortest = max(self._answers.start_n_top, self._answers.end_n_top)
        self._graph = tf.Graph()
        self._session = tf.Session(graph=self._graph, config=session_config)
        self._built: dict[int, tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]] = {}
        self._build(_FIRST_LENGTH)
        with self._graph.as_default():
            report = assign_tensors(self._session, tensors)
        problems = [f"missing {name}" for name in report.missing]
        problems += [f"wrong shape: {text}" for text in report.mismatched]
        if problems:
            shown = join_names(problems, separator="; ")
            raise CheckpointError(f"{checkpoint.metadata.get('path')}: does not fit: {shown}")

    def __call__(self, arrays: Arrays) -> dict[str, np.ndarray]:
        """Return the outputs of a batch of sequences [B, T], or of options [B, 1, T]."""
        length = arrays["input_ids"].shape[-1]
        placeholders, outputs = self._build(length)
        feed = {
            placeholder: arrays[name].reshape(-1, length)
            for name, placeholder in placeholders.items()
        }
        return self._session.run(outputs, feed)

    def _build(self, length: int) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        """Build the graph for a length, or reuse it."""
        if length not in self._built:
            with self._graph.as_default():
                placeholders = {
                    "input_ids": tf.placeholder(tf.int32, [None, length]),
                    "attention_mask": tf.placeholder(tf.float32, [None, length]),
                    "token_type_ids": tf.placeholder(tf.int32, [None, length]),
                }
                inputs = ModelInputs(*placeholders.values())
                if self._head.problem_type == QUESTION_ANSWERING:
                    placeholders["p_mask"] = tf.placeholder(tf.float32, [None, length])
                self._built[length] = placeholders, self._outputs(inputs, placeholders)
        return self._built[length]

    def _outputs(
        self, inputs: ModelInputs, features: Mapping[str, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        config, options, head = self.config, GraphOptions(), self._head
        if head.problem_type == QUESTION_ANSWERING:
            masks = {"p_mask": features["p_mask"]}
            found = squad_head(config, inputs, masks, options, self._answers).predictions()
            return {name: found[name] for name in BEAM_FIELDS}
        if head.problem_type == MULTIPLE_CHOICE:
            return {"logits": race_head(config, inputs, None, None, options, num_choices=1).logits}
        count = head.num_outputs
        found = classification_head(
            config, inputs, None, None, options, num_labels=count, scope=head.scope
        )
        return {"logits": found.logits}
