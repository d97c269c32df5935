"""The five released sizes from configs/ have exactly the parameters of transformers' port."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from funnel.config.model import ModelConfig
from funnel.flops import parameter_count
from funnel_torch import FunnelEncoder, FunnelModel
from hf_oracle import hf_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
RELEASED = ("B10-10-10H1024", "B8-8-8H1024", "B6-6-6H768", "B6-3x2-3x2H768", "B4-4-4H768")


def count(kind, config):
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in kind(config).parameters())


@pytest.mark.parametrize("name", RELEASED)
def test_parameters(name):
    config = ModelConfig.load(CONFIGS / f"{name}.json")
    with_decoder = count(transformers.FunnelModel, hf_config(config))
    assert count(FunnelModel, config) == with_decoder
    assert parameter_count(config) == with_decoder
    encoder = count(transformers.FunnelBaseModel, hf_config(config))
    assert count(FunnelEncoder, config) == encoder
    assert parameter_count(config, decoder=False) == encoder


@pytest.mark.parametrize("name", ["L12H768", "L24H1024"])
def test_baselines_are_the_size_of_bert(name):
    config = ModelConfig.load(CONFIGS / f"{name}.json")
    bert = transformers.BertConfig(
        hidden_size=config.d_model,
        num_hidden_layers=config.blocks[0].layers,
        num_attention_heads=config.n_head,
        intermediate_size=config.d_inner,
        vocab_size=config.vocab_size,
    )
    with torch.device("meta"):
        model = transformers.BertModel(bert, add_pooling_layer=False)
    expected = sum(parameter.numel() for parameter in model.parameters())
    assert count(FunnelEncoder, config) == expected
