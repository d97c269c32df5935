"""Which variables a model has: the canonical (TensorFlow) names, their shapes, the released names.

One place states every name. Canonical names are those of the original's TensorFlow checkpoints,
with their shapes; a repeated layer is one set of variables, and the decoder's layers count on after
the encoder's. :mod:`funnel.checkpoints.hf_names` has the third column, Hugging Face's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from funnel.config.heads import generator_config
from funnel.config.model import ModelConfig

Shape = tuple[int, ...]

GLOBAL_STEP = "global_step"
SLOTS = ("/adam_m", "/adam_v")
DEFAULT_CLS_SCOPE = "classification"
MAX_POSITIONS = 512  # rows of the absolute position table of rel_attn_type null
WORD_TABLE = "model/input/word_embedding/lookup_table"
SUMMARY = "model/sequnece_summary/summary"  # misspelled in every released checkpoint
_CLASSIFIER = re.compile(r"model/([^/]+)/logit/(?:kernel|bias)")

# A head is there if any variable starts with its prefix.
_HEAD_PREFIXES = {
    "summary": f"{SUMMARY}/",
    "mlm_projection": "model/lm_proj/",
    "mlm_bias": "model/lm_loss/",
    "discriminator": "model/binary_",
    "generator": "generator/",
    "race": "model/race/logits/",
    "token_classification": "model/token_classification/logits/",
    "start_logits": "model/start_logits/",
    "end_logits": "model/end_logits/dense/",
    "conditional_end_logits": "model/end_logits/dense_",
    "answer_class": "model/answer_class/",
}
# Heads that are made of several of the above.
_COMPOSED = {
    "mlm": ("mlm_projection", "mlm_bias"),
    "question_answering": ("start_logits", "end_logits"),
    "squad": ("start_logits", "conditional_end_logits"),
}


def expected_shapes(
    config: ModelConfig,
    *,
    decoder: bool = True,
    heads: Iterable[str] = (),
    num_labels: int = 2,
    cls_scope: str = DEFAULT_CLS_SCOPE,
    generator: ModelConfig | None = None,
) -> dict[str, Shape]:
    """Shape of every variable of a model, by canonical name.

    ``heads``: any of summary, classification (``num_labels`` under ``cls_scope``), mlm,
    discriminator, generator (with the sizes of ``generator``, by default
    :func:`generator_config`), race, token_classification, start_logits, end_logits,
    conditional_end_logits, answer_class, question_answering, squad, mlm_projection, mlm_bias.

    Raises:
        KeyError: a head of another name.
    """
    shapes = _input_shapes(config)
    shapes |= _tower_shapes("model", config, decoder)
    for head in _decomposed(heads):
        if head == "classification":
            shapes |= _dense(f"model/{cls_scope}/logit", config.d_model, num_labels)
        elif head == "generator":
            shapes |= _generator_shapes(generator or generator_config(config))
        else:
            shapes |= _head_shapes(config, num_labels)[head]
    return shapes


def shapes_for(config: ModelConfig, found: Mapping[str, Shape]) -> dict[str, Shape]:
    """What a checkpoint should hold, going by the parts of which it has at least one variable.

    The encoder is always expected; the decoder and heads only if something of them is there.
    """
    decoder = any(name.startswith("model/decoder/") for name in found)
    heads = [
        head for head, prefix in _HEAD_PREFIXES.items() if any(n.startswith(prefix) for n in found)
    ]
    generator = generator_of(config, found) if "generator" in heads else None
    labels = (found.get("model/token_classification/logits/bias") or (2,))[-1]
    expected = expected_shapes(
        config, decoder=decoder, heads=heads, num_labels=labels, generator=generator
    )
    for scope, num_labels in classifiers(found).items():
        expected |= _dense(f"model/{scope}/logit", config.d_model, num_labels)
    return expected


def classifiers(found: Mapping[str, Shape]) -> dict[str, int]:
    """The scopes (``model/SCOPE/logit``) of classification heads, each with its labels."""
    scopes = {}
    for name, shape in found.items():
        if match := _CLASSIFIER.fullmatch(name):
            # A name without a shape (yet) says nothing.
            labels = shape[-1] if shape else 0
            scopes[match.group(1)] = max(labels, scopes.get(match.group(1), 0))
    return scopes


def generator_of(config: ModelConfig, found: Mapping[str, Shape]) -> ModelConfig:
    """The generator's sizes as its first layer shows them: no config file names its width."""
    attention = found.get("generator/encoder/layer_0/rel_attn/q/kernel", ())
    inner = found.get("generator/encoder/layer_0/ff/layer_1/bias", ())
    if len(attention) != 3 or len(inner) != 1:
        return generator_config(config)
    width, heads, size = attention
    return config.replace(d_model=width, n_head=heads, d_head=size, d_inner=inner[0])


