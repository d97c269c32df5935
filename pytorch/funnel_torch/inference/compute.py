"""The outputs of a batch: by a PyTorch model, or by onnxruntime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from funnel.checkpoints import Checkpoint
from funnel.config.heads import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from funnel.config.model import ModelConfig
from funnel.features.squad_scoring import BEAM_FIELDS
from funnel.inference.encoding import Arrays
from funnel.inference.rows import MULTIPLE_CHOICE, QUESTION_ANSWERING, TOKEN_CLASSIFICATION
from funnel.inference.saved_model import ModelHead
from funnel.utils.errors import CheckpointError, ConfigError
from funnel.utils.files import sha256_file
from funnel_torch.data.batching import as_tensors, to_device
from funnel_torch.kernels.quantization import quantize_int8
from funnel_torch.models.heads import (
    FunnelForMultipleChoice,
    FunnelForSequenceClassification,
    FunnelForTokenClassification,
)
from funnel_torch.models.pretrained import PretrainedModel
from funnel_torch.models.question_answering import FunnelForQuestionAnswering

MODELS: dict[str, type[PretrainedModel]] = {
    SINGLE_LABEL: FunnelForSequenceClassification,
    MULTI_LABEL: FunnelForSequenceClassification,
    REGRESSION: FunnelForSequenceClassification,
    MULTIPLE_CHOICE: FunnelForMultipleChoice,
    TOKEN_CLASSIFICATION: FunnelForTokenClassification,
    QUESTION_ANSWERING: FunnelForQuestionAnswering,
}
# Tasks of an ONNX file that compute the outputs of a problem type.
_ONNX_TASKS = {
    SINGLE_LABEL: "classification",
    MULTI_LABEL: "classification",
    REGRESSION: "regression",
    MULTIPLE_CHOICE: MULTIPLE_CHOICE,
    TOKEN_CLASSIFICATION: TOKEN_CLASSIFICATION,
    QUESTION_ANSWERING: QUESTION_ANSWERING,
}


def output_names(problem_type: str) -> tuple[str, ...]:
    """Return the names of the outputs that predictions are made of."""
    return BEAM_FIELDS if problem_type == QUESTION_ANSWERING else ("logits",)


def load_model(
    checkpoint: Checkpoint, head: ModelHead, int8: bool, device: torch.device
) -> PretrainedModel:
    """Build the model of a checkpoint, ready to predict.

    Args:
        checkpoint: the weights.
        head: of the model.
        int8: quantize the linear layers; on the CPU only.
        device: that it computes on otherwise.

    Raises:
        CheckpointError: the checkpoint does not hold the model.
    """
    scope = {"cls_scope": head.scope} if head.scope else {}
    model = MODELS[head.problem_type].from_checkpoint(checkpoint, complete=True, **scope)
    return quantize_int8(model) if int8 else model.to(device)


class TorchModel:
    """Computes the outputs of batches with a PyTorch model."""

    def __init__(self, model: PretrainedModel, problem_type: str) -> None:
        self.model = model.eval()
        self._names = output_names(problem_type)
        self._device = next(model.parameters()).device
        self.on_gpu = self._device.type != "cpu"
        self.shortest = 1
        if isinstance(model, FunnelForQuestionAnswering):
            # The beam needs as many positions as it is wide.
            self.shortest = max(model.answers.start_n_top, model.answers.end_n_top)

    @torch.inference_mode()
    def __call__(self, arrays: Arrays) -> Arrays:
        """Return the outputs of a batch."""
        output = self.model(**to_device(as_tensors(arrays), self._device))
        found = {name: getattr(output, name) for name in self._names}
        return {name: tensor.cpu().numpy() for name, tensor in found.items()}


class OnnxModel:
    """Computes the outputs of batches with onnxruntime.

    Args:
        path: file that ``export_onnx.py`` wrote.
        head: head of the model the file was made of.
        vocabulary: file of its tokenizer.
        threads: of onnxruntime; None for its default.

    Raises:
        ConfigError: onnxruntime is missing, or the file is of another model.
        CheckpointError: the file cannot be read.
    """

    on_gpu = False

    def __init__(
        self, path: str | Path, head: ModelHead, vocabulary: str, threads: int | None = None
    ) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise ConfigError(
                "--onnx needs onnxruntime: pip install -r requirements/export.txt"
            ) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
            facts = self._session.get_modelmeta().custom_metadata_map
        except Exception as error:  # classes of its own, without a common base
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"{path}: no readable ONNX file: {reason}") from None
        self._check(path, facts, head, vocabulary)
        self.config = ModelConfig.from_dict(json.loads(facts["config"]))
        self.shortest = int(facts["minimum_length"])
        self._names = output_names(head.problem_type)
        self._inputs = {item.name for item in self._session.get_inputs()}

    @staticmethod
    def _check(path: str | Path, facts: dict[str, str], head: ModelHead, vocabulary: str) -> None:
        task, wanted = facts.get("task"), _ONNX_TASKS[head.problem_type]
        if "config" not in facts or "minimum_length" not in facts:
            raise ConfigError(f"{path}: was not written by export_onnx.py")
        if task != wanted:
            raise ConfigError(f"{path}: is a model for {task}, that of --model for {wanted}")
        labels = json.loads(facts.get("labels", "null"))
        if labels is not None and head.labels and tuple(labels) != head.labels:
            raise ConfigError(f"{path}: has other labels than --model")
        digest = facts.get("vocabulary_sha256")
        if digest is not None and digest != sha256_file(vocabulary):
            raise ConfigError(f"{path}: was exported with another vocabulary than {vocabulary}")

    def __call__(self, arrays: Arrays) -> Arrays:
        """Return the outputs of a batch."""
        feed: dict[str, Any] = {k: v for k, v in arrays.items() if k in self._inputs}
        values = self._session.run(list(self._names), feed)
        return {name: np.asarray(v) for name, v in zip(self._names, values, strict=True)}
