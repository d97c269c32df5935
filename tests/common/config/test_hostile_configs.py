"""Configs that no machine can compute, or whose values are no settings: one clear line each."""

import json

import pytest

from funnel.config.geometry import check_length
from funnel.config.limits import MAX_LAYERS, describe, first_line
from funnel.config.model import ModelConfig
from funnel.utils.errors import ConfigError

SMALL = ModelConfig(vocab_size=40, d_model=16, d_embed=16, n_head=2, d_head=8, d_inner=32)

REFUSED = {
    "28 blocks": ("block_size", '"' + "_".join(["1"] * 28) + '"', "28 blocks that pool by 2"),
    "many blocks": ("block_size", '"' + "_".join(["1"] * 10_000) + '"', "more than 4096 blocks"),
    "many layers": ("block_size", '"4096_1"', "4097 layers; at most 4096"),
    "many repeats": ("block_size", '"9999x9999"', "99980001 layers; at most 4096"),
    "long depth": ("block_size", '"' + "9" * 5000 + '"', "is no depth"),
    "pooling 10**30": ("pooling_size", str(10**30), "should be a positive whole number up to 2147"),
    "pooling 2**31": ("pooling_size", str(2**31), "should be a positive whole number up to 2147"),
    "pooling far": ("pooling_size", "70000", "leave less than one position"),
    "huge model": ("d_inner", str(2**31 - 1), "weights; at most 1e"),
    "6,000 digits": ("d_model", "9" * 6000, "not valid JSON: a number of too many digits"),
    "4,000 digits": ("d_model", "9" * 4000, "an integer of about 400[01] digits should be"),
    "digits of a rate": ("dropout", "9" * 400, "dropout: an integer of about 40[01] digits should"),
    "infinite std": ("init_std", "Infinity", "init_std: inf should be a positive number"),
    "infinite range": ("init_range", "1e999", "init_range: inf should be a positive number"),
    "nan eps": ("layer_norm_eps", "NaN", "layer_norm_eps: nan should be a positive number"),
    "nested": ("init", "[" * 100_000, "not valid JSON: nested too deeply"),
    "deep value": ("init", "[" * 400 + "]" * 400, r"init: \[\[\[\.\.\.\]\]\] should be one of"),
    "long text": ("init", '"' + "x" * 10**6 + '"', "init: 'x+...x+' should be one of"),
    "line break": ("init", '"a\\nb"', r"init: 'a\\nb' should be one of"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_value_is_refused_in_one_line(tmp_path, case):
    key, text, told = REFUSED[case]
    values = SMALL.to_dict() | ({"d_model": 1 << 20} if case == "huge model" else {})
    path = tmp_path / "net_config.json"
    members = {name: json.dumps(value) for name, value in values.items()} | {key: text}
    path.write_text("{" + ", ".join(f'"{n}": {v}' for n, v in members.items()) + "}")
    with pytest.raises(ConfigError, match=told) as caught:
        ModelConfig.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:") and "\n" not in message and len(message) < 600


def test_numbers_of_any_size_from_python():
    for value in (10**6000, -(10**6000)):
        with pytest.raises(ConfigError, match="an integer of about 600[01] digits"):
            SMALL.replace(d_model=value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"block_sizes": [1, 10**9]}, "1000000000 is no depth"),
        ({"block_sizes": [True]}, "True is no depth"),
        ({"block_sizes": ["1"]}, "'1' is no depth"),
        ({"num_decoder_layers": MAX_LAYERS + 1}, "4097 is no depth"),
        ({"num_decoder_layers": 10**6000}, "an integer of about 600[01] digits is no depth"),
        ({"num_decoder_layers": 3}, "num_decoder_layers: 3 contradicts decoder_size '0'"),
        ({"hidden_act": ""}, "hidden_act: '' should be one of"),
        ({"model_type": "x" * 9000}, "model_type 'x+...x+' should be 'funnel'"),
        ({"funnel": 3}, "funnel: should be an object"),
    ],
)
def test_configs_of_transformers(changes, told):
    with pytest.raises(ConfigError, match=told) as caught:
        ModelConfig.from_hf(SMALL.to_hf() | {"block_repeats": None} | changes)
    assert len(str(caught.value)) < 400


def test_our_object_in_their_config_cannot_replace_their_keys(caplog):
    values = SMALL.to_hf()
    values["funnel"] = values["funnel"] | {"d_inner": 99}
    assert ModelConfig.from_hf(values) == SMALL
    assert "unknown key funnel.d_inner ignored" in caplog.text


def test_unknown_keys_are_named_in_one_line_of_bounded_length(caplog):
    values = SMALL.to_dict() | {f"key {number}\n": 0 for number in range(1000)}
    assert ModelConfig.from_dict(values) == SMALL
    (record,) = caplog.records
    assert "\n" not in record.getMessage() and len(record.getMessage()) < 300


def test_what_released_models_have_is_far_inside_the_bounds():
    deep = SMALL.replace(block_size="_".join(["6"] * 17), decoder_size="2")
    assert deep.upsample_factor == 65536
    assert ModelConfig(vocab_size=250_000, d_model=16384, d_embed=16384, n_head=128, d_head=128)


def test_sequences_shorter_than_one_window_of_the_last_block():
    config = SMALL.replace(block_size="1_1_1_1_1")
    check_length(config, 16)
    with pytest.raises(ConfigError, match="max_length=15: the 5 blocks of block_size pool 16"):
        check_length(config, 15)
    with pytest.raises(ConfigError, match="has 512 positions"):
        check_length(SMALL.replace(rel_attn_type="null"), 513)


def test_descriptions():
    assert describe("x") == "'x'" and describe(3) == "3" and describe(True) == "True"
    assert describe(-(10**50)) == "an integer of about 51 digits"
    assert first_line(ValueError("a\nb")) == "a" and first_line(ValueError()) == "ValueError"
    assert len(first_line(ValueError("x" * 9999))) < 310
