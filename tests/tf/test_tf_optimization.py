"""The optimizer as a graph: update rule, clipping, layer decay, skipped steps, TPU and XLA."""

import math

import numpy as np
import pytest

from funnel.config.training.optimizer import OptimizerConfig, ScheduleConfig
from support_tf import import_tensorflow

tf = import_tensorflow().compat.v1

from funnel_tf.models.variables import variable_name
from funnel_tf.training.optimizer import create_train_op, variable_layers

pytestmark = pytest.mark.slow

SHAPES = {
    "model/input/word_embedding/lookup_table": (7, 3),
    "model/input/layer_norm/gamma": (3,),
    "model/encoder/layer_0/rel_attn/k/bias": (2, 2),
    "model/encoder/layer_0/rel_attn/r_w_bias": (2, 2),
    "model/decoder/layer_1/ff/layer_1/kernel": (3, 4),
    "model/rte/logit/kernel": (3, 2),
}
STEPS = 12


def _gradients(seed=1):
    """Return gradients by step and variable, some of them so small that epsilon matters."""
    random = np.random.default_rng(seed)
    return [
        {name: random.normal(size=s) * 10.0 ** random.integers(-7, 1) for name, s in SHAPES.items()}
        for _ in range(STEPS)
    ]


def _start():
    random = np.random.default_rng(0)
    return {name: random.normal(size=shape).astype("f") for name, shape in SHAPES.items()}


class _Graph:
    """Variables with given gradients: the loss is their scalar product with the values fed."""

    def __init__(self, optimizer, schedule, **options):
        self.graph = tf.Graph()
        with self.graph.as_default():
            self.fed, loss = {}, tf.zeros([])
            for name, value in _start().items():
                variable = tf.get_variable(name, initializer=value, use_resource=True)
                self.fed[name] = tf.placeholder(tf.float32, value.shape)
                loss += tf.reduce_sum(variable * self.fed[name])
            self.op = create_train_op(loss, optimizer, schedule, **options)
            self.variables = {variable_name(v): v for v in tf.global_variables()}
            self.session = tf.Session()
            self.session.run(tf.global_variables_initializer())

    def step(self, gradients):
        feed = {self.fed[name]: value for name, value in gradients.items()}
        return self.session.run(self.op, feed)

    def values(self):
        return self.session.run(self.variables)


def _reference(optimizer, schedule, steps):
    """Compute the published update rule in float64, with clipping and layer decay."""
    layers = {name: variable_layers(SHAPES)[name] for name in SHAPES}
    p = {name: value.astype(np.float64) for name, value in _start().items()}
    m = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    v = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    for k, gradients in enumerate(steps):
        norm = math.sqrt(sum((g**2).sum() for g in gradients.values()))
        factor = min(1.0, optimizer.clip / norm) if optimizer.clip > 0 else 1.0
        t = k + 1
        correction = math.sqrt(1 - optimizer.beta2**t) / (1 - optimizer.beta1**t)
        size = schedule.lr_at(k) * (correction if optimizer.adam_correction else 1.0)
        for name, g in gradients.items():
            layer = layers[name]
            g = g * factor * (1 if layer is None else optimizer.layer_decay_rate ** (2 - layer))
            m[name] = optimizer.beta1 * m[name] + (1 - optimizer.beta1) * g
            v[name] = optimizer.beta2 * v[name] + (1 - optimizer.beta2) * g**2
            plain = "layer_norm" in name or name.endswith("/bias")
            decay = 0.0 if plain and optimizer.use_wd_exclusion else optimizer.weight_decay
            direction = m[name] / (np.sqrt(v[name]) + optimizer.epsilon) + decay * p[name]
            p[name] = p[name] - size * direction
    return p, m, v


