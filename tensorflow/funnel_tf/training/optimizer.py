"""AdamW of the original TensorFlow programs as graph operations.

For update t = 1, 2, ... of a parameter p with gradient g:

    m = b1 m + (1 - b1) g
    v = b2 v + (1 - b2) g^2
    p = p - lr sqrt(1 - b2^t) / (1 - b1^t) (m / (sqrt(v) + eps) + wd p)

The bias correction is a factor on the step size, so it scales the weight decay too, unlike in
``torch.optim.AdamW``. ``FunnelAdamW`` of the PyTorch backend computes the same. Slots are variables
named ``<variable>/adam_m`` and ``<variable>/adam_v``, as in the released full checkpoints. The same
code runs on one device, on several through MirroredStrategy, and on the cores of a TPU.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import tensorflow.compat.v1 as tf

from funnel.checkpoints.names import SLOTS
from funnel.config.training.optimizer import OptimizerConfig, ScheduleConfig, layer_factors
from funnel_tf.models.variables import variable_name

SKIPPED_STEPS = "skipped_steps"

_LAYER = re.compile(r"^model/(?:encoder|decoder)/layer_(\d+)/")


class TrainOp(NamedTuple):
    """An update and scalar tensors to log, float32 except for the step.

    Attributes:
        train_op: runs the update and increments the step.
        step: number of steps after this update, int64.
        learning_rate: of this update.
        gradient_norm: global norm before clipping; of this replica's gradients with
            ``per_core_clip``, else of the mean over the replicas.
        skipped: steps skipped so far because their gradients were not finite.
    """

    train_op: tf.Operation
    step: tf.Tensor
    learning_rate: tf.Tensor
    gradient_norm: tf.Tensor
    skipped: tf.Tensor


class _Gradients(NamedTuple):
    """Gradients by variable and their global norm before clipping."""

    values: list[tf.Tensor]
    norm: tf.Tensor


class _Step(NamedTuple):
    """Step size shared by all variables; ``is_finite`` None updates unconditionally."""

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
    """Create the operation that updates the variables and increments ``global_step``.

    Replicas, those of a ``tf.distribute`` strategy or the cores of a TPU, average their gradients.

    Args:
        loss: mean over this replica's examples.
        optimizer: the update rule.
        schedule: learning rate by step.
        use_tpu: the graph is for a TPU.
        per_core_clip: clip the gradients of each replica before they are averaged, instead of the
            average.
        skip_nan_grad: leave variables and slots unchanged if any gradient is not finite.
        variables: default: all trainable ones.

    Raises:
        ValueError: the loss does not depend on a variable.
    """
    variables = list(tf.trainable_variables() if variables is None else variables)
    names = [variable_name(variable) for variable in variables]
    global_step = tf.train.get_or_create_global_step()
    before = global_step.read_value()
    rate = learning_rate(schedule, tf.cast(before, tf.float32))
    counter = _skip_counter() if skip_nan_grad else None
    skipped = tf.zeros([], tf.int64) if counter is None else counter.read_value()

    gradients = _dense_gradients(loss, variables, names)
    average = _core_mean if use_tpu else replica_mean
    values, norm = _clip_and_average(gradients, optimizer.clip, per_core_clip, average)
    is_finite = tf.is_finite(tf.linalg.global_norm(values)) if skip_nan_grad else None

    # Frozen layers count: the factors of the others do not depend on them.
    every = {*names, *map(variable_name, tf.trainable_variables())}
    factors = layer_factors(variable_layers(every), optimizer.layer_decay_rate)
    if optimizer.layer_decay == "gradient":
        # As in the original. Adam normalizes the gradient's size and so removes most of the effect;
        # layer_decay "lr" scales the update itself.
        values = [g * factors[name] for g, name in zip(values, names, strict=True)]
        factors = dict.fromkeys(factors, 1.0)
    # Skipped steps do not change the slots, so they do not count for the bias correction.
    number = tf.cast(before + 1 - skipped, tf.float32)
    size = rate * _bias_correction(optimizer, number)
    update = _apply(variables, names, values, _Step(size, is_finite), optimizer, factors)
    if counter is not None:
        skipped += tf.cast(tf.logical_not(is_finite), tf.int64)
        with tf.control_dependencies([update]):
            update = counter.assign(skipped, read_value=False)
    # The step is incremented last, so that no operation of the update reads the new value.
    with tf.control_dependencies([update]):
        train_op = tf.group(global_step.assign(before + 1, read_value=False))
    return TrainOp(train_op, before + 1, rate, norm, tf.cast(skipped, tf.float32))


def learning_rate(schedule: ScheduleConfig, step: tf.Tensor) -> tf.Tensor:
    """Compute :meth:`ScheduleConfig.lr_at` for a float32 scalar ``step`` as a tensor."""
    after = max(1, schedule.total_steps - schedule.warmup_steps)
    x = tf.minimum((step - float(schedule.warmup_steps)) / float(after), 1.0)
    share = 1.0 - x
    if schedule.decay_method == "cos":
        share = 0.5 * (1.0 + tf.cos(math.pi * x))
    if schedule.warmup_steps > 0:
        warmup = float(schedule.warmup_steps)
        share = tf.where(step < warmup, step / warmup, share)
    return schedule.min_lr + (schedule.lr - schedule.min_lr) * share


def variable_layers(names: Iterable[str]) -> dict[str, int | None]:
    """Return the depth of every variable: 0 for embeddings, k + 1 for parameter layer k.

    Heads, the input projection and the generator have depth None: layer decay does not scale them.
    """
    layers: dict[str, int | None] = {}
    for name in names:
        match = _LAYER.match(name)
        is_input = name.startswith("model/input/")
        layers[name] = 1 + int(match.group(1)) if match else 0 if is_input else None
    return layers


def is_decayed(name: str) -> bool:
    """Return whether ``use_wd_exclusion`` decays a variable: not LayerNorm, not ``bias``.

    The biases of relative attention (``r_w_bias`` and others) are decayed, as in the original.
    """
    return "layer_norm" not in name and name.rsplit("/", 1)[-1] != "bias"


def _dense_gradients(
    loss: tf.Tensor, variables: list[tf.Variable], names: list[str]
) -> list[tf.Tensor]:
    """Compute gradients as dense tensors.

    IndexedSlices are converted, which sums the rows of a repeated index before any norm is taken.
    """
    gradients = tf.gradients(loss, variables)
    unused = [name for name, g in zip(names, gradients, strict=True) if g is None]
    if unused:
        raise ValueError(f"the loss does not depend on {', '.join(unused)}")
    return [tf.convert_to_tensor(gradient) for gradient in gradients]


def _clip(gradients: list[tf.Tensor], clip: float) -> _Gradients:
    """Scale gradients by ``min(1, clip / norm)``; a clip of 0 or less computes the norm only."""
    norm = tf.linalg.global_norm(gradients)
    if clip > 0.0:
        # A NaN norm makes the factor, and with it every gradient, NaN: skip_nan_grad relies on it.
        factor = tf.minimum(clip / norm, 1.0)
        gradients = [gradient * factor for gradient in gradients]
    return _Gradients(gradients, norm)


def _clip_and_average(
    gradients: list[tf.Tensor],
    clip: float,
    per_core_clip: bool,
    average: Callable[[list[tf.Tensor]], list[tf.Tensor]],
) -> _Gradients:
    """Average gradients over the replicas, clipped before or after; see :func:`create_train_op`."""
    if not per_core_clip:
        return _clip(average(gradients), clip)
    clipped = _clip(gradients, clip)
    return _Gradients(average(clipped.values), clipped.norm)


def replica_mean(values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Average each value over the replicas of a ``tf.distribute`` strategy, in all of them."""
    replica = tf.distribute.get_replica_context()
    if replica.num_replicas_in_sync == 1:
        return list(values)
    # Not replica.all_reduce: its gradient code (2.15) fails on variables of a second replica.
    return list(replica.merge_call(_reduce_mean, args=(list(values),)))


