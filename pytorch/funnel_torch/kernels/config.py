"""Settings of kernels that have several implementations; does not import PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from funnel.config.settings import setting
from funnel.utils.errors import ConfigError

AUTO, MKL, ONEDNN = "auto", "mkl", "onednn"
LINEAR_BACKENDS = (AUTO, MKL, ONEDNN)


@dataclass(frozen=True)
class KernelSettings:
    """The implementations that run on a CPU; their results are equal up to rounding.

    A run that resumes takes the choices of its checkpoint where the settings are ``auto``.

    Raises:
        ConfigError: a value is none of the choices.
    """

    linear_backend: str = setting(
        AUTO,
        "library of large float32 products on a CPU; auto: the faster one, measured at first use",
        choices=LINEAR_BACKENDS,
        affects_result=False,
    )
    attention_chunk: str = setting(
        AUTO,
        "queries attended with at a time: a number; auto: 128, or what inference on this CPU does "
        "faster, measured at first use (1024 on a GPU)",
        affects_result=False,
    )

    def __post_init__(self) -> None:
        if self.linear_backend not in LINEAR_BACKENDS:
            raise ConfigError(
                f"linear_backend={self.linear_backend}: choose from {', '.join(LINEAR_BACKENDS)}"
            )
        chunk = self.attention_chunk
        if chunk != AUTO and not (chunk.isascii() and chunk.isdigit() and int(chunk) > 0):
            raise ConfigError(f"attention_chunk={chunk}: write auto or a number of at least 1")
