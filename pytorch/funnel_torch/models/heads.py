"""Task heads: on the encoder's [CLS] vector, or on the decoder's vector of every token."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from funnel.checkpoints import Checkpoint
from funnel.checkpoints.names import LM_BIAS, LM_PROJECTION, SUMMARY, TOKEN_LOGITS
from funnel.checkpoints.saved_head import describe_heads
from funnel.config.heads import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from funnel.config.model import ModelConfig
from funnel.config.training.losses import PLAIN_LOSS
from funnel.utils.errors import ConfigError
from funnel_torch.models.initialization import initialize
from funnel_torch.models.layers import gelu, get_activation, select_positions
from funnel_torch.models.losses import cross_entropy, sequence_loss, token_cross_entropy
from funnel_torch.models.modeling import FunnelEncoder, FunnelModel
from funnel_torch.models.pretrained import PretrainedModel


class HeadOutput(NamedTuple):
    """Loss (a mean; None without labels) and float32 logits."""

    loss: Tensor | None
    logits: Tensor


class ClassificationHead(nn.Module):
    """Summary of the first position, ``tanh(W h[0] + b)``, then dropout and a linear layer."""

    def __init__(self, config: ModelConfig, num_labels: int) -> None:
        super().__init__()
        self.linear_hidden = nn.Linear(config.d_model, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.linear_out = nn.Linear(config.d_model, num_labels)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map [B, T', D] to logits [B, num_labels]."""
        summary = torch.tanh(self.linear_hidden(hidden[:, 0]))
        return self.linear_out(self.dropout(summary)).float()


SUMMARY_SCOPE = {
    # Misspelled in all released checkpoints, so part of the format.
    "classifier.linear_hidden": SUMMARY.removeprefix("model/"),
}
_CLASSIFIER = re.compile(r"model/(?P<scope>.+)/logit/kernel")


