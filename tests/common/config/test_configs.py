"""Every shipped config loads, is complete, and has the size in its name."""

import json
import re
from dataclasses import fields

import pytest

import repo_layout
from funnel.config.model import ModelConfig

CONFIGS = repo_layout.ROOT / "configs"
RUN_TIME = {"truncate_seq", "layer_norm_eps"}


def model_files():
    files = (path for path in sorted(CONFIGS.glob("*.json")))
    return [path for path in files if "block_size" in json.loads(path.read_text())]


def test_the_released_sizes_and_their_baselines_are_here():
    names = {path.stem for path in model_files()}
    released = {"B10-10-10H1024", "B8-8-8H1024", "B6-6-6H768", "B6-3x2-3x2H768", "B4-4-4H768"}
    assert released | {"L12H768", "L24H1024", "demo", "small-cpu", "tiny"} <= names


@pytest.mark.parametrize("path", model_files(), ids=lambda path: path.stem)
def test_config_is_complete(path, caplog):
    config = ModelConfig.load(path)
    assert not caplog.records, "an unknown key"
    stated = json.loads(path.read_text())
    assert set(stated) == {field.name for field in fields(ModelConfig)} - RUN_TIME
    assert config.to_net_config() == stated
    assert config.n_head * config.d_head == config.d_model
    assert config.d_inner == 4 * config.d_model


@pytest.mark.parametrize("path", model_files(), ids=lambda path: path.stem)
def test_name_states_the_size(path):
    match = re.fullmatch(r"([BL])([\dx-]+)H(\d+)", path.stem)
    if match is None:
        assert path.stem in ("demo", "small-cpu", "tiny")
        return
    kind, blocks, width = match.groups()
    config = ModelConfig.load(path)
    assert config.block_size == blocks.replace("-", "_")
    assert config.d_model == config.d_embed == int(width)
    assert config.d_head == 64
    assert config.vocab_size == 30522
    assert (config.rel_attn_type == "null") == (kind == "L")
    assert config.decoder_size == ("2" if kind == "B" else "0")
