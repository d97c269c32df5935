"""Variables under the names of the released checkpoints: creation, initial values, assignment."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf

from funnel.config.model import ModelConfig
from funnel_tf.models.options import GraphOptions

# ``init: "pytorch"``: the original PyTorch code drew what is no dense layer from 0 to this.
_PYTORCH_RANGE = 0.1


@dataclass
class AssignReport:
    """What did not fit when arrays were assigned: names, and shapes where those differ."""

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)


@contextmanager
def root_scope(name: str, options: GraphOptions) -> Iterator[None]:
    """Scope ``model`` or ``generator``, to be opened outside all others and as often as needed.

    Variables are resource variables (what XLA compiles) and float32. Weights asked for in
    bfloat16 come as a rounded copy.
    """
    with ExitStack() as scopes:
        if options.use_bfloat16:
            scopes.enter_context(tf.tpu.bfloat16_scope())
        scopes.enter_context(tf.variable_scope(name, reuse=tf.AUTO_REUSE, use_resource=True))
        yield


def kernel(
    name: str, shape: Sequence[int], config: ModelConfig, options: GraphOptions, in_axes: int = 1
) -> tf.Tensor:
    """The weights of a dense layer, whose first ``in_axes`` axes are summed over."""
    fans = math.prod(shape[:in_axes]) + math.prod(shape[in_axes:])
    initializer = _initializer(config, tf.random_normal_initializer(stddev=1 / math.sqrt(fans)))
    return _variable(name, shape, initializer, options.dtype)


def lookup_table(shape: Sequence[int], config: ModelConfig, options: GraphOptions) -> tf.Tensor:
    """Embeddings [rows, E]."""
    initializer = _initializer(config, tf.random_normal_initializer(stddev=1.0))
    return _variable("lookup_table", shape, initializer, options.dtype)


def vector(
    name: str, shape: Sequence[int], config: ModelConfig, options: GraphOptions
) -> tf.Tensor:
    """Weights that are no dense layer's: those of relative attention, the discriminator's last."""
    initializer = _initializer(config, tf.random_uniform_initializer(0.0, _PYTORCH_RANGE))
    return _variable(name, shape, initializer, options.dtype)


def constant(name: str, shape: Sequence[int], value: float, dtype: tf.DType) -> tf.Tensor:
    """A bias (starts as 0) or a normalisation's gain (1)."""
    return _variable(name, shape, tf.constant_initializer(value), dtype)


def assign_tensors(
    session: tf.Session,
    tensors: Mapping[str, np.ndarray],
    variables: Sequence[tf.Variable] | None = None,
) -> AssignReport:
    """Give ``variables`` (default: all that are trainable) the values in ``tensors``, by name.

    Returns:
        The names that did not fit; those variables keep their values.
    """
    chosen = tf.trainable_variables() if variables is None else variables
    by_name = {variable.op.name: variable for variable in chosen}
    report = AssignReport(unexpected=sorted(set(tensors) - set(by_name)))
    initializers, values = [], {}
    for name, variable in by_name.items():
        array = tensors.get(name)
        shape = tuple(variable.shape.as_list())
        if array is None:
            report.missing.append(name)
        elif array.shape != shape:
            found, wanted = list(array.shape), list(shape)
            report.mismatched.append(f"{name} {found} instead of {wanted}")
        else:
            # The variable's own initialiser, fed with another value: adds nothing to the graph.
            initializers.append(variable.initializer)
            values[variable.initializer.inputs[1]] = array
    session.run(initializers, values)
    return report


def _initializer(config: ModelConfig, pytorch: Any) -> Any:
    if config.init == "pytorch":
        return pytorch
    if config.init == "uniform":
        return tf.random_uniform_initializer(-config.init_range, config.init_range)
    if config.init == "normal":
        return tf.random_normal_initializer(stddev=config.init_std)
    return tf.truncated_normal_initializer(stddev=config.init_std)


def _variable(name: str, shape: Sequence[int], initializer: Any, dtype: tf.DType) -> tf.Tensor:
    value = tf.get_variable(name, shape, dtype, initializer)
    return tf.convert_to_tensor(value)
