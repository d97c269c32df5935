"""Encoder and decoder: TensorFlow and PyTorch compute the same states, outputs and gradients."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from support_tf import import_tensorflow

tf = import_tensorflow().compat.v1

from funnel.checkpoints import load_checkpoint, save_checkpoint
from funnel.checkpoints.names import expected_shapes
from funnel.config.model import ModelConfig
from funnel.utils.errors import DataError
from funnel_tf.models.modeling import ModelInputs, funnel_decoder, funnel_encoder
from funnel_tf.models.options import GraphOptions
from funnel_torch import FunnelModel
from parity_cases import random_tensors
from parity_models import (
    assert_all_close,
    assert_close,
    assert_same_tensors,
    direction,
    filled,
    gradients,
)
from tf_graphs import ONE_RUN, compute, make_inputs, random_batch

pytestmark = pytest.mark.slow

VOCAB = 23
CONFIG = ModelConfig(
    vocab_size=VOCAB, d_model=12, d_embed=12, n_head=2, d_head=5, d_inner=20,
    block_size="1_1_1", decoder_size="1", dropout=0.0, dropatt=0.0,
)  # fmt: skip
# Changes to the config, length, and whether mask and segments are omitted.
CASES = {
    "shift": ({}, 16, False),
    "factorized": ({"rel_attn_type": "factorized"}, 13, False),
    "repeats": (
        {"block_size": "1_2x2_1x2", "decoder_size": "1x2", "truncate_seq": False}, 11, False,
    ),
    "factorized_all_pooled": (
        {"rel_attn_type": "factorized", "pool_q_only": False, "pooling_type": "max"}, 15, False,
    ),
    "no_cls": ({"separate_cls": False, "pool_q_only": False}, 13, False),
    "factorized_no_cls": ({"separate_cls": False, "rel_attn_type": "factorized"}, 10, True),
    "null": ({"rel_attn_type": "null", "d_embed": 8, "ff_activation": "relu"}, 9, False),
    "projected": ({"d_embed": 8, "ff_activation": "tanh", "pooling_type": "max"}, 12, True),
    "windows_of_three": ({"pooling_size": 3, "decoder_size": "0"}, 14, False),
    "one_block": ({"block_size": "2", "decoder_size": "0"}, 7, False),
    "four_tokens": ({"truncate_seq": False}, 4, False),
    "one_token": ({}, 1, False),
}  # fmt: skip


PLAIN = GraphOptions()


def build(config, batch, options=PLAIN):
    """Return all states and outputs, and a loss that projects the outputs on fixed directions."""
    encoded = funnel_encoder(config, make_inputs(batch), options)
    decoded = funnel_decoder(config, encoded, options)
    loss = 0.0
    for output in (encoded.output, decoded):
        weights = direction(torch.Size(output.shape.as_list())).float().numpy()
        loss += tf.reduce_sum(output * weights)
    return {"states": encoded.hidden_states, "decoded": decoded, "loss": loss}


def check(config, batch, tensors, computed):
    model = filled(FunnelModel(config), tensors)
    output = model(*batch.inputs, output_hidden_states=True)
    assert_all_close(computed.outputs["states"], output.hidden_states, "state")
    assert_close(computed.outputs["decoded"], output.last_hidden_state, "decoder")
    outputs = (output.encoder_last_hidden_state, output.last_hidden_state)
    sum((out * direction(out.shape).float()).sum() for out in outputs).backward()
    assert_same_tensors(computed.gradients, gradients(model))


@pytest.mark.parametrize("case", CASES)
def test_states_and_gradients(case):
    changes, length, plain = CASES[case]
    config = CONFIG.replace(**changes)
    batch = random_batch(length, VOCAB, plain=plain)
    tensors = random_tensors(expected_shapes(config))
    check(config, batch, tensors, compute(lambda: build(config, batch), tensors))


def test_tensorflow_checkpoints_exchange_weights_in_both_directions(tmp_path):
    """TensorFlow restores what PyTorch saved, and PyTorch loads what TensorFlow saved."""
    batch = random_batch(8, VOCAB)
    model = filled(FunnelModel(CONFIG), random_tensors(expected_shapes(CONFIG)))
    model.save_pretrained(tmp_path / "hf")
    save_checkpoint(load_checkpoint(tmp_path / "hf"), tmp_path / "tf", "tf")
    with tf.Graph().as_default(), tf.Session(config=ONE_RUN) as session:
        outputs = build(CONFIG, batch)
        saver = tf.train.Saver(tf.trainable_variables())
        saver.restore(session, str(tmp_path / "tf" / "model.ckpt"))
        states, decoded = session.run((outputs["states"], outputs["decoded"]))
        (tmp_path / "back").mkdir()
        saver.save(session, str(tmp_path / "back" / "model.ckpt"))
    CONFIG.save_net_config(tmp_path / "back" / "net_config.json")
    back = FunnelModel.from_pretrained(tmp_path / "back")
    pairs = zip(model.parameters(), back.parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    with torch.no_grad():
        expected = back(*batch.inputs, output_hidden_states=True)
    assert_all_close(map(torch.from_numpy, states), expected.hidden_states, "state")
    assert_close(torch.from_numpy(decoded), expected.last_hidden_state)


def test_variable_names_and_initial_values_of_a_new_graph():
    config = CONFIG.replace(d_embed=8, init="uniform", init_range=0.5)
    with tf.Graph().as_default(), tf.Session(config=ONE_RUN) as session:
        tf.set_random_seed(0)
        build(config, random_batch(8, VOCAB))
        session.run(tf.global_variables_initializer())
        values = session.run({variable.op.name: variable for variable in tf.global_variables()})
    assert {name: value.shape for name, value in values.items()} == expected_shapes(config)
    for name, value in values.items():
        if name.endswith(("/bias", "/beta")):
            assert not value.any(), name
        elif name.endswith("gamma"):
            assert (value == 1).all(), name
        else:
            assert value.std() > 0.1 and np.abs(value).max() <= 0.5, name


@pytest.mark.parametrize("form", ["rel_shift", "factorized"])
def test_dropout_acts_in_training_only(form):
    config = CONFIG.replace(block_size="1_1", rel_attn_type=form)
    tensors = random_tensors(expected_shapes(config))
    config, batch = config.replace(dropout=0.5, dropatt=0.5, dropact=0.5), random_batch(8, VOCAB)
    modes = {"off": False, "still_off": False, "on": True, "on_again": True}

    def outputs():
        options = {name: GraphOptions(is_training=is_on) for name, is_on in modes.items()}
        return {name: build(config, batch, option)["decoded"] for name, option in options.items()}

    found = compute(outputs, tensors, gradients_of=None).outputs
    assert torch.equal(found["off"], found["still_off"])
    for one, other in (("on", "off"), ("on", "on_again")):
        assert (found[one] - found[other]).abs().mean() > 0.1


def test_baseline_refuses_more_tokens_than_positions():
    config = CONFIG.replace(rel_attn_type="null")
    with tf.Graph().as_default(), pytest.raises(DataError, match="513"):
        funnel_encoder(config, ModelInputs(tf.zeros([1, 513], tf.int32)), GraphOptions())
