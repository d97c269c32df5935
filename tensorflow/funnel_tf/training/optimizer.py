"""AdamW of the original TensorFlow programs as graph operations, on one device, several, or a TPU.

With t the number of the update from 1: ``m = b1 m + (1-b1) g``, ``v = b2 v + (1-b2) g^2``,
``p -= lr sqrt(1-b2^t)/(1-b1^t) (m / (sqrt(v) + eps) + wd p)``; the same numbers as
``FunnelAdamW`` of the PyTorch tree. Slots are variables named ``<variable>/adam_m`` and
``<variable>/adam_v``, as in the released full checkpoints.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import tensorflow.compat.v1 as tf

from funnel.checkpoints.names import SLOTS
from funnel.config.optimizer import OptimizerConfig, ScheduleConfig, layer_factors

SKIPPED_STEPS = "skipped_steps"

_LAYER = re.compile(r"^model/(?:encoder|decoder)/layer_(\d+)/")
_REPLICA = re.compile(r"/replica_\d+")


class TrainOp(NamedTuple):
    """An update and what is worth logging about it: scalars, float32 but for the step.

    ``step`` (int64) is the number of the step that this update completes. ``gradient_norm`` is the
    global norm before clipping, of this replica's gradients or, if replicas are averaged before
    clipping, of their mean. ``skipped`` counts the steps left out, this one included, because their
    gradients were not finite.
    """

    train_op: tf.Operation
    step: tf.Tensor
    learning_rate: tf.Tensor
    gradient_norm: tf.Tensor
    skipped: tf.Tensor


class _Gradients(NamedTuple):
    values: list[tf.Tensor]
    norm: tf.Tensor


class _Step(NamedTuple):
    """What every variable's update needs: the step's size and whether it may happen at all."""

    size: tf.Tensor
    is_finite: tf.Tensor | None


def create_train_op(
    loss: tf.Tensor,
    optimizer: OptimizerConfig,
    schedule: ScheduleConfig,
    *,
    use_tpu: bool = False,
    per_core_clip: bool = True,
    skip_nan_grad: bool = False,
    variables: Sequence[tf.Variable] | None = None,
) -> TrainOp:
    """One update of ``variables`` (default: all trainable ones), then ``global_step`` + 1.

    ``loss`` is the mean over this replica's examples. Replicas, be they those of a
    ``tf.distribute`` strategy or the cores of a TPU, average their gradients. ``per_core_clip``
    clips each replica's before that, else the average is clipped. ``skip_nan_grad`` leaves
    variables and slots as they are where any gradient is not finite.

    Raises:
        ValueError: a variable has no influence on the loss.
    """
    variables = list(tf.trainable_variables() if variables is None else variables)
    names = [variable_name(variable) for variable in variables]
    global_step = tf.train.get_or_create_global_step()
    before = global_step.read_value()
    rate = learning_rate(schedule, tf.cast(before, tf.float32))
    counter = _skip_counter() if skip_nan_grad else None
    skipped = tf.zeros([], tf.int64) if counter is None else counter.read_value()

    gradients = _dense_gradients(loss, variables, names)
    clip = optimizer.clip if per_core_clip else 0.0
    gradients = _clipped(gradients, clip)
    values = (_core_mean if use_tpu else replica_mean)(gradients.values)
    if not per_core_clip:
        values, norm = _clipped(values, optimizer.clip)
        gradients = _Gradients(values, norm)
    is_finite = tf.is_finite(tf.linalg.global_norm(values)) if skip_nan_grad else None

    factors = layer_factors(variable_layers(names), optimizer.layer_decay_rate)
    if optimizer.layer_decay == "gradient":
        values = [g * factors[name] for g, name in zip(values, names, strict=True)]
        factors = dict.fromkeys(factors, 1.0)
    number = tf.cast(before + 1 - skipped, tf.float32)
    size = rate * _bias_correction(optimizer, number)
    update = _apply(variables, names, values, _Step(size, is_finite), optimizer, factors)
    if counter is not None:
        skipped += tf.cast(tf.logical_not(is_finite), tf.int64)
        with tf.control_dependencies([update]):
            update = counter.assign(skipped, read_value=False)
    with tf.control_dependencies([update]):
        train_op = tf.group(global_step.assign(before + 1, read_value=False))
    return TrainOp(train_op, before + 1, rate, gradients.norm, tf.cast(skipped, tf.float32))


def learning_rate(schedule: ScheduleConfig, step: tf.Tensor) -> tf.Tensor:
    """:meth:`ScheduleConfig.lr_at` of a float32 scalar ``step``, as a tensor."""
    after = max(1, schedule.total_steps - schedule.warmup_steps)
    x = tf.minimum((step - float(schedule.warmup_steps)) / float(after), 1.0)
    share = 1.0 - x
    if schedule.decay_method == "cos":
        share = 0.5 * (1.0 + tf.cos(math.pi * x))
    if schedule.warmup_steps > 0:
        warmup = float(schedule.warmup_steps)
        share = tf.where(step < warmup, step / warmup, share)
    return schedule.min_lr + (schedule.lr - schedule.min_lr) * share


def variable_name(variable: tf.Variable) -> str:
    """The name in a checkpoint: without output number, and the same in every replica."""
    return _REPLICA.sub("", variable.name.split(":", 1)[0])


def variable_layers(names: Iterable[str]) -> dict[str, int | None]:
    """Depth of every variable: 0 the input embedding, k+1 parameter layer k, None elsewhere.

    Heads, the input projection and the generator have no depth: layer decay leaves them alone.
    """
    layers: dict[str, int | None] = {}
    for name in names:
        match = _LAYER.match(name)
        is_input = name.startswith("model/input/")
        layers[name] = 1 + int(match.group(1)) if match else 0 if is_input else None
    return layers


def is_decayed(name: str) -> bool:
    """Whether ``use_wd_exclusion`` still decays this variable: no LayerNorm and no plain bias."""
    return "layer_norm" not in name and name.rsplit("/", 1)[-1] != "bias"


def _dense_gradients(
    loss: tf.Tensor, variables: list[tf.Variable], names: list[str]
) -> list[tf.Tensor]:
    """Gradients as dense tensors: rows that a gather takes twice are summed before any norm."""
    gradients = tf.gradients(loss, variables)
    unused = [name for name, g in zip(names, gradients, strict=True) if g is None]
    if unused:
        raise ValueError(f"the loss does not depend on {', '.join(unused)}")
    return [tf.convert_to_tensor(gradient) for gradient in gradients]


def _clipped(gradients: list[tf.Tensor], clip: float) -> _Gradients:
    """Scale by ``min(1, clip / norm)``; a clip of 0 or less only measures."""
    norm = tf.linalg.global_norm(gradients)
    if clip > 0.0:
        # A NaN norm stays NaN and reaches every gradient.
        factor = tf.minimum(clip / norm, 1.0)
        gradients = [gradient * factor for gradient in gradients]
    return _Gradients(gradients, norm)


def replica_mean(values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """The means over the replicas of a ``tf.distribute`` strategy, in each of them."""
    replica = tf.distribute.get_replica_context()
    if replica.num_replicas_in_sync == 1:
        return list(values)

    def mean(strategy: tf.distribute.Strategy, values: Any) -> Any:
        pairs = [(value, value) for value in values]
        return strategy.extended.batch_reduce_to(tf.distribute.ReduceOp.MEAN, pairs)

    # Not replica.all_reduce: its gradient code (2.15) fails on variables of a second replica.
    return list(replica.merge_call(mean, args=(list(values),)))


def _core_mean(values: list[tf.Tensor]) -> list[tf.Tensor]:
    """The means over the cores of a TPU; the values themselves where there is no collective."""
    shards = _tpu_shards()
    if shards is None or shards == 1:
        return values
    return [tf.tpu.cross_replica_sum(value / shards) for value in values]


def _tpu_shards() -> int | None:
    """Cores that share a step; None outside of a TPU's graph, where there is no collective."""
    from tensorflow.python.tpu import tpu_function

    return tpu_function.get_tpu_context().number_of_shards


