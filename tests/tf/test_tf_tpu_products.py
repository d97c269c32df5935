"""What TPUs compute by other products than CPUs and GPUs has the same values and gradients."""

import numpy as np
import pytest

from support_tf import import_tensorflow

tf = import_tensorflow().compat.v1

from funnel.config.model import ModelConfig
from funnel_tf.models import attention, modeling
from funnel_tf.models.attention_inputs import Sinusoids, pool_by_product, pool_hidden
from funnel_tf.models.modeling import upsample, upsample_by_product
from funnel_tf.models.options import GraphOptions

CONFIG = ModelConfig(
    vocab_size=11, d_model=8, d_embed=8, n_head=2, d_head=4, d_inner=8, block_size="1_1_1",
    decoder_size="1", dropout=0.0, dropatt=0.0,
)  # fmt: skip
CLS = [
    {"separate_cls": True, "truncate_seq": True},
    {"separate_cls": True, "truncate_seq": False},
    {"separate_cls": False},
]


def _random(*shape):
    return tf.constant(np.random.default_rng(sum(shape)).normal(size=shape), tf.float32)


def _compare(build, other, *inputs):
    """Compare values and gradients of two functions of the inputs."""
    one, two = build(*inputs), other(*inputs)
    upstream = _random(*one.shape.as_list())
    with tf.Session() as session:
        found, wanted = session.run(
            [[x, *tf.gradients(x, list(inputs), upstream)] for x in (one, two)]
        )
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cls", CLS)
@pytest.mark.parametrize("length", [5, 8, 9])
@pytest.mark.parametrize("size", [2, 3])
def test_pooling(cls, length, size):
    config = CONFIG.replace(pooling_size=size, pooling_type="mean", **cls)
    with tf.Graph().as_default():
        _compare(
            lambda hidden: pool_by_product(hidden, config),
            lambda hidden: pool_hidden(hidden, config, "mean"),
            _random(2, length, 3),
        )


@pytest.mark.parametrize("cls", CLS)
@pytest.mark.parametrize("length", [3, 8, 9, 20])
def test_upsampling(cls, length):
    """To lengths that cut repeated positions, and to lengths that need zeros."""
    config = CONFIG.replace(**cls)
    with tf.Graph().as_default():
        _compare(
            lambda hidden: upsample_by_product(hidden, length, config),
            lambda hidden: upsample(hidden, length, config),
            _random(2, 3, 4),
        )


def test_position_scores():
    """Queries and keys of different lengths, and tables that dropout has made irregular."""
    with tf.Graph().as_default():
        sinusoids = Sinusoids(_random(3, 4), _random(3, 5)[:, :4], _random(6, 8))
        context = attention.AttentionContext(
            3, 6, None, None, sinusoids, None, None, np.ones((3, 1)), np.ones(6)
        )
        _compare(
            *(
                lambda queries, weights, options=options: attention._factorized_scores(
                    queries, weights, context, options
                )
                for options in (GraphOptions(use_tpu=True), GraphOptions())
            ),
            _random(2, 2, 3, 4),
            _random(8, 2, 4),
        )


@pytest.mark.parametrize("use_bfloat16", [False, True])
def test_float32_states_are_resized_without_products(monkeypatch, use_bfloat16):
    """A TPU's products of float32 would round hidden states to bfloat16."""
    called = []
    for name in ("pool_by_product", "upsample_by_product"):
        real = getattr(modeling, name)
        monkeypatch.setattr(
            modeling, name, lambda *a, real=real, name=name: called.append(name) or real(*a)
        )
    options = GraphOptions(use_tpu=True, use_bfloat16=use_bfloat16)
    with tf.Graph().as_default():
        tokens = tf.constant(np.ones((1, 8), np.int32))
        inputs = modeling.ModelInputs(tokens, tf.ones([1, 8]), tokens * 0)
        modeling.funnel_decoder(CONFIG, modeling.funnel_encoder(CONFIG, inputs, options), options)
    assert called == ["pool_by_product"] * 2 * use_bfloat16 + ["upsample_by_product"] * use_bfloat16
