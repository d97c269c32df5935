"""Settings of the ONNX export; does not import PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from funnel.config.settings import setting
from funnel.utils.errors import ConfigError

# 14 is the first with all operations that attention needs, 20 the last the exporter writes.
OPSETS = range(14, 21)
TASK_NAMES = (
    *("encoder", "model", "classification", "regression", "multiple_choice"),
    *("token_classification", "mlm", "discriminator", "question_answering"),
)


@dataclass(frozen=True)
class ExportConfig:
    """The operator set, and the example that is recorded.

    The graph takes batches of any size and any length from its minimum on.
    """

    opset: int = setting(17, f"ONNX operator set, {OPSETS[0]} to {OPSETS[-1]}")
    batch: int = setting(2, "sequences of the recorded example")
    length: int | None = setting(
        None, "tokens of the recorded example; default: 16, or the minimum if that is more"
    )

    def __post_init__(self) -> None:
        if self.opset not in OPSETS:
            raise ConfigError(f"opset {self.opset}: should be {OPSETS[0]} to {OPSETS[-1]}")
        if self.batch < 1:
            raise ConfigError(f"batch {self.batch}: should be at least 1")