def _bias_correction(optimizer: OptimizerConfig, number: tf.Tensor) -> tf.Tensor:
    if not optimizer.adam_correction:
        return tf.ones([])
    second = 1.0 - tf.pow(optimizer.beta2, number)
    return tf.sqrt(second) / (1.0 - tf.pow(optimizer.beta1, number))


def _skip_counter() -> tf.Variable:
    return tf.get_variable(
        SKIPPED_STEPS,
        [],
        tf.int64,
        tf.zeros_initializer(),
        trainable=False,
        use_resource=True,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )


def _slots(variable: tf.Variable, name: str) -> list[tf.Variable]:
    shape, zeros = variable.shape.as_list(), tf.zeros_initializer()
    return [
        tf.get_variable(name + slot, shape, tf.float32, zeros, trainable=False, use_resource=True)
        for slot in SLOTS
    ]


def _apply(
    variables: list[tf.Variable],
    names: list[str],
    gradients: list[tf.Tensor],
    step: _Step,
    optimizer: OptimizerConfig,
    factors: dict[str, float],
) -> tf.Operation:
    """Update every variable and its slots, in all replicas alike.

    Plain assignments in each replica would leave replicas apart without a word; ``update`` of the
    strategy writes every copy. Without a strategy it calls the function once.
    """
    slots = [_slots(v, name) for v, name in zip(variables, names, strict=True)]
    is_finite = tf.constant(True) if step.is_finite is None else step.is_finite
    rates = [step.size * factors[name] for name in names]

    def update_all(strategy: tf.distribute.Strategy, values: Any, sizes: Any, finite: Any) -> Any:
        updates = []
        for i, variable in enumerate(variables):
            excluded = optimizer.use_wd_exclusion and not is_decayed(names[i])
            decay = 0.0 if excluded else optimizer.weight_decay
            guard = None if step.is_finite is None else finite
            update = _variable_update(optimizer, decay)
            arguments = (values[i], *slots[i], sizes[i], guard)
            updates += strategy.extended.update(variable, update, arguments, group=False)
        return updates

    merged = tf.distribute.get_replica_context().merge_call(
        update_all, args=(gradients, rates, is_finite)
    )
    return tf.group(merged)


