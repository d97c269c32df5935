"""MLM and ELECTRA: TensorFlow and PyTorch agree on losses, metrics, gradients and five steps."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from support_tf import import_tensorflow

tf = import_tensorflow().compat.v1

from funnel.checkpoints.names import expected_shapes
from funnel.config.heads import PretrainingConfig
from funnel.config.training.optimizer import OptimizerConfig, ScheduleConfig
from funnel_tf.models.electra import electra_graph, gumbel_noise, mlm_graph
from funnel_tf.models.options import GraphOptions
from funnel_tf.models.variables import assign_tensors
from funnel_tf.training.optimizer import create_train_op
from funnel_torch import ElectraPretraining, MLMPretraining
from funnel_torch.models.weight_mapping import export_tensors
from funnel_torch.training.optimizer import (
    build_optimizer,
    clip_gradients,
    scale_gradients,
    set_learning_rate,
)
from funnel_torch.training.pretraining_metrics import summarize
from parity_cases import random_tensors
from parity_models import assert_close, assert_same_tensors, filled, gradients
from pretraining_cases import CONFIGS, electra_tensors, masked_batch, noise_for
from tf_graphs import ONE_RUN, compute, make_features

pytestmark = pytest.mark.slow

OPTIONS = GraphOptions()
PLAIN = CONFIGS["plain"].replace(block_size="1_1")
CASES = {
    "plain": (PLAIN, PretrainingConfig()),
    "factorized": (
        CONFIGS["projected"].replace(rel_attn_type="factorized", block_size="1_1x2"),
        PretrainingConfig(hide_masked=False, disc_coeff=3.0),
    ),
}


def constants(batch):
    return {name: tf.constant(array) for name, array in make_features(batch).items()}


def check(computed, model, output):
    for name in ("loss", "mlm_loss", "disc_loss"):
        if getattr(output, name) is not None:
            assert_close(computed.outputs[name], getattr(output, name), name)
    found = {name: float(a / max(b, 1)) for name, (a, b) in computed.outputs["metrics"].items()}
    assert found == pytest.approx(summarize(output.sums), abs=1e-5)
    output.loss.backward()
    assert_same_tensors(computed.gradients, gradients(model))


@pytest.mark.parametrize("case", CASES)
def test_mlm(case):
    config, pretraining = CASES[case]
    batch = masked_batch()
    tensors = random_tensors(expected_shapes(config, heads=["mlm"]))

    def build():
        output = mlm_graph(config, constants(batch), OPTIONS, pretraining)
        return {"loss": output.loss, "mlm_loss": output.mlm_loss, "metrics": output.metrics}

    model = filled(MLMPretraining(config, pretraining), tensors)
    check(compute(build, tensors), model, model(batch))


@pytest.mark.parametrize("case", CASES)
def test_electra(case):
    config, pretraining = CASES[case]
    batch = masked_batch()
    noise, tensors = noise_for(batch).float(), electra_tensors(config)

    def build():
        inputs = constants(batch)
        return electra_graph(config, inputs, OPTIONS, pretraining, noise.numpy())._asdict()

    computed = compute(build, tensors)
    model = filled(ElectraPretraining(config, pretraining), tensors)
    output = model(batch, noise)
    assert_close(computed.outputs["disc_logits"], output.disc_logits)
    assert torch.equal(computed.outputs["is_replaced"].bool(), output.is_replaced)
    assert output.is_replaced.any()
    check(computed, model, output)


def test_nothing_to_predict_is_no_loss():
    """The last batch of an evaluation is filled up with rows of padding."""
    config, batch = CONFIGS["one_block"], masked_batch((17, 5))
    nothing = batch._replace(
        target_mask=torch.zeros_like(batch.target_mask),
        attention_mask=torch.zeros_like(batch.attention_mask),
    )

    def build():
        output = electra_graph(config, constants(nothing), OPTIONS)
        return {"loss": output.loss, "replaced": tf.reduce_sum(output.is_replaced)}

    computed = compute(build, electra_tensors(config))
    assert computed.outputs["loss"] == 0 and computed.outputs["replaced"] == 0
    assert all(torch.isfinite(gradient).all() for gradient in computed.gradients.values())


def test_samples_follow_the_generator():
    """The arg max of logits plus Gumbel noise is distributed as their softmax."""
    probabilities = np.array([0.6, 0.3, 0.1])
    with tf.Graph().as_default(), tf.Session(config=ONE_RUN) as session:
        tf.set_random_seed(1)
        drawn = tf.argmax(np.log(probabilities) + tf.cast(gumbel_noise([20_000, 3]), "double"), -1)
        shares = np.bincount(session.run(drawn)) / 20_000
    np.testing.assert_allclose(shares, probabilities, atol=0.02)


def test_five_steps():
    """Forward, backward, clipping, layer decay, exclusion from decay, warm-up and the update."""
    config, steps = PLAIN, 5
    optimizer = OptimizerConfig(
        name="funnel_adamw", weight_decay=0.1, use_wd_exclusion=True, layer_decay_rate=0.75
    )
    schedule = ScheduleConfig(lr=1e-3, total_steps=8, warmup_steps=2, min_lr=1e-4)
    batches = [masked_batch(seed=step) for step in range(steps)]
    noises = [noise_for(batch, seed).float() for seed, batch in enumerate(batches)]
    tensors = electra_tensors(config)

    model = filled(ElectraPretraining(config), tensors)
    adam = build_optimizer(model, optimizer)
    expected = []
    for step, (batch, noise) in enumerate(zip(batches, noises, strict=True)):
        adam.zero_grad()
        loss = model(batch, noise).loss
        loss.backward()
        clip_gradients(model.parameters(), optimizer.clip)
        scale_gradients(adam)
        set_learning_rate(adam, schedule.lr_at(step))
        adam.step()
        expected.append(loss.item())

    with tf.Graph().as_default(), tf.Session(config=ONE_RUN) as session:
        fed = {
            name: tf.placeholder(a.dtype, a.shape) for name, a in make_features(batches[0]).items()
        }
        noise = tf.placeholder(tf.float32, noises[0].shape)
        loss = electra_graph(config, fed, OPTIONS, noise=noise).loss
        update = create_train_op(loss, optimizer, schedule).train_op
        session.run(tf.global_variables_initializer())
        assign_tensors(session, {name: tensor.numpy() for name, tensor in tensors.items()})
        losses = []
        for batch, drawn in zip(batches, noises, strict=True):
            feed = {fed[name]: array for name, array in make_features(batch).items()}
            losses.append(session.run((loss, update), feed | {noise: drawn.numpy()})[0])
        weights = session.run({variable.op.name: variable for variable in tf.trainable_variables()})
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    ours = {name: torch.from_numpy(array) for name, array in weights.items()}
    theirs = {name: torch.from_numpy(np.array(a)) for name, a in export_tensors(model).items()}
    assert_same_tensors(ours, theirs)
    moved = [not torch.allclose(ours[name], tensor, atol=1e-4) for name, tensor in tensors.items()]
    assert np.mean(moved) > 0.9