@pytest.mark.parametrize(
    ("settings", "schedule"),
    [
        ({}, {}),
        ({"clip": 0.0, "weight_decay": 0.0}, {"warmup_steps": 5}),
        ({"use_wd_exclusion": True}, {"decay_method": "cos", "warmup_steps": 5, "min_lr": 1e-3}),
        ({"adam_correction": False, "layer_decay_rate": 0.75}, {}),
    ],
    ids=["plain", "warm-up", "cosine and exclusion", "layer decay"],
)
def test_rule_in_float64(settings, schedule):
    optimizer = OptimizerConfig(
        **{"name": "funnel_adamw", "weight_decay": 0.1, "clip": 0.5, **settings}
    )
    schedule = ScheduleConfig(1e-2, STEPS, **schedule)
    graph = _Graph(optimizer, schedule)
    for k, gradients in enumerate(_gradients()):
        out = graph.step(gradients)
        norm = math.sqrt(sum((g**2).sum() for g in gradients.values()))
        assert out.learning_rate == pytest.approx(schedule.lr_at(k), rel=1e-6, abs=1e-9)
        assert out.gradient_norm == pytest.approx(norm, rel=1e-5)
    found, (p, m, v) = graph.values(), _reference(optimizer, schedule, _gradients())
    for name in SHAPES:
        np.testing.assert_allclose(found[name], p[name], rtol=0, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(found[f"{name}/adam_m"], m[name], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found[f"{name}/adam_v"], v[name], rtol=1e-4, atol=1e-6)
    assert found["global_step"] == STEPS


def test_layer_decay_of_rates_leaves_gradients_alone():
    """With q = 0.5 and two layers, the input (layer 0 of 3) moves a quarter as far as the head."""
    optimizer = OptimizerConfig(
        "funnel_adamw", weight_decay=0.0, clip=0.0, layer_decay_rate=0.5, layer_decay="lr"
    )
    graph = _Graph(optimizer, ScheduleConfig(0.1, 10))
    graph.step({name: np.ones(shape) for name, shape in SHAPES.items()})
    moved = {n: np.abs(graph.values()[n] - value).max() for n, value in _start().items()}
    expected = dict(zip(SHAPES, (0.25, 0.25, 0.5, 0.5, 1.0, 1.0), strict=True))
    for name, share in expected.items():
        assert moved[name] == pytest.approx(0.1 * share, rel=1e-3)


def test_gradients_of_a_repeated_row_are_summed_before_the_norm():
    with tf.Graph().as_default(), tf.Session() as session:
        table = tf.get_variable("t", [5, 1], initializer=tf.ones_initializer(), use_resource=True)
        loss = tf.reduce_sum(tf.gather(table, [3, 3]))
        op = create_train_op(loss, OptimizerConfig("funnel_adamw"), ScheduleConfig(0.1, 10))
        session.run(tf.global_variables_initializer())
        assert session.run(op.gradient_norm) == pytest.approx(2.0)


def test_a_step_that_is_not_finite_is_skipped_and_counted():
    optimizer, schedule = OptimizerConfig("funnel_adamw"), ScheduleConfig(1e-2, 10)
    graph, steps = _Graph(optimizer, schedule, skip_nan_grad=True), _gradients()[:3]
    before, out = None, None
    broken = {name: value.copy() for name, value in steps[0].items()}
    broken["model/rte/logit/kernel"][0, 0] = np.nan
    for gradients in (steps[0], broken, steps[1], steps[2]):
        out = graph.step(gradients)
        if gradients is broken:
            after = graph.values()
            assert all(np.array_equal(before[name], after[name]) for name in SHAPES)
        before = graph.values()
    assert out.skipped == 1 and out.step == 4 and math.isfinite(out.gradient_norm)
    assert graph.values()["global_step"] == 4 and graph.values()["skipped_steps"] == 1

    untouched = _Graph(optimizer, schedule)
    untouched.step(broken)
    assert np.isnan(untouched.values()["model/rte/logit/kernel"]).any()


def test_a_variable_that_the_loss_does_not_depend_on_is_named():
    with tf.Graph().as_default():
        used, _ = (tf.get_variable(name, [1], use_resource=True) for name in ("used", "unused"))
        with pytest.raises(ValueError, match="depend on unused"):
            create_train_op(
                tf.reduce_sum(used), OptimizerConfig("funnel_adamw"), ScheduleConfig(0.1, 10)
            )


@pytest.mark.parametrize("per_core_clip", [True, False])
def test_cross_shard_optimizer_builds_for_a_tpu(per_core_clip, monkeypatch):
    """Two cores with the same input take the step of one; the collective is a factor of 2."""
    from tensorflow.python.tpu import tpu_function

    monkeypatch.setattr(tf.tpu, "cross_replica_sum", lambda x: 2.0 * x)
    optimizer, schedule = OptimizerConfig("funnel_adamw"), ScheduleConfig(1e-2, 10)
    with tpu_function.tpu_shard_context(2):
        two = _Graph(optimizer, schedule, use_tpu=True, per_core_clip=per_core_clip)
    one = _Graph(optimizer, schedule)
    for gradients in _gradients()[:3]:
        assert two.step(gradients).gradient_norm == one.step(gradients).gradient_norm
    found, expected = two.values(), one.values()
    for name in SHAPES:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6, atol=1e-7)


def test_xla_compiles_the_update_and_computes_the_same():
    optimizer = OptimizerConfig("funnel_adamw", weight_decay=0.1, layer_decay_rate=0.5)
    schedule = ScheduleConfig(0.1, 10, 2)
    data = np.random.default_rng(0).normal(size=(4, 3)).astype("f")

    def step(x):
        name, ones = "model/encoder/layer_0/w", tf.ones_initializer()
        weights = tf.get_variable(name, [3], initializer=ones, use_resource=True)
        loss = tf.reduce_sum(tf.square(tf.linalg.matvec(x, weights)))
        op = create_train_op(loss, optimizer, schedule, use_tpu=True, skip_nan_grad=True)
        with tf.control_dependencies([op.train_op]):
            return [tf.identity(op.gradient_norm), tf.identity(op.learning_rate)]

    def after_three(compiled):
        with tf.Graph().as_default(), tf.Session() as session:
            x = tf.constant(data)
            out = tf.xla.experimental.compile(step, [x]) if compiled else step(x)
            session.run(tf.global_variables_initializer())
            found = [session.run(out) for _ in range(3)]
            return np.concatenate([np.ravel(found), *map(np.ravel, _global_values(session))])

    np.testing.assert_allclose(after_three(True), after_three(False), rtol=1e-5, atol=1e-7)


def _global_values(session):
    return session.run(sorted(tf.global_variables(), key=lambda variable: variable.name))
