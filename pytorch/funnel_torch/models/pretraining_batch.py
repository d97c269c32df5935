"""Inputs of the pretraining models: masked records as tensors, and the divisors of their losses."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from funnel.pretraining.masking import MaskedBatch


class PretrainingBatch(NamedTuple):
    """B masked records of T tokens with P target slots each, as tensors.

    Attributes:
        masked_input: int64 [B, T], input of the model (of ELECTRA: of the generator).
        origin_input: int64 [B, T], the same without masking.
        token_type_ids: int64 [B, T].
        target: int64 [B, P], original ids of the targets.
        target_mask: bool [B, P], False for an empty slot.
        target_positions: int64 [B, P].
        attention_mask: bool [B, T], True for a token, False for padding.
        mlm_attention_mask: bool [B, T], True for a token that is not [MASK].
        noise_seeds: int64 [B], seed of the sampling noise of each record; different every epoch.
        corrupt: error messages of the corrupt records that others replaced.
        is_dummy: the batch exists because every process has to take part in collective operations,
            and counts nowhere.
    """

    masked_input: Tensor
    origin_input: Tensor
    token_type_ids: Tensor
    target: Tensor
    target_mask: Tensor
    target_positions: Tensor
    attention_mask: Tensor
    mlm_attention_mask: Tensor
    noise_seeds: Tensor | None = None
    corrupt: tuple[str, ...] = ()
    is_dummy: bool = False

    @classmethod
    def from_arrays(cls, masked: MaskedBatch, is_dummy: bool = False) -> PretrainingBatch:
        """Return the batch as CPU tensors that share the memory of the arrays."""
        arrays = masked._asdict()
        names = cls._fields[: cls._fields.index("noise_seeds")]
        seeds = None if masked.noise_seeds is None else masked.noise_seeds.view(np.int64)
        return cls(
            **{name: torch.from_numpy(arrays[name]) for name in names},
            noise_seeds=None if seeds is None else torch.from_numpy(seeds),
            corrupt=masked.corrupt,
            is_dummy=is_dummy,
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PretrainingBatch:
        """Return the batch with its tensors on ``device``."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=non_blocking)
            for name, value in self._asdict().items()
            if isinstance(value, Tensor)
        }
        return self._replace(**moved)


class LossDenominators(NamedTuple):
    """Divisors of the summed losses, numbers or scalar tensors above 0.

    By default the losses of a batch are means over its own targets and tokens. If gradients of
    several batches are accumulated in one step (micro-steps, several processes), the counts of the
    step as denominators make its loss the mean over the step. If processes average their gradients
    instead of adding them, divide the counts by the number of processes.

    Attributes:
        targets: number of masked tokens to predict.
        tokens: number of tokens that are not padding; not used by MLM.
    """

    targets: Tensor | float
    tokens: Tensor | float

    def to(self, device: torch.device | str, non_blocking: bool = False) -> LossDenominators:
        """Return the denominators as tensors on ``device``."""
        moved = (torch.as_tensor(x).to(device, non_blocking=non_blocking) for x in self)
        return LossDenominators(*moved)
