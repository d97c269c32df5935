"""Freezing of parts of a model: their variables get no gradient and no optimizer slots."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Sequence

import tensorflow.compat.v1 as tf

from funnel.config.training.freezing import EMBEDDINGS, Part, frozen_names
from funnel_tf.models.variables import variable_name

logger = logging.getLogger(__name__)

_LAYER = re.compile(r"^model/(encoder|decoder)/layer_(\d+)/")


def variable_parts(names: Iterable[str]) -> dict[str, Part | None]:
    """Return the part that every variable belongs to; None for heads and other parts.

    In the names of variables the decoder's layers are numbered after the encoder's.
    """
    names = list(names)
    matches = {name: _LAYER.match(name) for name in names}
    encoder = [int(m[2]) for m in matches.values() if m and m[1] == "encoder"]
    before = {"encoder": 0, "decoder": 1 + max(encoder, default=-1)}
    parts: dict[str, Part | None] = {}
    for name, match in matches.items():
        if match:
            parts[name] = (match[1], int(match[2]) - before[match[1]])
        else:
            parts[name] = EMBEDDINGS if name.startswith("model/input/") else None
    return parts


def trained_variables(variables: Sequence[tf.Variable], freeze: str | None) -> list[tf.Variable]:
    """Return the variables that are not frozen, and log how many are.

    Raises:
        ConfigError: the model has no such part.
    """
    if not freeze:
        return list(variables)
    by_name = {variable_name(variable): variable for variable in variables}
    frozen = set(frozen_names(freeze, variable_parts(by_name)))
    sizes = {name: math.prod(variable.shape.as_list()) for name, variable in by_name.items()}
    count, total = sum(sizes[name] for name in frozen), sum(sizes.values())
    logger.info(
        "%s of %s parameters are frozen (%.1f %%): no gradient, no optimizer slots",
        *(f"{count:,}", f"{total:,}", 100.0 * count / total),
    )
    return [variable for name, variable in by_name.items() if name not in frozen]
