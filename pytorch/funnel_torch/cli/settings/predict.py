"""Settings of ``predict.py``; does not import PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from funnel.cli.predict import PredictSettings
from funnel.config.settings import group, setting
from funnel.utils.errors import ConfigError


@dataclass(frozen=True)
class ComputeSettings:
    """Device and number format."""

    device_id: int = setting(0, "GPU to use, if there is one; -1 for the CPU")
    int8: bool = setting(False, "8-bit linear layers, on the CPU")
    onnx: str = setting("", "compute with this ONNX file of the model, on the CPU")

    def __post_init__(self) -> None:
        if self.int8 and self.onnx:
            raise ConfigError("--int8 and --onnx exclude each other: the file has its own weights")


@dataclass(frozen=True)
class TorchPredictSettings(PredictSettings):
    """The settings of both backends, and those of this one."""

    compute: ComputeSettings = group("run", ComputeSettings)