def _find_classifiers(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the output kernels [D, num_labels] of classification heads by variable scope."""
    matches = ((_CLASSIFIER.fullmatch(name), array) for name, array in tensors.items())
    return {match["scope"]: array for match, array in matches if match}


class FunnelForSequenceClassification(PretrainedModel):
    """Classifies a sequence, or predicts a number for it (``regression``).

    The problem types are those of transformers' ``problem_type``; a saved head of one output that
    states none is a regression.

    Args:
        config: of the encoder.
        num_labels: number of classes or, in regression, of numbers (one for the tasks here).
        regression: whether labels are numbers.
        cls_scope: name of the head in TensorFlow checkpoints, where it is the task's.
        multi_label: whether several classes can hold at a time.

    Attributes:
        label_loss: weights and smoothing of labels in the loss; may be set before training.
    """

    architecture = "FunnelForSequenceClassification"

    def __init__(
        self,
        config: ModelConfig,
        num_labels: int = 2,
        regression: bool = False,
        cls_scope: str = "classification",
        multi_label: bool = False,
    ) -> None:
        super().__init__(config)
        self.num_labels, self.regression, self.cls_scope = num_labels, regression, cls_scope
        problem_type = MULTI_LABEL if multi_label else SINGLE_LABEL
        self.problem_type = REGRESSION if regression else problem_type
        self.multi_label, self.label_loss = multi_label, PLAIN_LOSS
        self.funnel = FunnelEncoder(config)
        self.classifier = ClassificationHead(config, num_labels)
        initialize(self.classifier, config)

    @classmethod
    def head_arguments(cls, checkpoint: Checkpoint) -> dict[str, Any]:
        """Return number of labels, problem type and scope of the saved head."""
        arguments: dict[str, Any] = {}
        for scope, kernel in _find_classifiers(checkpoint.tensors).items():
            arguments = {"num_labels": kernel.shape[1], "cls_scope": scope}
        heads = describe_heads(checkpoint)
        if (head := heads.get(arguments.get("cls_scope", ""))) is not None:
            arguments["regression"] = head.is_regression
            arguments["multi_label"] = head.problem_type == MULTI_LABEL
        return arguments

    def head_metadata(self) -> dict[str, Any]:
        """Return number of labels, problem type and scope."""
        return {
            "num_labels": self.num_labels,
            "problem_type": self.problem_type,
            "cls_scope": self.cls_scope,
        }

    def variable_scopes(self) -> dict[str, str]:
        """Return the variable scope of each head module."""
        return SUMMARY_SCOPE | {"classifier.linear_out": f"{self.cls_scope}/logit"}

    def adapt_tensors(self, tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Rename the checkpoint's only classification head to this model's scope."""
        found = list(_find_classifiers(tensors))
        if len(found) != 1 or found[0] == self.cls_scope:
            return tensors
        old, new = f"model/{found[0]}/logit/", f"model/{self.cls_scope}/logit/"
        return {name.replace(old, new): array for name, array in tensors.items()}

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> HeadOutput:
        """Compute logits [B, num_labels], and the loss if labels are given.

        Args:
            input_ids: [B, T].
            attention_mask: [B, T], 1 for a real token.
            token_type_ids: [B, T].
            labels: class ids [B] (loss: cross entropy); numbers [B] (or [B, num_labels]) for
                regression (loss: squared error); 0 or 1 for every class [B, num_labels] for
                several labels (loss: binary cross entropy).
        """
        inputs = (input_ids, attention_mask, token_type_ids)
        logits = self.classifier(self.funnel(*inputs, first_only=True).last_hidden_state)
        loss = None
        if labels is not None:
            loss = sequence_loss(logits, labels, self.problem_type, self.label_loss)
        return HeadOutput(loss, logits)


class FunnelForMultipleChoice(PretrainedModel):
    """Selects one of several candidate sequences per question (RACE)."""

    architecture = "FunnelForMultipleChoice"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.funnel = FunnelEncoder(config)
        self.classifier = ClassificationHead(config, 1)
        initialize(self.classifier, config)

    def variable_scopes(self) -> dict[str, str]:
        """Return the variable scope of each head module."""
        return SUMMARY_SCOPE | {"classifier.linear_out": "race/logits"}

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> HeadOutput:
        """Score candidates [B, C, T]: logits [B, C]; ``labels`` [B] index the right candidate."""
        inputs = (input_ids, attention_mask, token_type_ids)
        flat = (None if x is None else x.flatten(0, 1) for x in inputs)
        logits = self.classifier(self.funnel(*flat, first_only=True).last_hidden_state)
        logits = logits.view(input_ids.shape[:2])
        return HeadOutput(None if labels is None else cross_entropy(logits, labels), logits)


class FunnelForTokenClassification(PretrainedModel):
    """Classifies every token."""

    architecture = "FunnelForTokenClassification"

    def __init__(self, config: ModelConfig, num_labels: int = 2) -> None:
        super().__init__(config)
        self.num_labels = num_labels
        self.funnel = FunnelModel(config)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.d_model, num_labels)
        initialize(self.classifier, config)

    @classmethod
    def head_arguments(cls, checkpoint: Checkpoint) -> dict[str, Any]:
        """Return the number of labels of the saved head."""
        kernel = checkpoint.tensors.get(f"{TOKEN_LOGITS}/kernel")
        return {} if kernel is None else {"num_labels": kernel.shape[1]}

    def head_metadata(self) -> dict[str, Any]:
        """Return the number of labels."""
        return {"num_labels": self.num_labels}

    def variable_scopes(self) -> dict[str, str]:
        """Return the variable scope of each head module."""
        return {"classifier": "token_classification/logits"}

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        word_positions: Tensor | None = None,
    ) -> HeadOutput:
        """Compute logits [B, T, num_labels]; ``labels`` [B, T] may hold :data:`IGNORED`.

        With ``word_positions`` [B, W], indices into T, logits and labels are those of these
        positions, [B, W, num_labels] and [B, W].
        """
        hidden = self.funnel(input_ids, attention_mask, token_type_ids).last_hidden_state
        if word_positions is not None:
            hidden = select_positions(hidden, word_positions)
        logits = self.classifier(self.dropout(hidden)).float()
        loss = None
        if labels is not None:
            loss = token_cross_entropy(logits, labels)
        return HeadOutput(loss, logits)


class MaskedLMHead(nn.Module):
    """Projection to the embedding width, then the output layer tied to the embeddings.

    Without ``projection`` it is the head of ``transformers``: the output layer alone.
    """

    def __init__(self, config: ModelConfig, projection: bool = True) -> None:
        super().__init__()
        if not projection and config.d_embed != config.d_model:
            raise ConfigError(
                f"d_embed: {config.d_embed} must be d_model {config.d_model} for a masked-LM head "
                "without a projection"
            )
        self.projection = projection
        if projection:
            self.dense = nn.Linear(config.d_model, config.d_embed)
            self.activation = get_activation(config.ff_activation)
            self.layer_norm = nn.LayerNorm(config.d_embed, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.empty(config.vocab_size))

    def forward(self, hidden: Tensor, word_embeddings: Tensor) -> Tensor:
        """Map [..., D] to logits [..., V] by the word embeddings [V, E]."""
        if self.projection:
            hidden = self.layer_norm(self.activation(self.dense(hidden)))
        return F.linear(hidden, word_embeddings, self.bias).float()