def is_weight(name: str) -> bool:
    """Whether a TensorFlow variable is a weight of the model, rather than state of its training."""
    return name.startswith(("model/", "generator/")) and not name.endswith(SLOTS)


def is_optimizer_state(name: str) -> bool:
    """Whether a TensorFlow variable is an Adam slot or the step counter."""
    return name == GLOBAL_STEP or name.endswith(SLOTS)


def encoder_layer(index: int) -> str:
    """Scope of the encoder's parameter layer ``index``."""
    return f"model/encoder/layer_{index}"


def decoder_layer(config: ModelConfig, index: int) -> str:
    """Scope of the decoder's parameter layer ``index``; the numbers go on after the encoder's."""
    return f"model/decoder/layer_{config.num_encoder_params + index}"


def released_names(config: ModelConfig, cls_scope: str) -> dict[str, str]:
    """Canonical name to the name in a released PyTorch file, for all that such a file holds."""
    names = {
        WORD_TABLE: "input_layer.0.lookup_table",
        "model/input/layer_norm/gamma": "input_layer.1.weight",
        "model/input/layer_norm/beta": "input_layer.1.bias",
        f"{SUMMARY}/kernel": "cls_head.0.weight",
        f"{SUMMARY}/bias": "cls_head.0.bias",
        f"model/{cls_scope}/logit/kernel": "cls_head.3.weight",
        f"model/{cls_scope}/logit/bias": "cls_head.3.bias",
    }
    for index in range(config.num_encoder_params):
        scope = encoder_layer(index)
        for ours, theirs in _RELEASED_ATTENTION.items():
            names[f"{scope}/rel_attn/{ours}"] = f"attn_layers.{index}.{theirs}"
        for ours, theirs in _RELEASED_FFN.items():
            names[f"{scope}/ff/{ours}"] = f"pffn_layers.{index}.{theirs}"
    return names


_RELEASED_ATTENTION = {
    "q/kernel": "q_head.weight",
    "k/kernel": "k_head.weight",
    "k/bias": "k_head.bias",
    "v/kernel": "v_head.weight",
    "v/bias": "v_head.bias",
    "o/kernel": "post_proj.weight",
    "o/bias": "post_proj.bias",
    "r_w_bias": "r_w_bias",
    "r_r_bias": "r_r_bias",
    "r/kernel": "r_kernel",
    "r_s_bias": "r_s_bias",
    "seg_embed": "seg_embed",
    "layer_norm/gamma": "layer_norm.weight",
    "layer_norm/beta": "layer_norm.bias",
}
_RELEASED_FFN = {
    "layer_1/kernel": "pffn.0.weight",
    "layer_1/bias": "pffn.0.bias",
    "layer_2/kernel": "pffn.3.weight",
    "layer_2/bias": "pffn.3.bias",
    "layer_norm/gamma": "layer_norm.weight",
    "layer_norm/beta": "layer_norm.bias",
}


def _decomposed(heads: Iterable[str]) -> list[str]:
    return [part for head in heads for part in _COMPOSED.get(head, (head,))]


def _dense(scope: str, size_in: int, size_out: int) -> dict[str, Shape]:
    return {f"{scope}/kernel": (size_in, size_out), f"{scope}/bias": (size_out,)}


def _norm(scope: str, size: int) -> dict[str, Shape]:
    return {f"{scope}/beta": (size,), f"{scope}/gamma": (size,)}


