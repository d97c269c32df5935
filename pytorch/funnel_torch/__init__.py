"""The Funnel-Transformer in PyTorch: model, heads, loading and saving, fine-tuning."""

from funnel_torch.answering import AnswerConfig, AnswerTargets, FunnelForQuestionAnswering
from funnel_torch.heads import (
    FunnelForMaskedLM,
    FunnelForMultipleChoice,
    FunnelForPreTraining,
    FunnelForSequenceClassification,
    FunnelForTokenClassification,
)
from funnel_torch.modeling import FunnelEncoder, FunnelModel
from funnel_torch.pretraining import (
    ElectraPretraining,
    MLMPretraining,
    PretrainingBatch,
    PretrainingConfig,
)

__all__ = [
    "AnswerConfig",
    "AnswerTargets",
    "ElectraPretraining",
    "FunnelEncoder",
    "FunnelForMaskedLM",
    "FunnelForMultipleChoice",
    "FunnelForPreTraining",
    "FunnelForQuestionAnswering",
    "FunnelForSequenceClassification",
    "FunnelForTokenClassification",
    "FunnelModel",
    "MLMPretraining",
    "PretrainingBatch",
    "PretrainingConfig",
]
