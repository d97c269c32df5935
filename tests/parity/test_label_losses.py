"""Weighted and smoothed losses, and several labels: equal in both backends and to the formula."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from support_tf import import_tensorflow

tf = import_tensorflow().compat.v1

from funnel.config.heads import MULTI_LABEL, SINGLE_LABEL
from funnel.config.training.losses import PLAIN_LOSS, LabelLoss
from funnel_tf.models.heads import LabelHead, label_losses
from funnel_torch.models.losses import sequence_loss

CONFIGS = (
    PLAIN_LOSS,
    LabelLoss((), 0.2),
    LabelLoss((0.5, 2.0, 1.0)),
    LabelLoss((0.5, 2.0, 1.0), 0.2),
)
LABELS = {SINGLE_LABEL: [2, 0, 1, 1], MULTI_LABEL: [[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]]}


def expected(logits, labels, kind, config):
    """The documented formula, example by example, in float64."""
    weights, share = torch.tensor(config.weights or (1.0, 1.0, 1.0)).double(), config.smoothing
    total = torch.zeros([], dtype=torch.float64)
    for row, label in zip(logits.double(), labels, strict=True):
        if kind == SINGLE_LABEL:
            terms = -row.log_softmax(-1)
            total += weights[label] * ((1 - share) * terms[label] + share * terms.mean())
        else:
            target = label.double() * (1 - share) + share / 2
            positive, negative = -torch.sigmoid(row).log(), -torch.sigmoid(-row).log()
            total += (weights * target * positive + (1 - target) * negative).mean()
    return total / len(labels)


@pytest.mark.parametrize("kind", LABELS)
def test_both_backends_and_the_formula(kind):
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor(LABELS[kind])
    with tf.Graph().as_default(), tf.Session() as session:
        given = tf.constant(logits.numpy())
        targets = tf.constant(labels.numpy(), tf.int32)
        graph = []
        for config in CONFIGS:
            losses = label_losses(given, targets, LabelHead(3, kind, loss=config))
            loss = tf.reduce_mean(losses)
            graph.append((loss, tf.gradients(loss, given)[0]))
        computed = session.run(graph)
    for config, (loss, gradient) in zip(CONFIGS, computed, strict=True):
        leaf = logits.clone().requires_grad_()
        ours = sequence_loss(leaf, labels, kind, config)
        ours.backward()
        assert ours.item() == pytest.approx(float(loss), abs=1e-6)
        assert ours.item() == pytest.approx(expected(logits, labels, kind, config).item(), abs=1e-6)
        torch.testing.assert_close(leaf.grad, torch.from_numpy(gradient), atol=1e-6, rtol=0)


def test_the_loss_does_not_depend_on_how_a_step_is_divided():
    logits, labels = torch.randn(4, 3), torch.tensor(LABELS[SINGLE_LABEL])
    config = LabelLoss((0.5, 2.0, 1.0), 0.1)
    parts = [sequence_loss(logits[i], labels[i], SINGLE_LABEL, config) for i in ([0, 1], [2, 3])]
    whole = sequence_loss(logits, labels, SINGLE_LABEL, config)
    assert sum(parts).item() / 2 == pytest.approx(whole.item(), abs=1e-6)