def _input_shapes(config: ModelConfig) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {WORD_TABLE: (config.vocab_size, config.d_embed)}
    shapes |= _norm("model/input/layer_norm", config.d_embed)
    if config.rel_attn_type == "null":
        tables = {"position": MAX_POSITIONS, "segment": 2}
        for name, rows in tables.items():
            shapes[f"model/input/{name}_embedding/lookup_table"] = (rows, config.d_embed)
    return shapes


def _tower_shapes(root: str, config: ModelConfig, decoder: bool) -> dict[str, Shape]:
    """Encoder and decoder under ``root``: ``model``, or ``generator``, which has the same tree."""
    shapes: dict[str, Shape] = {}
    if config.d_embed != config.d_model:
        shapes |= _dense(f"{root}/encoder/input_projection", config.d_embed, config.d_model)
    first = config.num_encoder_params
    scopes = [f"{root}/encoder/layer_{index}" for index in range(first)]
    if decoder:
        last = first + config.num_decoder_params
        scopes += [f"{root}/decoder/layer_{index}" for index in range(first, last)]
    layer = _layer_shapes(config)
    return shapes | {f"{scope}/{name}": shape for scope in scopes for name, shape in layer.items()}


def _layer_shapes(config: ModelConfig) -> dict[str, Shape]:
    width, inner, heads, size = config.d_model, config.d_inner, config.n_head, config.d_head
    shapes: dict[str, Shape] = {"rel_attn/q/kernel": (width, heads, size)}
    for name in ("k", "v"):
        shapes[f"rel_attn/{name}/kernel"] = (width, heads, size)
        shapes[f"rel_attn/{name}/bias"] = (heads, size)
    shapes |= {"rel_attn/o/kernel": (heads, size, width), "rel_attn/o/bias": (width,)}
    shapes["rel_attn/r_w_bias"] = (heads, size)
    if config.rel_attn_type != "null":
        shapes["rel_attn/r_r_bias"] = (heads, size)
        shapes["rel_attn/r_s_bias"] = (heads, size)
        shapes["rel_attn/r/kernel"] = (width, heads, size)
        shapes["rel_attn/seg_embed"] = (2, heads, size)
    shapes |= _norm("rel_attn/layer_norm", width)
    shapes |= _dense("ff/layer_1", width, inner) | _dense("ff/layer_2", inner, width)
    return shapes | _norm("ff/layer_norm", width)


def _head_shapes(config: ModelConfig, num_labels: int) -> dict[str, dict[str, Shape]]:
    width = config.d_model
    end, answer = "model/end_logits", "model/answer_class"
    return {
        "summary": _dense(SUMMARY, width, width),
        "mlm_projection": _projection_shapes("model", config),
        "mlm_bias": {"model/lm_loss/bias": (config.vocab_size,)},
        "discriminator": _dense("model/binary_proj/dense", width, width)
        | {"model/binary_loss/weight": (width,), "model/binary_loss/bias": (1,)},
        "race": _dense("model/race/logits", width, 1),
        "token_classification": _dense("model/token_classification/logits", width, num_labels),
        "start_logits": _dense("model/start_logits/dense", width, 1),
        "end_logits": _dense(f"{end}/dense", width, 1),
        "conditional_end_logits": _dense(f"{end}/dense_0", 2 * width, width)
        | _norm(f"{end}/layer_norm", width)
        | _dense(f"{end}/dense_1", width, 1),
        "answer_class": _dense(f"{answer}/dense_0", 2 * width, width)
        | {f"{answer}/dense_1/kernel": (width, 1)},
    }


def _projection_shapes(root: str, config: ModelConfig) -> dict[str, Shape]:
    dense = _dense(f"{root}/lm_proj/dense", config.d_model, config.d_embed)
    return dense | _norm(f"{root}/lm_proj/layer_norm", config.d_embed)


def _generator_shapes(generator: ModelConfig) -> dict[str, Shape]:
    shapes = _tower_shapes("generator", generator, decoder=True)
    shapes |= _projection_shapes("generator", generator)
    return shapes | {"generator/lm_loss/bias": (generator.vocab_size,)}
