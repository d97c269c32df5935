"""Settings of an ONNX export; without torch, so that the command line loads fast."""

from __future__ import annotations

from dataclasses import dataclass

from funnel.utils.errors import ConfigError

# 14 is the first with all operators that attention needs, 20 the last that the exporter writes.
OPSETS = range(14, 21)
# Kinds of models that can be exported, the keys of :data:`funnel_torch.export.onnx.TASKS`.
TASK_NAMES = (
    "classification",
    "regression",
    "multiple_choice",
    "token_classification",
    "question_answering",
    "discriminator",
    "mlm",
    "model",
    "encoder",
)


@dataclass(frozen=True)
class ExportConfig:
    """Settings of an export.

    Attributes:
        opset: ONNX operator set, one of :data:`OPSETS`.
        batch: batch size of the traced example; the graph takes any.
        length: length in tokens of the traced example; the graph takes any from its minimum on.
            None means 16, or the minimum if that is larger.
    """

    opset: int = 17
    batch: int = 2
    length: int | None = None

    def __post_init__(self) -> None:
        if self.opset not in OPSETS:
            raise ConfigError(f"opset {self.opset}: should be {OPSETS[0]} to {OPSETS[-1]}")
        if self.batch < 1:
            raise ConfigError(f"batch {self.batch}: should be at least 1")


DEFAULT_EXPORT = ExportConfig()
