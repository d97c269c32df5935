"""Task heads on the encoder (one vector per sequence) or the decoder (one per token)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from funnel.checkpoints import Checkpoint
from funnel.checkpoints.names import SUMMARY, TOKEN_LOGITS
from funnel.config.model import ModelConfig
from funnel_torch.models.initialization import initialize
from funnel_torch.models.layers import activation, gelu
from funnel_torch.models.modeling import FunnelEncoder, FunnelModel
from funnel_torch.models.pretrained import PretrainedModel

# Target of a position that takes no part in a loss, as in torch's cross entropy.
IGNORED = -100


class HeadOutput(NamedTuple):
    """Loss (a mean; None without labels) and logits in fp32."""

    loss: Tensor | None
    logits: Tensor


def token_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy of [B, T, C] logits over the labels [B, T] that are not ignored.

    Without any such label it is 0, not NaN: a batch may have nothing to predict.
    """
    flat = labels.flatten()
    total = F.cross_entropy(logits.flatten(0, 1), flat, ignore_index=IGNORED, reduction="sum")
    return total / (flat != IGNORED).sum().clamp(min=1)


class ClassificationHead(nn.Module):
    """Summary of the first position, ``tanh(W h[0] + b)``, then dropout and a dense layer."""

    def __init__(self, config: ModelConfig, num_labels: int) -> None:
        super().__init__()
        self.linear_hidden = nn.Linear(config.d_model, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.linear_out = nn.Linear(config.d_model, num_labels)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, T', D] to [B, num_labels]."""
        summary = torch.tanh(self.linear_hidden(hidden[:, 0]))
        return self.linear_out(self.dropout(summary)).float()


SUMMARY_SCOPE = {
    "classifier.linear_hidden": SUMMARY.removeprefix("model/"),
}
_CLASSIFIER = re.compile(r"model/(?P<scope>.+)/logit/kernel")


def _classifiers(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The output kernels of classification heads [D, num_labels] by their scope."""
    matches = ((_CLASSIFIER.fullmatch(name), array) for name, array in tensors.items())
    return {match["scope"]: array for match, array in matches if match}


class FunnelForSequenceClassification(PretrainedModel):
    """A label or (``regression``) a number for every sequence."""

    architecture = "FunnelForSequenceClassification"

    def __init__(
        self,
        config: ModelConfig,
        num_labels: int = 2,
        regression: bool = False,
        cls_scope: str = "classification",
    ) -> None:
        """``cls_scope`` names the head in TensorFlow checkpoints (there: the task)."""
        super().__init__(config)
        self.num_labels, self.regression, self.cls_scope = num_labels, regression, cls_scope
        self.funnel = FunnelEncoder(config)
        self.classifier = ClassificationHead(config, num_labels)
        initialize(self.classifier, config)

    @classmethod
    def head_arguments(cls, checkpoint: Checkpoint) -> dict[str, Any]:
        """Number of labels, kind of problem and scope of the head that was saved."""
        arguments: dict[str, Any] = {}
        for scope, kernel in _classifiers(checkpoint.tensors).items():
            arguments = {"num_labels": kernel.shape[1], "cls_scope": scope}
        if checkpoint.metadata.get("problem_type") == "regression":
            arguments["regression"] = True
        return arguments

    def head_metadata(self) -> dict[str, Any]:
        """Number of labels, kind of problem and scope."""
        kind = "regression" if self.regression else "single_label_classification"
        return {"num_labels": self.num_labels, "problem_type": kind, "cls_scope": self.cls_scope}

    def variable_scopes(self) -> dict[str, str]:
        """See the base class."""
        return SUMMARY_SCOPE | {"classifier.linear_out": f"{self.cls_scope}/logit"}

    def adapt_tensors(self, tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Take the only head there is, whatever its task was called."""
        found = list(_classifiers(tensors))
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
        """Classify; ``labels`` [B] are class ids, or numbers for regression.

        The loss is cross entropy, or the squared error of a regression.
        """
        hidden = self.funnel(input_ids, attention_mask, token_type_ids).last_hidden_state
        logits = self.classifier(hidden)
        loss = None
        if labels is not None and self.regression:
            loss = F.mse_loss(logits[:, 0], labels.float())
        elif labels is not None:
            loss = F.cross_entropy(logits, labels)
        return HeadOutput(loss, logits)


class FunnelForMultipleChoice(PretrainedModel):
    """One of several candidate sequences per question (RACE)."""

    architecture = "FunnelForMultipleChoice"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.funnel = FunnelEncoder(config)
        self.classifier = ClassificationHead(config, 1)
        initialize(self.classifier, config)

    def variable_scopes(self) -> dict[str, str]:
        """See the base class."""
        return SUMMARY_SCOPE | {"classifier.linear_out": "race/logits"}

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> HeadOutput:
        """Score [B, C, T] candidates; logits [B, C], ``labels`` [B] the right candidate."""
        inputs = (input_ids, attention_mask, token_type_ids)
        flat = (None if x is None else x.flatten(0, 1) for x in inputs)
        logits = self.classifier(self.funnel(*flat).last_hidden_state)
        logits = logits.view(input_ids.shape[:2])
        return HeadOutput(None if labels is None else F.cross_entropy(logits, labels), logits)


class FunnelForTokenClassification(PretrainedModel):
    """A label for every token."""

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
        """Number of labels of the head that was saved."""
        kernel = checkpoint.tensors.get(f"{TOKEN_LOGITS}/kernel")
        return {} if kernel is None else {"num_labels": kernel.shape[1]}

    def head_metadata(self) -> dict[str, Any]:
        """Number of labels."""
        return {"num_labels": self.num_labels}

    def variable_scopes(self) -> dict[str, str]:
        """See the base class."""
        return {"classifier": "token_classification/logits"}

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> HeadOutput:
        """Logits [B, T, num_labels]; ``labels`` [B, T], :data:`IGNORED` where there is none."""
        hidden = self.funnel(input_ids, attention_mask, token_type_ids).last_hidden_state
        logits = self.classifier(self.dropout(hidden)).float()
        loss = None
        if labels is not None:
            loss = token_cross_entropy(logits, labels)
        return HeadOutput(loss, logits)


class MaskedLMHead(nn.Module):
    """Projection to the embedding's width; the product with the tied table gives the logits."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.d_model, config.d_embed)
        self.activation = activation(config.ff_activation)
        self.layer_norm = nn.LayerNorm(config.d_embed, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.empty(config.vocab_size))

    def forward(self, hidden: Tensor, table: Tensor) -> Tensor:
        """[..., D] and the [V, E] embedding table to [..., V]."""
        projected = self.layer_norm(self.activation(self.dense(hidden)))
        return F.linear(projected, table, self.bias).float()


MASKED_LM_SCOPES = {
    "lm_head.dense": "lm_proj/dense",
    "lm_head.layer_norm": "lm_proj/layer_norm",
    "lm_head.bias": "lm_loss/bias",
}


class FunnelForMaskedLM(PretrainedModel):
    """Predicts tokens from the decoder's output."""

    architecture = "FunnelForMaskedLM"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.funnel = FunnelModel(config)
        self.lm_head = MaskedLMHead(config)
        initialize(self.lm_head, config)

    def variable_scopes(self) -> dict[str, str]:
        """See the base class."""
        return MASKED_LM_SCOPES

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        target_positions: Tensor | None = None,
    ) -> HeadOutput:
        """Logits for every position, or only for ``target_positions``.

        Args:
            input_ids: [B, T].
            attention_mask: [B, T], 1 for a real token.
            token_type_ids: [B, T].
            labels: token ids [B, T] ([B, P] with ``target_positions``), :data:`IGNORED` where
                nothing is to be predicted.
            target_positions: [B, P] indices into T; logits are then [B, P, V], which saves the
                product with the vocabulary everywhere else.
        """
        hidden = self.funnel(input_ids, attention_mask, token_type_ids).last_hidden_state
        if target_positions is not None:
            index = target_positions[..., None].expand(-1, -1, hidden.shape[-1])
            hidden = hidden.gather(1, index)
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
    """ELECTRA's judgement per token: a positive logit means *original*."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.d_model, config.d_model)
        self.weight = nn.Parameter(torch.empty(config.d_model))
        self.bias = nn.Parameter(torch.empty(1))

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, T, D] to [B, T]."""
        return (torch.matmul(gelu(self.dense(hidden)), self.weight) + self.bias).float()


class FunnelForPreTraining(PretrainedModel):
    """The ELECTRA discriminator: tells original tokens from replaced ones."""

    architecture = "FunnelForPreTraining"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.funnel = FunnelModel(config)
        self.discriminator = DiscriminatorHead(config)
        initialize(self.discriminator, config)

    def variable_scopes(self) -> dict[str, str]:
        """See the base class."""
        return DISCRIMINATOR_SCOPES

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> HeadOutput:
        """Logits [B, T], positive for original; ``labels`` [B, T], 1 = original, 0 = replaced.

        The loss is averaged over real tokens. Hugging Face's convention is the opposite; files
        in its layout carry the negated last layer.
        """
        hidden = self.funnel(input_ids, attention_mask, token_type_ids).last_hidden_state
        logits = self.discriminator(hidden)
        loss = None
        if labels is not None:
            losses = F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none")
            weights = torch.ones_like(losses) if attention_mask is None else attention_mask.float()
            loss = (losses * weights).sum() / weights.sum().clamp(min=1)
        return HeadOutput(loss, logits)
