"""A training step as a function: variables and a batch go in, new variables and the loss come out.

A compiler for a machine that is not there takes no variables, which live on a device. So the graph
is built with tensors in their place, through the ``custom_getter`` of a variable scope; the code of
models and optimizer is the one that trains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow.compat.v1 as tf

from funnel.config.training.optimizer import OptimizerConfig, ScheduleConfig
from funnel_tf.models.options import GraphOptions
from funnel_tf.training.optimizer import create_train_op

# Builds the loss of a batch, a scalar.
BuildLoss = Callable[[Mapping[str, tf.Tensor], GraphOptions], tf.Tensor]


@dataclass(frozen=True)
class VariableSpec:
    """Name, shape, type of a variable, and whether the step has gradients for it."""

    name: str
    shape: tuple[int, ...]
    dtype: tf.DType
    trainable: bool


@dataclass(frozen=True)
class TrainingStep:
    """What a step is made of.

    Attributes:
        build_loss: the model and its loss.
        batch: shape and type of every feature, all static.
        options: mode, device and precision.
        optimizer: the update rule.
        schedule: learning rate by step.
    """

    build_loss: BuildLoss
    batch: Mapping[str, tf.TensorSpec]
    options: GraphOptions
    optimizer: OptimizerConfig
    schedule: ScheduleConfig

    def variables(self) -> list[VariableSpec]:
        """Return the variables of the step, those of the optimizer included, in a fixed order."""
        with tf.Graph().as_default():
            features = {n: tf.placeholder(s.dtype, s.shape) for n, s in self.batch.items()}
            made, _ = self._build({}, features)
        return [variable.spec for variable in made.values()]

    def run(
        self, values: Mapping[str, tf.Tensor], features: Mapping[str, tf.Tensor]
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """Build the step in the current graph.

        Args:
            values: value before the step, by name of the variable.
            features: the batch.

        Returns:
            The values after the step, and the loss.
        """
        made, loss = self._build(values, features)
        return {name: variable.value() for name, variable in made.items()}, loss

    def _build(
        self, values: Mapping[str, tf.Tensor], features: Mapping[str, tf.Tensor]
    ) -> tuple[dict[str, _TensorVariable], tf.Tensor]:
        made: dict[str, _TensorVariable] = {}

        def get(
            getter: Any, name: str, shape: Any, dtype: tf.DType, **settings: Any
        ) -> _TensorVariable:
            del getter  # would make a real one
            if name not in made:
                dims = tuple(tf.TensorShape(shape).as_list())
                is_trainable = settings.get("trainable") is not False
                spec = VariableSpec(name, dims, tf.as_dtype(dtype), is_trainable)
                start = values[name] if name in values else tf.placeholder(spec.dtype, dims)
                made[name] = _TensorVariable(spec, start)
                tf.add_to_collections(settings.get("collections") or [], made[name])
            return made[name]

        with tf.variable_scope(tf.get_variable_scope(), custom_getter=get):
            loss = self.build_loss(features, self.options)
            trainable = [variable for variable in made.values() if variable.spec.trainable]
            create_train_op(
                loss,
                self.optimizer,
                self.schedule,
                use_tpu=self.options.use_tpu,
                variables=trainable,
            )
        return made, loss


class _TensorVariable:
    """Has what models and optimizer use of a variable; its value is a tensor of the graph."""

    # TensorFlow then takes ``handle``, and not a reference, for the thing to differentiate by.
    _should_act_as_resource_variable = True

    def __init__(self, spec: VariableSpec, start: tf.Tensor) -> None:
        self.spec, self.handle, self._value = spec, start, start
        self.name, self.dtype = f"{spec.name}:0", spec.dtype
        self.shape = tf.TensorShape(spec.shape)
        self.op, self.device, self.graph = start.op, start.device, start.graph

    def value(self) -> tf.Tensor:
        """Return what was assigned last, or the value before the step."""
        return self._value

    def read_value(self) -> tf.Tensor:
        """Return the same as :meth:`value`."""
        return self._value

    def assign(self, value: tf.Tensor, read_value: bool = True) -> tf.Operation:
        """Set the value, and return the operation that computes it."""
        self._value = tf.ensure_shape(tf.convert_to_tensor(value, self.dtype), self.shape)
        return self._value.op


def _to_tensor(
    variable: _TensorVariable, dtype: Any = None, name: str | None = None, as_ref: bool = False
) -> tf.Tensor:
    del name, as_ref
    if dtype is not None and tf.as_dtype(dtype) != variable.dtype:
        return NotImplemented
    return variable.value()


tf.register_tensor_conversion_function(_TensorVariable, _to_tensor)
