"""Variables under the names of the released checkpoints: creation, initial values, assignment."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf

from funnel.config.model import ModelConfig
from funnel_tf.models.options import GraphOptions

# Upper bound of the uniform distribution from which the original PyTorch code draws the weights
# of relative attention (``init: "pytorch"``).
_PYTORCH_RANGE = 0.1

# MirroredStrategy adds this suffix to the scopes of all replicas but the first.
_REPLICA = re.compile(r"/replica_\d+")


@dataclass
class AssignReport:
    """Names that did not match when arrays were assigned; ``mismatched`` includes both shapes."""

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)


@contextmanager
def root_scope(name: str, options: GraphOptions) -> Iterator[None]:
    """Open the variable scope ``model`` or ``generator``, outside all others, any number of times.

    Variables are float32 resource variables: XLA does not compile the older reference variables.
    With ``use_bfloat16``, weights requested in bfloat16 are rounded copies of them.
    """
    with ExitStack() as scopes:
        if options.use_bfloat16:
            scopes.enter_context(tf.tpu.bfloat16_scope())
        scopes.enter_context(tf.variable_scope(name, reuse=tf.AUTO_REUSE, use_resource=True))
        yield


def get_kernel(
    name: str, shape: Sequence[int], config: ModelConfig, options: GraphOptions, in_axes: int = 1
) -> tf.Tensor:
    """Get the weights of a linear layer, whose first ``in_axes`` axes are contracted."""
    fans = math.prod(shape[:in_axes]) + math.prod(shape[in_axes:])
    initializer = _initializer(config, tf.random_normal_initializer(stddev=1 / math.sqrt(fans)))
    return _get_variable(name, shape, initializer, options.dtype)


def get_embeddings(shape: Sequence[int], config: ModelConfig, options: GraphOptions) -> tf.Tensor:
    """Get an embedding table [rows, E]."""
    initializer = _initializer(config, tf.random_normal_initializer(stddev=1.0))
    return _get_variable("lookup_table", shape, initializer, options.dtype)


def get_vector(
    name: str, shape: Sequence[int], config: ModelConfig, options: GraphOptions
) -> tf.Tensor:
    """Get weights outside linear layers: those of relative attention and of the ELECTRA output."""
    initializer = _initializer(config, tf.random_uniform_initializer(0.0, _PYTORCH_RANGE))
    return _get_variable(name, shape, initializer, options.dtype)


def get_constant(name: str, shape: Sequence[int], value: float, dtype: tf.DType) -> tf.Tensor:
    """Get weights that start as a constant: biases (0) and LayerNorm gains (1)."""
    return _get_variable(name, shape, tf.constant_initializer(value), dtype)


def variable_name(variable: tf.Variable) -> str:
    """Return the checkpoint name: without output number, and the same in every replica."""
    return _REPLICA.sub("", variable.name.split(":", 1)[0])


def assign_tensors(
    session: tf.Session,
    tensors: Mapping[str, np.ndarray],
    variables: Sequence[tf.Variable] | None = None,
) -> AssignReport:
    """Assign the arrays in ``tensors`` to ``variables`` (default: all trainable ones) by name.

    Returns:
        The names that did not match; those variables keep their values.
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
            # Feed the variable's own initializer: a new assign operation would grow the graph.
            initializers.append(variable.initializer)
            values[variable.initializer.inputs[1]] = array
    session.run(initializers, values)
    return report


def _initializer(config: ModelConfig, pytorch: Any) -> Any:
    """Return the initializer of ``config.init``; ``pytorch`` is the one for ``"pytorch"``."""
    if config.init == "pytorch":
        return pytorch
    if config.init == "uniform":
        return tf.random_uniform_initializer(-config.init_range, config.init_range)
    if config.init == "normal":
        return tf.random_normal_initializer(stddev=config.init_std)
    return tf.truncated_normal_initializer(stddev=config.init_std)


def _get_variable(name: str, shape: Sequence[int], initializer: Any, dtype: tf.DType) -> tf.Tensor:
    value = tf.get_variable(name, shape, dtype, initializer)
    return tf.convert_to_tensor(value)
