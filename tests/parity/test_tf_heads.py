"""Fine-tuning heads: TensorFlow and PyTorch compute the same outputs and gradients."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from support_tf import import_tensorflow

tf = import_tensorflow().compat.v1

from funnel.checkpoints.names import expected_shapes
from funnel.config.heads import AnswerConfig
from funnel.config.model import ModelConfig
from funnel_tf.models.heads import classification_head, race_head
from funnel_tf.models.modeling import ModelInputs
from funnel_tf.models.options import GraphOptions
from funnel_tf.models.question_answering import squad_head
from funnel_torch import (
    FunnelForMultipleChoice,
    FunnelForQuestionAnswering,
    FunnelForSequenceClassification,
)
from funnel_torch.models.question_answering import AnswerTargets
from parity_cases import random_tensors
from parity_models import assert_close, assert_same_tensors, filled, gradients
from tf_graphs import compute, make_inputs, random_batch

VOCAB, LENGTH = 23, 9
CONFIG = ModelConfig(
    vocab_size=VOCAB, d_model=12, d_embed=12, n_head=2, d_head=5, d_inner=20,
    block_size="1_1", decoder_size="1", dropout=0.0, dropatt=0.0,
)  # fmt: skip
OPTIONS = GraphOptions()


def tensors_for(*heads, decoder=False, num_labels=2):
    shapes = expected_shapes(CONFIG, decoder=decoder, heads=heads, num_labels=num_labels)
    return random_tensors(shapes)


def check_gradients(computed, model, loss):
    assert_close(computed.outputs["loss"], loss, "loss")
    loss.backward()
    assert_same_tensors(computed.gradients, gradients(model))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("labels", "regression"), [([2, 0, 1], False), ([0.5, 4.0, -1.0], True)], ids=str
)
def test_classification_and_regression(labels, regression):
    """The last example fills up the batch: it has a label but weight 0."""
    num_labels = 1 if regression else 3
    tensors = tensors_for("summary", "classification", num_labels=num_labels)
    batch = random_batch(LENGTH, VOCAB)

    def build():
        head = {"num_labels": num_labels, "regression": regression}
        weights = tf.constant([1.0, 1.0, 0.0])
        inputs = make_inputs(batch)
        return classification_head(
            CONFIG, inputs, tf.constant(labels), weights, OPTIONS, **head
        )._asdict()

    computed = compute(build, tensors)
    model = filled(FunnelForSequenceClassification(CONFIG, num_labels, regression), tensors)
    everything = model(*batch.inputs, labels=torch.tensor(labels))
    real = model(*(part[:2] for part in batch.inputs), labels=torch.tensor(labels[:2]))
    assert_close(computed.outputs["logits"], everything.logits)
    assert_close(computed.outputs["per_example_loss"].mean(), everything.loss)
    logits, found = computed.outputs["logits"], computed.outputs["predictions"]["predictions"]
    assert torch.equal(found.long() if not regression else found,
                       logits[:, 0] if regression else logits.argmax(-1))  # fmt: skip
    check_gradients(computed, model, real.loss)


def test_race():
    """The four candidates of a question are concatenated in a row."""
    tensors, batch = tensors_for("summary", "race"), random_batch(LENGTH, VOCAB, size=8)
    labels = torch.tensor([3, 0])

    def build():
        rows = (tf.reshape(part, [2, 4 * LENGTH]) for part in make_inputs(batch))
        return race_head(CONFIG, ModelInputs(*rows), tf.constant(labels), None, OPTIONS)._asdict()

    computed = compute(build, tensors)
    model = filled(FunnelForMultipleChoice(CONFIG), tensors)
    output = model(*(part.view(2, 4, LENGTH) for part in batch.inputs), labels=labels)
    assert_close(computed.outputs["logits"], output.logits)
    check_gradients(computed, model, output.loss)


ANSWERS = {
    "conditional": (AnswerConfig(start_n_top=3, end_n_top=2), ("squad", "answer_class")),
    "no_class": (AnswerConfig(use_answer_class=False), ("squad",)),
    "independent": (
        AnswerConfig(False, use_masked_loss=False, end_n_top=20, ans_loss_weight=0.7),
        ("question_answering", "answer_class"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ANSWERS)
def test_answers(kind):
    """Loss with gold answers and beam search without them, for the same weights."""
    answers, heads = ANSWERS[kind]
    tensors, batch = tensors_for(*heads, decoder=True), random_batch(LENGTH, VOCAB)
    features = {
        "p_mask": (torch.arange(LENGTH)[None] % 4 == 3).float().repeat(3, 1),
        "cls_index": torch.tensor([0, 0, 2]),
    }
    gold = AnswerTargets(
        torch.tensor([0, 4, 2]), torch.tensor([0, 5, 2]), torch.tensor([1.0, 0.0, 0.0])
    )

    def build():
        found = {name: tf.constant(value.numpy()) for name, value in features.items()}
        found["cls_index"] = tf.cast(found["cls_index"], tf.int32)
        targets = {name: tf.constant(value.numpy()) for name, value in gold._asdict().items()}
        inputs = make_inputs(batch)
        training = squad_head(CONFIG, inputs, found | targets, OPTIONS, answers)
        beam = squad_head(CONFIG, inputs, found, OPTIONS, answers)
        beam = beam._replace(loss=tf.zeros([]))
        return {"loss": training.loss, "training": training, "beam": beam}

    computed = compute(build, tensors)
    model = filled(FunnelForQuestionAnswering(CONFIG, answers), tensors)
    for name, targets in (("beam", None), ("training", gold)):
        output = model(*batch.inputs, **features, targets=targets)
        ours = computed.outputs[name]
        for field in output._fields[1:]:
            assert_close(getattr(ours, field), getattr(output, field), f"{name} {field}")
    assert list(ours.predictions()) == list(output._fields[3:])
    check_gradients(computed, model, output.loss)
