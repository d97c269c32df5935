"""The name table: exact names and shapes, and how layers, heads and variants are counted."""

import pytest

from checkpoint_cases import GENERATOR, TINY, VARIANTS
from funnel.checkpoints import hf_names, names
from funnel.config.model import ModelConfig

# B4-4-4H768: what its release holds.
B4 = ModelConfig(vocab_size=30522, block_size="4_4_4", decoder_size="2")
LAYER = {
    "rel_attn/q/kernel": (768, 12, 64),
    "rel_attn/k/kernel": (768, 12, 64),
    "rel_attn/k/bias": (12, 64),
    "rel_attn/v/kernel": (768, 12, 64),
    "rel_attn/v/bias": (12, 64),
    "rel_attn/o/kernel": (12, 64, 768),
    "rel_attn/o/bias": (768,),
    "rel_attn/r/kernel": (768, 12, 64),
    "rel_attn/r_w_bias": (12, 64),
    "rel_attn/r_r_bias": (12, 64),
    "rel_attn/r_s_bias": (12, 64),
    "rel_attn/seg_embed": (2, 12, 64),
    "rel_attn/layer_norm/beta": (768,),
    "rel_attn/layer_norm/gamma": (768,),
    "ff/layer_1/kernel": (768, 3072),
    "ff/layer_1/bias": (3072,),
    "ff/layer_2/kernel": (3072, 768),
    "ff/layer_2/bias": (768,),
    "ff/layer_norm/beta": (768,),
    "ff/layer_norm/gamma": (768,),
}


def _layer(shapes, scope):
    start = f"{scope}/"
    return {name[len(start) :]: shape for name, shape in shapes.items() if name.startswith(start)}


def test_a_released_model():
    shapes = names.expected_shapes(B4)
    assert len(shapes) == 3 + 14 * 20
    assert shapes["model/input/word_embedding/lookup_table"] == (30522, 768)
    assert shapes["model/input/layer_norm/beta"] == (768,)
    for index in range(12):
        assert _layer(shapes, f"model/encoder/layer_{index}") == LAYER
    # The decoder's layers count on.
    assert _layer(shapes, "model/decoder/layer_12") == LAYER
    assert _layer(shapes, "model/decoder/layer_13") == LAYER


def test_a_repeated_layer_is_one_set_of_variables():
    shapes = names.expected_shapes(B4.replace(block_size="6_3x2_3x2", decoder_size="2x3"))
    scopes = {name.split("/")[2] for name in shapes if "/layer_" in name}
    layers = {scope for scope in scopes if scope != "layer_norm"}
    assert layers == {f"layer_{index}" for index in range(14)}
    assert "model/decoder/layer_12/ff/layer_1/bias" in shapes
    assert "model/encoder/layer_12/ff/layer_1/bias" not in shapes


def test_the_transformer_baseline():
    shapes = names.expected_shapes(VARIANTS["null"])
    assert shapes["model/input/position_embedding/lookup_table"] == (512, 12)
    assert shapes["model/input/segment_embedding/lookup_table"] == (2, 12)
    layer = _layer(shapes, "model/encoder/layer_0/rel_attn")
    assert layer["r_w_bias"] == (2, 5)
    assert not {"r_r_bias", "r_s_bias", "seg_embed", "r/kernel"} & set(layer)


def test_a_narrow_embedding_is_projected():
    shapes = names.expected_shapes(VARIANTS["projected"], heads=["mlm"])
    assert shapes["model/encoder/input_projection/kernel"] == (8, 12)
    assert shapes["model/encoder/input_projection/bias"] == (12,)
    assert shapes["model/input/layer_norm/gamma"] == (8,)
    assert shapes["model/lm_proj/dense/kernel"] == (12, 8)
    assert shapes["model/lm_proj/layer_norm/gamma"] == (8,)


