"""The models against transformers' port, unpadded: outputs and gradients, every shared head."""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hypothesis import assume, given
from hypothesis import strategies as st

from funnel_torch import (
    FunnelEncoder,
    FunnelForMultipleChoice,
    FunnelForPreTraining,
    FunnelForQuestionAnswering,
    FunnelForSequenceClassification,
    FunnelForTokenClassification,
    FunnelModel,
)
from funnel_torch.models.question_answering import AnswerConfig
from hf_oracle import can_compute, hf_model, hf_state
from parity_cases import batches, model_configs, parity_settings, random_tensors
from parity_models import (
    assert_all_close,
    assert_close,
    assert_same_tensors,
    direction,
    filled,
    gradients,
)
from reference_funnel import parameter_shapes, parse_blocks
from reference_heads import head_shapes

SPAN_LOGITS = ("start_logits", "end_logits")
FORMS = st.sampled_from(["rel_shift", "factorized"])
SUMMARY, BINARY = "model/sequnece_summary/summary", "model/binary_proj/dense"


def sample_case(data, decoder):
    """Sample a config that the port can express, and an unpadded batch with segments."""
    config = data.draw(model_configs(oracle="transformers")).replace(rel_attn_type=data.draw(FORMS))
    if decoder and len(parse_blocks(config.block_size)) == 1:
        config = config.replace(block_size=config.block_size + "_1", decoder_size="1")
    batch = data.draw(batches(config, masks=False, segments=False))
    assume(can_compute(config, batch.input_ids.shape[1], decoder))
    return config, batch


def compare_gradients(config, ours, theirs, head=lambda tensors: {}):
    """Assert that our gradients, mapped like weights, are the port's."""
    prefix = "funnel." if hasattr(theirs, "funnel") else ""
    tensors = gradients(ours)
    mapped = hf_state(config, tensors, prefix) | head(tensors)
    # A parameter of the port without a gradient belongs to a term that the case leaves out.
    expected = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in theirs.named_parameters()
    }
    assert_same_tensors(mapped, expected)


@parity_settings(60)
@given(st.data())
def test_model(data):
    decoder = data.draw(st.booleans())
    config, batch = sample_case(data, decoder)
    ours_kind, theirs_kind = (
        (FunnelModel, transformers.FunnelModel)
        if decoder
        else (FunnelEncoder, transformers.FunnelBaseModel)
    )
    tensors = random_tensors(parameter_shapes(config, decoder=decoder))
    ours = filled(ours_kind(config), tensors)
    theirs = hf_model(theirs_kind, config, hf_state(config, tensors), torch.float32)
    output = ours(batch.input_ids, None, batch.token_type_ids, output_hidden_states=True)
    expected = theirs(
        batch.input_ids, token_type_ids=batch.token_type_ids, output_hidden_states=True
    )
    assert_close(output.last_hidden_state, expected.last_hidden_state, "output")
    shared = expected.hidden_states[: len(output.hidden_states)]
    assert_all_close(output.hidden_states, shared, "hidden state")

    weighting = direction(expected.last_hidden_state.shape).float()
    (output.last_hidden_state * weighting).sum().backward()
    (expected.last_hidden_state * weighting).sum().backward()
    compare_gradients(config, ours, theirs)


def linear(tensors, ours, theirs):
    """Map a linear layer to the port's name."""
    state = {f"{theirs}.weight": tensors[f"{ours}/kernel"].T}
    if f"{ours}/bias" in tensors:
        state[f"{theirs}.bias"] = tensors[f"{ours}/bias"]
    return state


def classifier(tensors, last="model/classification/logit"):
    return linear(tensors, SUMMARY, "classifier.linear_hidden") | linear(
        tensors, last, "classifier.linear_out"
    )


def discriminator(tensors):
    """The port's logit is positive for *replaced* tokens, ours for original ones."""
    home = "discriminator_predictions"
    return linear(tensors, BINARY, f"{home}.dense") | {
        f"{home}.dense_prediction.weight": -tensors["model/binary_loss/weight"][None],
        f"{home}.dense_prediction.bias": -tensors["model/binary_loss/bias"],
    }


