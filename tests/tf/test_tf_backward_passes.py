"""Backward passes that are written out equal those that TensorFlow derives."""

from unittest import mock

import numpy as np
import pytest

from support_tf import import_tensorflow

tf = import_tensorflow().compat.v1

from funnel.config.model import ModelConfig
from funnel_tf.models import softmax_product as module
from funnel_tf.models.layers import layer_norm
from funnel_tf.models.options import GraphOptions
from funnel_tf.models.softmax_product import softmax_product

CONFIG = ModelConfig(
    vocab_size=11, d_model=12, d_embed=12, n_head=2, d_head=5, d_inner=8, block_size="1_1",
    decoder_size="1", dropout=0.0, dropatt=0.0, layer_norm_eps=1e-3,
)  # fmt: skip
RANDOM = np.random.default_rng(0)


def _random(*shape):
    return tf.constant(RANDOM.normal(size=shape), tf.float32)


def _run(*tensors):
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        return session.run(tensors)


def _plain_product(scores, values, factors):
    return tf.matmul(tf.nn.softmax(scores) * factors, values)


@pytest.mark.parametrize("dropped", [False, True])
def test_softmax_product(dropped):
    """The same output and gradients as softmax, dropout and product one after the other."""
    with tf.Graph().as_default():
        scores, values = 3 * _random(2, 3, 4, 5), _random(2, 3, 5, 6)
        factors = tf.constant(2.0 * RANDOM.integers(0, 2, (2, 3, 4, 5)), tf.float32)
        if not dropped:
            factors = tf.ones_like(factors)
        with mock.patch.object(module, "dropout", lambda ones, *_: ones * factors):
            output = softmax_product(scores, values, 0.5, GraphOptions(is_training=True))
        expected = _plain_product(scores, values, factors)
        upstream = _random(2, 3, 4, 6)
        found, wanted = (tf.gradients(x, [scores, values], upstream) for x in (output, expected))
        one, other = _run([output, *found], [expected, *wanted])
    for ours, theirs in zip(one, other, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_dropout_drops_the_same_probabilities_in_both_passes():
    """With a value of 1 the output is a sum of kept probabilities, by which it can be divided."""
    options = GraphOptions(is_training=True)
    with tf.Graph().as_default():
        scores, values = tf.zeros([1, 50, 8]), tf.ones([1, 8, 1])
        output = softmax_product(scores, values, 0.5, options)
        (by_values,) = tf.gradients(output, [values])
        found, gradient = _run(output, by_values)
    # Kept probabilities are 2 / 8 each; both sums are over all of them.
    assert found.sum() == pytest.approx(gradient.sum(), rel=1e-5)
    assert 30 < found.sum() < 70 and len(np.unique(found)) > 2


def test_layer_norm():
    with tf.Graph().as_default():
        hidden, upstream = _random(2, 3, 7) + 5, _random(2, 3, 7)
        output = layer_norm(hidden, CONFIG)
        beta, gamma = tf.global_variables()
        factors, shifts = 1 + _random(7), _random(7)
        assigned = [gamma.assign(factors), beta.assign(shifts)]
        mean, variance = tf.nn.moments(hidden, [-1], keepdims=True)
        expected = (hidden - mean) * tf.rsqrt(variance + 1e-3) * factors + shifts
        found = tf.gradients(output, [hidden, gamma, beta], upstream)
        wanted = tf.gradients(expected, [hidden, factors, shifts], upstream)
        with tf.Session() as session:
            session.run(assigned)
            one, other = session.run([[output, *found], [expected, *wanted]])
    for ours, theirs in zip(one, other, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_bfloat16_stays_bfloat16():
    with tf.Graph().as_default():
        hidden = tf.cast(_random(2, 8, 8), tf.bfloat16)
        output = softmax_product(layer_norm(hidden, CONFIG), hidden, 0.0, GraphOptions())
        gradients = tf.gradients(output, [hidden, *tf.global_variables()])
    assert output.dtype == gradients[0].dtype == tf.bfloat16
    assert {gradient.dtype for gradient in gradients[1:]} == {tf.float32}
