"""Settings of batches; does not import PyTorch, so that programs can show their flags at once."""

from __future__ import annotations

from dataclasses import dataclass

from funnel.config.settings import setting
from funnel.utils.errors import ConfigError


@dataclass(frozen=True)
class BatchConfig:
    """Grouping of training examples.

    ``batch_size`` counts the examples of one process and one micro-step; an update sees
    ``batch_size * grad_accum * processes`` of them. ``seed`` decides their order, ``by_length``
    groups examples of similar length.
    """

    batch_size: int = setting(16, "examples per device and step")
    grad_accum: int = setting(1, "such batches per optimizer step")
    seed: int = 0
    by_length: bool = True
    num_workers: int = setting(0, "processes that prepare batches", affects_result=False)

    def __post_init__(self) -> None:
        for key in ("batch_size", "grad_accum"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key}={getattr(self, key)}: must be at least 1")
        if self.num_workers < 0:
            raise ConfigError(f"num_workers={self.num_workers}: must not be negative")