def spans(tensors):
    kernels = [tensors[f"model/{side}_logits/dense/kernel"] for side in ("start", "end")]
    biases = [tensors[f"model/{side}_logits/dense/bias"] for side in ("start", "end")]
    return {"qa_outputs.weight": torch.cat(kernels, 1).T, "qa_outputs.bias": torch.cat(biases)}


def run_head(data, head, mapping, models, decoder, run, **settings):
    """Logits and gradients of one head on a random model; ``run`` returns pairs of outputs."""
    config, batch = sample_case(data, decoder)
    if head == "discriminator":
        # Ours uses GELU whatever the model's activation is; the port uses the model's.
        config = config.replace(ff_activation="gelu")
    shapes = parameter_shapes(config, decoder=decoder) | head_shapes(config, head, classes=3)
    tensors = random_tensors(shapes)
    ours_kind, theirs_kind = models
    ours = filled(ours_kind(config), tensors)
    state = hf_state(config, tensors, "funnel.") | mapping(tensors)
    theirs = hf_model(theirs_kind, config, state, torch.float32, **settings)
    for found, expected in run(ours, theirs, batch):
        assert_close(found, expected)
        weighting = direction(expected.shape).float()
        (found * weighting).sum().backward(retain_graph=True)
        (expected * weighting).sum().backward(retain_graph=True)
    compare_gradients(config, ours, theirs, mapping)


def run_both(ours, theirs, batch):
    return ours(batch.input_ids, None, batch.token_type_ids), theirs(
        batch.input_ids, token_type_ids=batch.token_type_ids
    )


def both_logits(ours, theirs, batch):
    found, expected = run_both(ours, theirs, batch)
    return [(found.logits, expected.logits)]


@parity_settings(15)
@given(st.data())
def test_sequence_classification(data):
    models = (
        lambda config: FunnelForSequenceClassification(config, num_labels=3),
        transformers.FunnelForSequenceClassification,
    )
    run_head(data, "classification", classifier, models, False, both_logits, num_labels=3)


@parity_settings(15)
@given(st.data())
def test_token_classification(data):
    models = (
        lambda config: FunnelForTokenClassification(config, num_labels=3),
        transformers.FunnelForTokenClassification,
    )
    last = "model/token_classification/logits"
    mapping = lambda tensors: linear(tensors, last, "classifier")  # noqa: E731
    run_head(data, "token_classification", mapping, models, True, both_logits, num_labels=3)


@parity_settings(15)
@given(st.data())
def test_discriminator(data):
    models = FunnelForPreTraining, transformers.FunnelForPreTraining

    def run(ours, theirs, batch):
        found, expected = run_both(ours, theirs, batch)
        return [(-found.logits, expected.logits)]

    run_head(data, "discriminator", discriminator, models, True, run)


@parity_settings(15)
@given(st.data())
def test_question_answering(data):
    answers = AnswerConfig(conditional_end=False, use_answer_class=False)
    models = (
        lambda config: FunnelForQuestionAnswering(config, answers),
        transformers.FunnelForQuestionAnswering,
    )

    def run(ours, theirs, batch):
        found, expected = run_both(ours, theirs, batch)
        return [(getattr(found, key), getattr(expected, key)) for key in SPAN_LOGITS]

    run_head(data, "squad_plain", spans, models, True, run)


@parity_settings(10)
@given(st.data())
def test_multiple_choice(data):
    models = FunnelForMultipleChoice, transformers.FunnelForMultipleChoice
    mapping = lambda tensors: classifier(tensors, "model/race/logits")  # noqa: E731

    def run(ours, theirs, batch):
        inputs = batch.input_ids, batch.token_type_ids
        ids, types = (torch.stack([x, x.flip(0)], 1) for x in inputs)
        expected = theirs(ids, token_type_ids=types)
        return [(ours(ids, None, types).logits, expected.logits)]

    run_head(data, "race", mapping, models, False, run)
