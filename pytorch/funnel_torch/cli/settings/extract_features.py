"""Settings of ``extract_features.py``; does not import PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from funnel.cli.feature_extraction import ExtractionSettings
from funnel.config.settings import group, setting
from funnel_torch.kernels.config import KernelSettings


@dataclass(frozen=True)
class QuantizationSettings:
    """The number format of the weights, and the device."""

    int8: bool = setting(False, "8-bit linear layers; on the CPU")
    device: str = setting(
        "auto", "cpu, cuda, cuda:N or mps (Apple's GPU); auto: CUDA GPU device_id, else the CPU"
    )


@dataclass(frozen=True)
class TorchExtractionSettings(ExtractionSettings):
    """The settings of both backends, and those of this one."""

    quantization: QuantizationSettings = group("run", QuantizationSettings)
    kernels: KernelSettings = group("run", KernelSettings)
