"""Settings of kernels that have several implementations; does not import PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from funnel.config.settings import setting
from funnel.utils.errors import ConfigError

AUTO, MKL, ONEDNN = "auto", "mkl", "onednn"
LINEAR_BACKENDS = (AUTO, MKL, ONEDNN)
PARTS, SDPA = "parts", "sdpa"
SHORT_ATTENTIONS = (AUTO, PARTS, SDPA)
NATIVE = "native"
GELUS = (AUTO, PARTS, NATIVE)


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
    short_attention: str = setting(
        AUTO,
        "attention over at most 256 keys in evaluation on a CPU: sdpa, PyTorch's fused kernel; "
        "parts, products per head; auto: the faster one, measured at first use",
        choices=SHORT_ATTENTIONS,
        affects_result=False,
    )
    gelu: str = setting(
        AUTO,
        "GELU of large float32 tensors on a CPU: native, PyTorch's kernels; parts, several passes "
        "over pieces in the cache; auto: the faster one, measured at first use",
        choices=GELUS,
        affects_result=False,
    )

    def __post_init__(self) -> None:
        for name, known in (
            ("linear_backend", LINEAR_BACKENDS),
            ("short_attention", SHORT_ATTENTIONS),
            ("gelu", GELUS),
        ):
            if (value := getattr(self, name)) not in known:
                raise ConfigError(f"{name}={value}: choose from {', '.join(known)}")
        chunk = self.attention_chunk
        if chunk != AUTO and not (chunk.isascii() and chunk.isdigit() and int(chunk) > 0):
            raise ConfigError(f"attention_chunk={chunk}: write auto or a number of at least 1")
