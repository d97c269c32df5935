"""The Funnel-Transformer in PyTorch: model, heads, loading and saving, fine-tuning."""

from funnel import __version__
from funnel_torch.models.electra import (
    ElectraPretraining,
    MLMPretraining,
    PretrainingBatch,
    PretrainingConfig,
)
from funnel_torch.models.heads import (
    FunnelForMaskedLM,
    FunnelForMultipleChoice,
    FunnelForPreTraining,
    FunnelForSequenceClassification,
    FunnelForTokenClassification,
)
from funnel_torch.models.modeling import FunnelEncoder, FunnelModel
from funnel_torch.models.question_answering import (
    AnswerConfig,
    AnswerTargets,
    FunnelForQuestionAnswering,
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
    "__version__",
]
