"""Texts of a word or none: models that we export compute them in transformers too."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
transformers = pytest.importorskip("transformers")

from funnel.config import ModelConfig
from funnel.utils.errors import ConfigError
from funnel_torch import FunnelForSequenceClassification


def _config(**changes):
    return ModelConfig(30, 16, 16, 2, 8, 32, **{"block_size": "1_1_1", **changes})


@pytest.mark.parametrize("block_size", ["1_1_1", "1_1_1_1"])
def test_short_texts_have_the_same_logits_in_transformers(tmp_path, block_size):
    torch.manual_seed(0)
    ours = FunnelForSequenceClassification(_config(block_size=block_size)).eval()
    for parameter in ours.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape)
    ours.save_pretrained(tmp_path)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    for length in (2, 3, 4, 5, 9):
        ids = torch.arange(3, 3 + length)[None]
        segments = torch.zeros_like(ids)
        segments[:, 0] = 2
        with torch.inference_mode():
            expected = theirs(ids, token_type_ids=segments).logits
            found = ours(ids, token_type_ids=segments).logits
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", ["rel_shift", "factorized", "null"])
def test_the_form_of_attention_survives_the_export(form):
    config = _config(rel_attn_type=form)
    values = config.to_hf()
    assert values["attention_type"] == ("null" if form == "null" else "factorized")
    assert ModelConfig.from_hf(values) == config
    values["attention_type"] = "factorized" if form == "null" else "null"
    with pytest.raises(ConfigError, match="attention_type: .* contradicts rel_attn_type"):
        ModelConfig.from_hf(values)
