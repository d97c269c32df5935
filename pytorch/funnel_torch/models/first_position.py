"""Positions without effect on the first output, which is all that some heads read.

The last position that ``truncate_seq`` drops at each pooling is padding wherever a sequence is
padded as :func:`funnel.config.geometry.bucket_length` says. No position attends to it, and no
pooling window contains it: the same sequence without it, and without truncation, has the same
output. So have the queries of the last layer no effect but on their own positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from funnel.config.geometry import encoder_geometry
from funnel.config.model import ModelConfig


def reads_no_gradient(x: Tensor) -> bool:
    """Return whether a call is an evaluation on a CPU, and not part of a traced graph.

    On a GPU the mask would have to be waited for.
    """
    is_traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return x.device.type == "cpu" and not (is_traced or torch.is_grad_enabled())


def needed_length(config: ModelConfig, length: int, attention_mask: Tensor | None) -> int | None:
    """Return the number of positions on which the first output depends, for ``_uncut`` poolings.

    Args:
        config: of the model.
        length: T.
        attention_mask: [B, T], 1 for a real token; None: all are real.

    Returns:
        None where pooling drops real tokens, so that nothing can be left out.
    """
    if not (config.separate_cls and config.truncate_seq):
        return length
    last = encoder_geometry(config, length)[-1]
    needed = 1 + (last.length - 1) * last.stride
    if needed >= length:
        # Pooling drops nothing: it is one block, or a sequence too short.
        return length if last.stride == 1 else None
    hides_rest = attention_mask is not None and not attention_mask[:, needed:].any()
    return needed if hides_rest else None