def _reduce_mean(strategy: tf.distribute.Strategy, values: Any) -> Any:
    pairs = [(value, value) for value in values]
    return strategy.extended.batch_reduce_to(tf.distribute.ReduceOp.MEAN, pairs)


def _core_mean(values: list[tf.Tensor]) -> list[tf.Tensor]:
    """Average each value over the cores of a TPU; return them as they are outside of a TPU."""
    shards = _tpu_shards()
    if shards is None or shards == 1:
        return values
    return [tf.tpu.cross_replica_sum(value / shards) for value in values]


def _tpu_shards() -> int | None:
    """Return the number of cores; None outside of a TPU's graph, where there is no collective."""
    from tensorflow.python.tpu import tpu_function

    return tpu_function.get_tpu_context().number_of_shards


def _bias_correction(optimizer: OptimizerConfig, number: tf.Tensor) -> tf.Tensor:
    """Return the factor on the step size for update ``number``, counted from 1."""
    if not optimizer.adam_correction:
        return tf.ones([])
    second = 1.0 - tf.pow(optimizer.beta2, number)
    return tf.sqrt(second) / (1.0 - tf.pow(optimizer.beta1, number))


def _skip_counter() -> tf.Variable:
    """Get the count of skipped steps, which a checkpoint keeps."""
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
    """Update every variable and its slots in all replicas.

    Under MirroredStrategy every replica has copies of the variables and of the slots. A plain
    ``assign`` in replica context is not synchronized for variables without an aggregation: copies
    diverge without an error, and the checkpoint holds those of the first replica. So the update
    runs in cross-replica context (``merge_call``), where ``extended.update`` calls it once for
    every copy, with the same averaged gradient. Without a strategy it is called once.
    """
    slots = [_slots(v, name) for v, name in zip(variables, names, strict=True)]
    is_excluded = [optimizer.use_wd_exclusion and not is_decayed(name) for name in names]
    decays = [0.0 if excluded else optimizer.weight_decay for excluded in is_excluded]
    rules = [partial(_update_variable, optimizer, decay) for decay in decays]
    # merge_call collects its arguments from all replicas. The guard is a tensor in any case, since
    # None cannot be collected, but it is used only if there is one.
    guard = tf.constant(True) if step.is_finite is None else step.is_finite
    rates = [step.size * factors[name] for name in names]
    merged = tf.distribute.get_replica_context().merge_call(
        partial(_update_all, variables, slots, rules, step.is_finite is not None),
        args=(gradients, rates, guard),
    )
    return tf.group(merged)


