"""The Funnel-Transformer in PyTorch: model, heads, loading and saving, fine-tuning.

The classes are imported on first use (PEP 562), so that modules without PyTorch in them, such as
the settings of the programs, load at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_MODULES = {
    "AnswerConfig": "question_answering",
    "AnswerTargets": "question_answering",
    "ElectraPretraining": "electra",
    "FunnelEncoder": "modeling",
    "FunnelForMaskedLM": "heads",
    "FunnelForMultipleChoice": "heads",
    "FunnelForPreTraining": "heads",
    "FunnelForQuestionAnswering": "question_answering",
    "FunnelForSequenceClassification": "heads",
    "FunnelForTokenClassification": "heads",
    "FunnelModel": "modeling",
    "MLMPretraining": "electra",
    "PretrainingBatch": "electra",
    "PretrainingConfig": "electra",
}

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


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.models.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