def _variable_update(
    optimizer: OptimizerConfig, weight_decay: float
) -> Callable[..., tf.Operation]:
    """The rule for one copy of a variable, to be placed on the device that holds it."""
    beta1, beta2 = optimizer.beta1, optimizer.beta2

    def update(
        variable: tf.Variable,
        gradient: tf.Tensor,
        first: tf.Variable,
        second: tf.Variable,
        size: tf.Tensor,
        is_finite: tf.Tensor | None,
    ) -> tf.Operation:
        old_first, old_second, old = first.read_value(), second.read_value(), variable.read_value()
        new_first = beta1 * old_first + (1.0 - beta1) * gradient
        new_second = beta2 * old_second + (1.0 - beta2) * tf.square(gradient)
        direction = new_first / (tf.sqrt(new_second) + optimizer.epsilon)
        if weight_decay > 0.0:
            direction += weight_decay * old
        new = old - size * direction
        if is_finite is not None:
            new_first = tf.where(is_finite, new_first, old_first)
            new_second = tf.where(is_finite, new_second, old_second)
            new = tf.where(is_finite, new, old)
        # Nothing is written before everything is read: the three may otherwise meet mid-way.
        with tf.control_dependencies([new_first, new_second, new]):
            return tf.group(
                first.assign(new_first, read_value=False),
                second.assign(new_second, read_value=False),
                variable.assign(new, read_value=False),
            )

    return update
