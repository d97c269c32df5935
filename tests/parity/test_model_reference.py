"""The model against the float64 reference: every switch, any length, any padding, gradients."""

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given
from hypothesis import strategies as st

from funnel.checkpoints.names import expected_shapes
from funnel.config.model import ModelConfig
from funnel.utils.errors import DataError
from funnel_torch import FunnelEncoder, FunnelModel
from parity_cases import Batch, batches, doubles, model_configs, parity_settings, random_tensors
from parity_models import (
    assert_all_close,
    assert_close,
    assert_same_tensors,
    direction,
    filled,
    gradients,
    leaf_gradients,
)
from reference_funnel import parameter_shapes, run_model

FORMS = ("rel_shift", "factorized")


def check_forward(config, batch):
    """Check both forms with and without gradients, which take different code paths."""
    tensors = random_tensors(parameter_shapes(config))
    expected = run_model(config, doubles(tensors), *batch.inputs)
    states = (expected.embedding, *expected.hidden_states, expected.encoder)
    forms = ("null",) if config.rel_attn_type == "null" else FORMS
    for form in forms:
        model = filled(FunnelModel(config.replace(rel_attn_type=form)), tensors)
        for keep_graph in (True, False):
            with torch.set_grad_enabled(keep_graph):
                output = model(*batch.inputs, output_hidden_states=True)
            label = f"{form}, gradients {keep_graph}"
            found = (*output.hidden_states, output.encoder_last_hidden_state)
            assert_all_close(found, states, f"{label}: hidden state")
            assert_close(output.last_hidden_state, expected.decoder, f"{label}: decoder")


@parity_settings(100)
@given(st.data())
def test_outputs(data):
    config = data.draw(model_configs())
    check_forward(config, data.draw(batches(config)))


@parity_settings(20)
@given(st.data())
def test_baseline_outputs(data):
    config = data.draw(model_configs()).replace(rel_attn_type="null")
    check_forward(config, data.draw(batches(config)))


@parity_settings(40)
@given(st.data())
def test_gradients(data):
    config = data.draw(model_configs())
    config = config.replace(rel_attn_type=data.draw(st.sampled_from([*FORMS, "null"])))
    batch = data.draw(batches(config))
    tensors = random_tensors(parameter_shapes(config))
    leaves = doubles(tensors, requires_grad=True)
    expected = run_model(config, leaves, *batch.inputs).decoder
    weighting = direction(expected.shape)
    (expected * weighting).sum().backward()
    model = filled(FunnelModel(config), tensors)
    (model(*batch.inputs).last_hidden_state * weighting.float()).sum().backward()
    assert_same_tensors(gradients(model), leaf_gradients(leaves))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("separate_cls", [True, False])
@pytest.mark.parametrize("truncate_seq", [True, False])
def test_every_tiny_length(form, separate_cls, truncate_seq):
    config = small_config(
        block_size="1_1_1x2_1", rel_attn_type=form, separate_cls=separate_cls
    ).replace(truncate_seq=truncate_seq)
    tensors = random_tensors(parameter_shapes(config))
    model = filled(FunnelModel(config), tensors)
    # One model for all lengths, out of order: its relative embeddings are cached, extended, cut.
    for length in (9, *range(1, 18), 4):
        ids = torch.arange(length)[None] % config.vocab_size
        with torch.no_grad():
            output = model(ids)
        expected = run_model(config, doubles(tensors), ids)
        assert_close(output.last_hidden_state, expected.decoder, f"length {length}")


def test_long_input():
    config = small_config(block_size="1_1_1", d_model=16, d_embed=16, d_inner=32)
    batch = Batch(torch.arange(512)[None] % config.vocab_size, None, None)
    check_forward(config, batch)


@pytest.mark.parametrize("kind", [torch.bool, torch.int32, torch.float32])
def test_kind_of_mask_does_not_matter(kind):
    config = small_config()
    model = FunnelModel(config).eval()
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0, 0]])
    ids = torch.arange(14).view(2, 7)
    with torch.no_grad():
        assert_close(
            model(ids, mask.to(kind)).last_hidden_state, model(ids, mask).last_hidden_state
        )


def test_full_mask_is_no_mask():
    config = small_config()
    model = FunnelModel(config).eval()
    ids = torch.arange(14).view(2, 7)
    with torch.no_grad():
        masked, plain = model(ids, torch.ones_like(ids)), model(ids)
    assert_close(masked.last_hidden_state, plain.last_hidden_state)


def test_encoder_alone_is_the_models_encoder():
    config = small_config()
    shapes = parameter_shapes(config, decoder=False)
    tensors = random_tensors(shapes)
    encoder = filled(FunnelEncoder(config), tensors)
    ids = torch.arange(14).view(2, 7)
    output = encoder(ids)
    expected = run_model(config.replace(decoder_size="0"), doubles(tensors), ids)
    assert_close(output.last_hidden_state, expected.encoder)
    assert output.hidden_states is None


def test_baseline_refuses_more_tokens_than_positions():
    config = small_config(block_size="1", decoder_size="0", rel_attn_type="null")
    with pytest.raises(DataError, match="513"):
        FunnelModel(config)(torch.zeros(1, 513, dtype=torch.long))


def test_weights_changed_after_an_evaluation_are_used():
    """Evaluation caches projected relative embeddings: new weights must not meet old ones."""
    config = small_config()
    first, second = (random_tensors(parameter_shapes(config), seed) for seed in (1, 2))
    ids = torch.arange(14).view(2, 7)
    model = filled(FunnelModel(config), first)
    with torch.no_grad():
        model(ids)
        output = filled(model, second)(ids)
    expected = run_model(config, doubles(second), ids)
    assert_close(output.last_hidden_state, expected.decoder)


def test_model_made_in_inference_mode():
    """Its weights have no version counter, by which the cache would see a change."""
    config = small_config()
    ids = torch.arange(14).view(2, 7)
    with torch.inference_mode():
        tensors = random_tensors(parameter_shapes(config))
        model = filled(FunnelModel(config), tensors)
        outputs = [model(ids).last_hidden_state for _ in range(2)]
    expected = run_model(config, doubles(random_tensors(parameter_shapes(config))), ids)
    assert_all_close(outputs, [expected.decoder] * 2, "output")


@parity_settings(25)
@given(st.data())
def test_variable_names_agree_with_the_reference(data):
    config = data.draw(model_configs())
    config = config.replace(rel_attn_type=data.draw(st.sampled_from(["rel_shift", "null"])))
    assert expected_shapes(config) == parameter_shapes(config)
    assert expected_shapes(config, decoder=False) == parameter_shapes(config, decoder=False)


def small_config(**changes):
    settings = {
        "vocab_size": 23, "d_model": 12, "d_embed": 12, "n_head": 2, "d_head": 6, "d_inner": 24,
        "block_size": "1_2_1", "decoder_size": "1", "dropout": 0.0, "dropatt": 0.0,
    }  # fmt: skip
    return ModelConfig(**(settings | changes))