HEADS = {
    "summary": {
        "sequnece_summary/summary/kernel": (768, 768),
        "sequnece_summary/summary/bias": (768,),
    },
    "classification": {"mnli/logit/kernel": (768, 3), "mnli/logit/bias": (3,)},
    "mlm": {
        "lm_proj/dense/kernel": (768, 768),
        "lm_proj/dense/bias": (768,),
        "lm_proj/layer_norm/beta": (768,),
        "lm_proj/layer_norm/gamma": (768,),
        "lm_loss/bias": (30522,),
    },
    "discriminator": {
        "binary_proj/dense/kernel": (768, 768),
        "binary_proj/dense/bias": (768,),
        "binary_loss/weight": (768,),
        "binary_loss/bias": (1,),
    },
    "race": {"race/logits/kernel": (768, 1), "race/logits/bias": (1,)},
    "token_classification": {
        "token_classification/logits/kernel": (768, 3),
        "token_classification/logits/bias": (3,),
    },
    "question_answering": {
        "start_logits/dense/kernel": (768, 1),
        "start_logits/dense/bias": (1,),
        "end_logits/dense/kernel": (768, 1),
        "end_logits/dense/bias": (1,),
    },
    "squad": {
        "start_logits/dense/kernel": (768, 1),
        "start_logits/dense/bias": (1,),
        "end_logits/dense_0/kernel": (1536, 768),
        "end_logits/dense_0/bias": (768,),
        "end_logits/layer_norm/beta": (768,),
        "end_logits/layer_norm/gamma": (768,),
        "end_logits/dense_1/kernel": (768, 1),
        "end_logits/dense_1/bias": (1,),
    },
    "answer_class": {
        "answer_class/dense_0/kernel": (1536, 768),
        "answer_class/dense_0/bias": (768,),
        "answer_class/dense_1/kernel": (768, 1),
    },
}


@pytest.mark.parametrize("head", HEADS)
def test_heads(head):
    core = names.expected_shapes(B4)
    found = names.expected_shapes(B4, heads=[head], num_labels=3, cls_scope="mnli")
    added = {name: shape for name, shape in found.items() if name not in core}
    assert added == {f"model/{name}": shape for name, shape in HEADS[head].items()}


def test_the_generator_is_narrow_and_has_no_embedding_table():
    shapes = names.expected_shapes(B4, heads=["generator"])
    found = {name: shape for name, shape in shapes.items() if name.startswith("generator/")}
    assert found["generator/encoder/input_projection/kernel"] == (768, 192)
    assert found["generator/encoder/layer_0/rel_attn/q/kernel"] == (192, 3, 64)
    assert found["generator/decoder/layer_13/ff/layer_1/kernel"] == (192, 768)
    assert found["generator/lm_proj/dense/kernel"] == (192, 768)
    assert found["generator/lm_loss/bias"] == (30522,)
    assert len(found) == 2 + 14 * 20 + 4 + 1
    assert not any("input/" in name for name in found)


def test_the_parts_of_a_checkpoint_are_recognised():
    heads = ["summary", "classification", "mlm", "discriminator", "generator", "squad"]
    generator = TINY.replace(**GENERATOR)
    expected = names.expected_shapes(TINY, heads=heads, num_labels=5, generator=generator)
    assert names.shapes_for(TINY, expected) == expected
    core = names.expected_shapes(TINY, decoder=False)
    assert names.shapes_for(TINY, core) == core
    one = dict(list(expected.items())[:1]) | {"model/lm_proj/dense/bias": (12,)}
    assert "model/lm_proj/layer_norm/beta" in names.shapes_for(TINY, one)


def test_weights_and_training_state():
    assert names.is_weight("generator/lm_loss/bias")
    assert not names.is_weight("model/lm_loss/bias/adam_m")
    assert not names.is_weight("input_pipeline/iterator_state")
    assert names.is_optimizer_state("global_step")
    assert names.is_optimizer_state("model/lm_loss/bias/adam_v")


@pytest.mark.parametrize("variant", VARIANTS)
def test_both_other_layouts_name_every_core_variable_once(variant):
    config = VARIANTS[variant]
    entries = hf_names.core_names(config, decoder=True, prefix="")
    parts = [part for entry in entries.values() for part in entry.parts]
    expected = names.expected_shapes(config)
    beyond = [n for n in expected if n not in parts]
    assert len(parts) == len(set(parts)) and set(parts) <= set(expected)
    assert all("input_projection" in n or "_embedding/" in n for n in beyond), beyond
    released = names.released_names(config, "x")
    assert len(set(released.values())) == len(released)
    encoder = {n for n in expected if "/decoder/" not in n and n not in beyond}
    assert encoder <= set(released)
