"""Funnel-Transformer in PyTorch: models with heads, loading and saving, training, export.

The names below are imported from their modules on first use (PEP 562), so that ``import
funnel_torch`` and its command-line modules do not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from funnel import __version__

if TYPE_CHECKING:
    from funnel.config.heads import AnswerConfig, PretrainingConfig
    from funnel_torch.inference.predictor import Predictor
    from funnel_torch.models.electra import ElectraPretraining, MLMPretraining, PretrainingBatch
    from funnel_torch.models.heads import (
        FunnelForMaskedLM,
        FunnelForMultipleChoice,
        FunnelForPreTraining,
        FunnelForSequenceClassification,
        FunnelForTokenClassification,
    )
    from funnel_torch.models.modeling import FunnelEncoder, FunnelModel
    from funnel_torch.models.question_answering import AnswerTargets, FunnelForQuestionAnswering

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
    "Predictor",
    "PretrainingBatch",
    "PretrainingConfig",
    "__version__",
]

_MODULES = {
    "AnswerConfig": "funnel.config.heads",
    "AnswerTargets": "funnel_torch.models.question_answering",
    "ElectraPretraining": "funnel_torch.models.electra",
    "FunnelEncoder": "funnel_torch.models.modeling",
    "FunnelForMaskedLM": "funnel_torch.models.heads",
    "FunnelForMultipleChoice": "funnel_torch.models.heads",
    "FunnelForPreTraining": "funnel_torch.models.heads",
    "FunnelForQuestionAnswering": "funnel_torch.models.question_answering",
    "FunnelForSequenceClassification": "funnel_torch.models.heads",
    "FunnelForTokenClassification": "funnel_torch.models.heads",
    "FunnelModel": "funnel_torch.models.modeling",
    "MLMPretraining": "funnel_torch.models.electra",
    "Predictor": "funnel_torch.inference.predictor",
    "PretrainingBatch": "funnel_torch.models.electra",
    "PretrainingConfig": "funnel.config.heads",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first access."""
    if name not in _MODULES:
        raise AttributeError(f"module 'funnel_torch' has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List public names that are not imported yet, too."""
    return sorted(set(globals()) | set(__all__))
