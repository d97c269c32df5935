"""The token classifiers of both backends and of transformers: logits, losses, gradients."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from support_tf import import_tensorflow

tf = import_tensorflow().compat.v1

from funnel.checkpoints.names import expected_shapes
from funnel.config.model import ModelConfig
from funnel_tf.models.options import GraphOptions
from funnel_tf.models.token_classification import token_head
from funnel_torch import FunnelForTokenClassification
from parity_cases import random_tensors
from parity_models import assert_close, assert_same_tensors, filled, gradients
from tf_graphs import compute, make_inputs, random_batch

VOCAB, LENGTH, LABELS = 23, 9, 3
CONFIG = ModelConfig(
    vocab_size=VOCAB, d_model=12, d_embed=12, n_head=2, d_head=5, d_inner=20,
    block_size="1_1", decoder_size="1", dropout=0.0, dropatt=0.0,
)  # fmt: skip


def _tensors():
    return random_tensors(
        expected_shapes(CONFIG, heads=["token_classification"], num_labels=LABELS)
    )


def test_tensorflow_and_pytorch():
    """Some tokens have no label, and the last example only fills up the batch."""
    tensors, batch = _tensors(), random_batch(LENGTH, VOCAB)
    labels = torch.arange(3 * LENGTH).reshape(3, LENGTH) % (LABELS + 1) - 1

    def build():
        inputs, weights = make_inputs(batch), tf.constant([1.0, 1.0, 0.0])
        given = tf.constant(labels.numpy(), tf.int32)
        given = {"labels": given, "weights": weights}
        found = token_head(CONFIG, inputs, GraphOptions(), LABELS, **given)
        return found._asdict()

    computed = compute(build, tensors)
    model = filled(FunnelForTokenClassification(CONFIG, LABELS), tensors)
    wanted = labels.masked_fill(labels < 0, -100)
    everything = model(*batch.inputs)
    assert_close(computed.outputs["logits"], everything.logits)
    found = computed.outputs["predictions"]["predictions"].long()
    assert torch.equal(found, everything.logits.argmax(-1))
    wanted[2] = -100
    loss = model(*batch.inputs, labels=wanted).loss
    assert_close(computed.outputs["loss"], loss, "loss")
    loss.backward()
    assert_same_tensors(computed.gradients, gradients(model))


def test_logits_of_words_are_those_of_their_positions():
    model, batch = filled(FunnelForTokenClassification(CONFIG, LABELS), _tensors()), None
    batch = random_batch(LENGTH, VOCAB)
    places = torch.tensor([[1, 4, 0], [2, 3, 5], [0, 0, 8]])
    everything = model(*batch.inputs).logits
    found = model(*batch.inputs, labels=places % LABELS, word_positions=places)
    assert_close(found.logits, everything[torch.arange(3)[:, None], places])
    loss = torch.nn.functional.cross_entropy(
        found.logits.flatten(0, 1), (places % LABELS).flatten()
    )
    assert_close(found.loss, loss)


def test_transformers_computes_the_same_logits(tmp_path):
    transformers = pytest.importorskip("transformers")
    model = filled(FunnelForTokenClassification(CONFIG, LABELS), _tensors())
    assert model.save_pretrained(tmp_path, labels=["O", "B-X", "I-X"]) == []
    theirs = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path).eval()
    assert theirs.config.id2label == {0: "O", 1: "B-X", 2: "I-X"}
    batch = random_batch(LENGTH, VOCAB)
    ids, types = batch.input_ids, batch.token_type_ids
    with torch.no_grad():
        assert_close(model(ids, None, types).logits, theirs(ids, token_type_ids=types).logits)
    theirs.save_pretrained(tmp_path / "again")
    again = FunnelForTokenClassification.from_pretrained(tmp_path / "again")
    with torch.no_grad():
        assert_close(again(ids, None, types).logits, model(ids, None, types).logits)
