"""The two oracles of the parity tests agree wherever both can compute a case."""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hypothesis import assume, given
from hypothesis import strategies as st

from hf_oracle import can_compute, hf_model, hf_state
from parity_cases import (
    batches,
    doubles,
    model_configs,
    parity_settings,
    random_tensors,
)
from parity_models import assert_all_close, assert_close
from reference_funnel import parameter_shapes, parse_blocks, run_model


@parity_settings(40)
@given(st.data())
def test_reference_agrees_with_transformers(data):
    config = data.draw(model_configs(oracle="transformers"))
    config = config.replace(rel_attn_type=data.draw(st.sampled_from(["rel_shift", "factorized"])))
    batch = data.draw(batches(config, masks=False, segments=False))
    decoder = len(parse_blocks(config.block_size)) > 1
    assume(can_compute(config, batch.input_ids.shape[1], decoder))
    tensors = doubles(random_tensors(parameter_shapes(config)))
    expected = run_model(config, tensors, *batch.inputs)
    kind = transformers.FunnelModel if decoder else transformers.FunnelBaseModel
    model = hf_model(kind, config, hf_state(config, tensors), torch.float64)
    with torch.no_grad():
        output = model(
            batch.input_ids, token_type_ids=batch.token_type_ids, output_hidden_states=True
        )
    states = (expected.embedding, *expected.hidden_states)
    # The port adds and masks its scores in float32 even for a float64 model.
    assert_close(output.last_hidden_state, expected.decoder, "output", 2e-6)
    assert_all_close(output.hidden_states[: len(states)], states, "hidden state", 2e-6)
