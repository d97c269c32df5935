"""Bounds of a model's settings, and how a refused value is shown.

A corrupt or hostile config would otherwise cost gigabytes, or hours, before anything is noticed:
28 blocks that halve the sequence repeat every position of the last one 134 million times.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from typing import Any

from funnel.utils.errors import ConfigError

MAX_SIZE = 2**31 - 1  # ids and dimensions are int32 in TensorFlow
MAX_LAYERS = 4096  # executed layers of encoder and decoder together
MAX_UPSAMPLE_FACTOR = 2**16  # input positions per position of the last block
MAX_PARAMETERS = 10**12
MAX_DEPTH_LENGTH = 9  # characters of P or PxR within MAX_LAYERS: 4096x4096

_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = 80
_SHOWN.maxlevel = 2
_LOG10_OF_2 = math.log10(2)
_LONGEST_BITS = 128


def check_extent(sizes: Mapping[str, int], layers: int, blocks: int) -> None:
    """Refuse a model that no machine can compute, before it is tried.

    Args:
        sizes: vocab_size, d_model, d_embed, n_head, d_head, d_inner, pooling_size.
        layers: executed layers of encoder and decoder.
        blocks: of the encoder.

    Raises:
        ConfigError: too many layers, poolings or weights.
    """
    if layers > MAX_LAYERS:
        raise ConfigError(f"block_size: {layers} layers; at most {MAX_LAYERS} are possible")
    pooling = sizes["pooling_size"]
    # Logarithms, as the power itself could have millions of digits.
    if (blocks - 1) * math.log2(pooling) > math.log2(MAX_UPSAMPLE_FACTOR):
        raise ConfigError(
            f"block_size, pooling_size: {blocks} blocks that pool by {sizes['pooling_size']} leave "
            f"less than one position of {MAX_UPSAMPLE_FACTOR}; use fewer blocks or smaller windows"
        )
    kernels = 5 * sizes["n_head"] * sizes["d_head"] + 2 * sizes["d_inner"]
    weights = sizes["vocab_size"] * sizes["d_embed"] + layers * sizes["d_model"] * kernels
    if weights > MAX_PARAMETERS:
        raise ConfigError(
            f"vocab_size, d_model, d_embed, d_inner, n_head, d_head: {float(weights):.1e} weights; "
            f"at most {MAX_PARAMETERS:.0e} are possible"
        )


def describe(value: Any) -> str:
    """Return ``repr(value)`` for a message: one line, shortened, for numbers of any size."""
    # Python refuses to print integers of more than 4,300 digits.
    if isinstance(value, int) and value.bit_length() > _LONGEST_BITS:
        return f"an integer of about {math.ceil(value.bit_length() * _LOG10_OF_2)} digits"
    try:
        return _SHOWN.repr(value).replace("\n", " ")
    except (ValueError, RecursionError):
        return f"a {type(value).__name__}"


def first_line(error: BaseException, limit: int = 300) -> str:
    """Return the first line of another library's message, shortened; its class if it is empty."""
    lines = str(error).splitlines()
    text = lines[0] if lines and lines[0] else type(error).__name__
    return text if len(text) <= limit else f"{text[: limit // 2]} … {text[-limit // 2 :]}"