def masked_lm_arguments(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the argument ``projection`` of the head saved in a checkpoint; nothing without one."""
    tensors = checkpoint.tensors
    return {"projection": LM_PROJECTION in tensors} if LM_BIAS in tensors else {}


MASKED_LM_SCOPES = {
    "lm_head.dense": "lm_proj/dense",
    "lm_head.layer_norm": "lm_proj/layer_norm",
    "lm_head.bias": "lm_loss/bias",
}


class FunnelForMaskedLM(PretrainedModel):
    """Masked language model: predicts tokens from the decoder's output.

    Args:
        config: of the model.
        projection: whether the head has a dense layer, see :class:`MaskedLMHead`.
    """

    architecture = "FunnelForMaskedLM"

    def __init__(self, config: ModelConfig, projection: bool = True) -> None:
        super().__init__(config)
        self.funnel = FunnelModel(config)
        self.lm_head = MaskedLMHead(config, projection)
        initialize(self.lm_head, config)

    @classmethod
    def head_arguments(cls, checkpoint: Checkpoint) -> dict[str, Any]:
        """Return whether the saved head has a projection."""
        return masked_lm_arguments(checkpoint)

    def variable_scopes(self) -> dict[str, str]:
        """Return the variable scope of each head module."""
        return MASKED_LM_SCOPES

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        target_positions: Tensor | None = None,
    ) -> HeadOutput:
        """Compute logits [B, T, V] for every position, or for ``target_positions`` only.

        Args:
            input_ids: [B, T].
            attention_mask: [B, T], 1 for a real token.
            token_type_ids: [B, T].
            labels: token ids [B, T] ([B, P] with ``target_positions``), :data:`IGNORED` at
                positions without a prediction.
            target_positions: [B, P] indices into T; logits are then [B, P, V], which saves the
                output layer, the most expensive one, everywhere else.
        """
        hidden = self.funnel(input_ids, attention_mask, token_type_ids).last_hidden_state
        if target_positions is not None:
            hidden = select_positions(hidden, target_positions)
        logits = self.lm_head(hidden, self.funnel.embeddings.word_embeddings.weight)
        loss = None
        if labels is not None:
            loss = token_cross_entropy(logits, labels)
        return HeadOutput(loss, logits)


DISCRIMINATOR_SCOPES = {
    "discriminator.dense": "binary_proj/dense",
    "discriminator.weight": "binary_loss/weight",
    "discriminator.bias": "binary_loss/bias",
}


class DiscriminatorHead(nn.Module):
    """ELECTRA's classifier of tokens: a positive logit means *original*."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.d_model, config.d_model)
        self.weight = nn.Parameter(torch.empty(config.d_model))
        self.bias = nn.Parameter(torch.empty(1))

    def forward(self, hidden: Tensor) -> Tensor:
        """Map [B, T, D] to logits [B, T]."""
        # GELU whatever ff_activation is, as in the original.
        return (torch.matmul(gelu(self.dense(hidden)), self.weight) + self.bias).float()


class FunnelForPreTraining(PretrainedModel):
    """ELECTRA discriminator: distinguishes original tokens from replaced ones."""

    architecture = "FunnelForPreTraining"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.funnel = FunnelModel(config)
        self.discriminator = DiscriminatorHead(config)
        initialize(self.discriminator, config)

    def variable_scopes(self) -> dict[str, str]:
        """Return the variable scope of each head module."""
        return DISCRIMINATOR_SCOPES

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> HeadOutput:
        """Compute logits [B, T], positive for original tokens.

        Hugging Face's convention is the opposite; files in its layout contain the negated last
        layer.

        Args:
            input_ids: [B, T].
            attention_mask: [B, T], 1 for a real token; the loss is averaged over these.
            token_type_ids: [B, T].
            labels: [B, T], 1 = original, 0 = replaced.
        """
        hidden = self.funnel(input_ids, attention_mask, token_type_ids).last_hidden_state
        logits = self.discriminator(hidden)
        loss = None
        if labels is not None:
            losses = F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none")
            weights = torch.ones_like(losses) if attention_mask is None else attention_mask.float()
            loss = (losses * weights).sum() / weights.sum().clamp(min=1)
        return HeadOutput(loss, logits)
