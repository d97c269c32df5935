"""Every head against the float64 reference, on padded batches: logits, losses and gradients."""

import pytest

torch = pytest.importorskip("torch")

from hypothesis import assume, given
from hypothesis import strategies as st

import reference_heads as heads
from funnel_torch import (
    FunnelForMaskedLM,
    FunnelForMultipleChoice,
    FunnelForPreTraining,
    FunnelForQuestionAnswering,
    FunnelForSequenceClassification,
    FunnelForTokenClassification,
)
from funnel_torch.models.question_answering import AnswerConfig, AnswerTargets
from parity_cases import (
    VOCAB,
    batches,
    doubles,
    model_configs,
    parity_settings,
    random_tensors,
)
from parity_models import assert_close, assert_same_tensors, filled, gradients, leaf_gradients
from reference_funnel import parameter_shapes, run_model

BEAM_FIELDS = (
    "start_top_log_probs", "start_top_index", "end_top_log_probs", "end_top_index", "cls_logits",
)  # fmt: skip


class Case:
    """A random model with one head, a batch, and the reference's hidden states for it."""

    def __init__(self, data, shapes_of_head, decoder, min_length=1):
        self.config = data.draw(model_configs())
        drawn = batches(self.config).filter(lambda batch: batch.input_ids.shape[1] >= min_length)
        self.batch = data.draw(drawn)
        self.generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**20)))
        shapes = parameter_shapes(self.config, decoder=decoder) | shapes_of_head(self.config)
        self.tensors = random_tensors(shapes)
        self.leaves = doubles(self.tensors, requires_grad=True)
        self.decoder = decoder

    def hidden(self, batch=None):
        """The input of the head: the output of the decoder or the encoder."""
        config = self.config if self.decoder else self.config.replace(decoder_size="0")
        output = run_model(config, self.leaves, *(batch or self.batch).inputs)
        return output.decoder if self.decoder else output.encoder

    def model(self, build):
        return filled(build(self.config), self.tensors)

    def integers(self, limit, shape):
        return torch.randint(limit, shape, generator=self.generator)

    def check_gradients(self, model, loss, expected_loss):
        assert_close(loss, expected_loss, "loss")
        loss.backward()
        expected_loss.backward()
        assert_same_tensors(gradients(model), leaf_gradients(self.leaves))


@parity_settings(15)
@given(st.data())
def test_classification(data):
    case = Case(data, lambda c: heads.head_shapes(c, "classification", 3), decoder=False)
    model = case.model(lambda config: FunnelForSequenceClassification(config, num_labels=3))
    labels = case.integers(3, case.batch.input_ids.shape[:1])
    output = model(*case.batch.inputs, labels=labels)
    logits = heads.classification_logits(case.leaves, case.hidden())
    assert_close(output.logits, logits)
    case.check_gradients(model, output.loss, heads.cross_entropy(logits, labels).mean())


@parity_settings(10)
@given(st.data())
def test_regression(data):
    case = Case(data, lambda c: heads.head_shapes(c, "classification", 1), decoder=False)
    model = case.model(
        lambda config: FunnelForSequenceClassification(config, num_labels=1, regression=True)
    )
    labels = case.integers(50, case.batch.input_ids.shape[:1]) / 10
    output = model(*case.batch.inputs, labels=labels)
    scores = heads.classification_logits(case.leaves, case.hidden())[:, 0]
    case.check_gradients(model, output.loss, ((scores - labels) ** 2).mean())


@parity_settings(10)
@given(st.data())
def test_classification_under_another_scope(data):
    scope = "mnli"

    def shapes(config):
        named = heads.head_shapes(config, "classification", 3)
        return {name.replace("classification", scope): shape for name, shape in named.items()}

    case = Case(data, shapes, decoder=False)
    model = case.model(
        lambda config: FunnelForSequenceClassification(config, num_labels=3, cls_scope=scope)
    )
    expected = heads.classification_logits(case.leaves, case.hidden(), scope)
    assert_close(model(*case.batch.inputs).logits, expected)


@parity_settings(15)
@given(st.data())
def test_multiple_choice(data):
    case = Case(data, lambda c: heads.head_shapes(c, "race"), decoder=False)
    ids = case.integers(VOCAB, (4 * case.batch.input_ids.shape[0], case.batch.input_ids.shape[1]))
    labels = case.integers(4, case.batch.input_ids.shape[:1])
    model = case.model(FunnelForMultipleChoice)
    output = model(ids.unflatten(0, (-1, 4)), labels=labels)
    flat = type(case.batch)(ids, None, None)
    logits = heads.race_logits(case.leaves, case.hidden(flat))
    assert_close(output.logits, logits)
    case.check_gradients(model, output.loss, heads.cross_entropy(logits, labels).mean())