def _update_all(
    variables: list[tf.Variable],
    slots: list[list[tf.Variable]],
    rules: list[Callable[..., tf.Operation]],
    is_guarded: bool,
    strategy: tf.distribute.Strategy,
    gradients: Any,
    sizes: Any,
    guard: Any,
) -> list[tf.Operation]:
    """Apply the rule of every variable to all its copies; runs in cross-replica context."""
    updates = []
    for variable, own, rule, gradient, size in zip(
        variables, slots, rules, gradients, sizes, strict=True
    ):
        arguments = (gradient, *own, size, guard if is_guarded else None)
        updates += strategy.extended.update(variable, rule, arguments, group=False)
    return updates


def _update_variable(
    optimizer: OptimizerConfig,
    weight_decay: float,
    variable: tf.Variable,
    gradient: tf.Tensor,
    first: tf.Variable,
    second: tf.Variable,
    size: tf.Tensor,
    is_finite: tf.Tensor | None,
) -> tf.Operation:
    """Update one copy of a variable and its slots, on the device that holds it."""
    beta1, beta2 = optimizer.beta1, optimizer.beta2
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
    # All reads before the first write: operations of a graph have no order of their own.
    with tf.control_dependencies([new_first, new_second, new]):
        return tf.group(
            first.assign(new_first, read_value=False),
            second.assign(new_second, read_value=False),
            variable.assign(new, read_value=False),
        )