@parity_settings(15)
@given(st.data())
def test_token_classification(data):
    case = Case(data, lambda c: heads.head_shapes(c, "token_classification", 3), decoder=True)
    model = case.model(lambda config: FunnelForTokenClassification(config, num_labels=3))
    labels = case.integers(3, case.batch.input_ids.shape)
    output = model(*case.batch.inputs, labels=labels)
    logits = heads.token_logits(case.leaves, case.hidden())
    assert_close(output.logits, logits)
    case.check_gradients(model, output.loss, heads.cross_entropy(logits, labels).mean())


@parity_settings(20)
@given(st.data())
def test_masked_lm_slots(data):
    """Targets as in pretraining: positions, target ids and which of them are real."""
    case = Case(data, lambda c: heads.head_shapes(c, "mlm"), decoder=True)
    size, length = case.batch.input_ids.shape
    positions = case.integers(length, (size, 3))
    targets = case.integers(VOCAB, (size, 3))
    filled_slots = case.integers(2, (size, 3))
    filled_slots[:, 0] = 1
    model = case.model(FunnelForMaskedLM)
    labels = torch.where(filled_slots > 0, targets, -100)
    output = model(*case.batch.inputs, labels=labels, target_positions=positions)
    expected = heads.mlm_loss(
        case.config, case.leaves, case.hidden(), (positions, targets, filled_slots)
    )
    case.check_gradients(model, output.loss, expected)


@parity_settings(10)
@given(st.data())
def test_masked_lm_everywhere(data):
    case = Case(data, lambda c: heads.head_shapes(c, "mlm"), decoder=True)
    logits = case.model(FunnelForMaskedLM)(*case.batch.inputs).logits
    assert_close(logits, heads.mlm_logits(case.config, case.leaves, case.hidden()))


@parity_settings(15)
@given(st.data())
def test_discriminator(data):
    case = Case(data, lambda c: heads.head_shapes(c, "discriminator"), decoder=True)
    model = case.model(FunnelForPreTraining)
    is_original = case.integers(2, case.batch.input_ids.shape)
    output = model(*case.batch.inputs, labels=is_original)
    logits = heads.discriminator_logits(case.leaves, case.hidden())
    assert_close(output.logits, logits)
    mask = case.batch.attention_mask
    real = torch.ones_like(is_original) if mask is None else mask
    case.check_gradients(model, output.loss, heads.discriminator_loss(logits, is_original, real))


def squad_shapes(conditional, answer_class):
    def shapes(config):
        full = heads.head_shapes(config, "squad")
        if not answer_class:
            full = {name: shape for name, shape in full.items() if "answer_class" not in name}
        if not conditional:
            full = {name: shape for name, shape in full.items() if "end_logits" not in name}
            full |= heads.head_shapes(config, "squad_plain")
        return full

    return shapes


@pytest.mark.slow
@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("answer_class", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_question_answering(conditional, answer_class, masked):
    @parity_settings(8)
    @given(st.data())
    def check(data):
        shapes = squad_shapes(conditional, answer_class)
        case = Case(data, shapes, decoder=True, min_length=5)
        size, length = case.batch.input_ids.shape
        answers = AnswerConfig(conditional, answer_class, masked, start_n_top=3, end_n_top=2)
        model = case.model(lambda config: FunnelForQuestionAnswering(config, answers))
        # A mask that leaves the beam enough candidates, and gold positions that are not masked.
        p_mask = case.integers(2, (size, length))
        p_mask[:, :5] = 0
        gold = AnswerTargets(*(case.integers(limit, (size,)) for limit in (5, 5, 2)))
        cls_index = case.integers(length, (size,))
        check_answers(case, model, (p_mask, cls_index), gold, answers)

    check()


def clear_ranking(log_probs, count):
    """Whether the best ``count`` are apart: equal tokens may tie, and ties have no order."""
    best = log_probs.sort(dim=-1, descending=True).values[..., : count + 1]
    return bool((best.diff(dim=-1) < -1e-4).all())


def check_answers(case, model, extra, gold, answers):
    p_mask, cls_index = extra
    used_mask = p_mask if answers.use_masked_loss else None
    hidden = case.hidden()
    tops = answers.start_n_top, answers.end_n_top
    beam = heads.squad_beam(case.config, case.leaves, hidden, cls_index, used_mask, tops)
    with torch.no_grad():
        found = model(*case.batch.inputs, p_mask, cls_index)
    assume(clear_ranking(found.start_logits, tops[0]) and clear_ranking(found.end_logits, tops[1]))
    # A masked [CLS] has the log-probability of -1e30, which is a matter of scale, not of digits.
    for field, expected in zip(BEAM_FIELDS, beam, strict=True):
        assert_close(getattr(found, field), expected, field)
    output = model(*case.batch.inputs, p_mask, cls_index, gold)
    expected = heads.squad_loss(case.config, case.leaves, hidden, gold, cls_index, used_mask)
    case.check_gradients(model, output.loss, expected)
