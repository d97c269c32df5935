"""Names and shapes of a model's variables: canonical (TensorFlow) and released PyTorch names.

Canonical names and shapes are those of the original's TensorFlow checkpoints. A repeated layer is
one set of variables, and the decoder's layer numbers continue those of the encoder.
:mod:`funnel.checkpoints.hf_names` maps canonical names to Hugging Face's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from funnel.config.heads import generator_config
from funnel.config.model import MAX_ABSOLUTE_POSITIONS, ModelConfig

Shape = tuple[int, ...]

GLOBAL_STEP = "global_step"
SLOTS = ("/adam_m", "/adam_v")
DEFAULT_CLS_SCOPE = "classification"
WORD_TABLE = "model/input/word_embedding/lookup_table"
SUMMARY = "model/sequnece_summary/summary"  # misspelled in every released checkpoint
RACE_LOGITS = "model/race/logits"
TOKEN_LOGITS = "model/token_classification/logits"
START_LOGITS, END_LOGITS = "model/start_logits/dense", "model/end_logits/dense"
BINARY_PROJECTION, BINARY_OUTPUT = "model/binary_proj/dense", "model/binary_loss"
LM_BIAS = "model/lm_loss/bias"
LM_PROJECTION = "model/lm_proj/dense/kernel"
_CLASSIFIER = re.compile(r"model/([^/]+)/logit/(?:kernel|bias)")

# A checkpoint has a head if the name of any variable starts with the head's prefix.
_HEAD_PREFIXES = {
    "summary": f"{SUMMARY}/",
    "mlm_projection": "model/lm_proj/",
    "mlm_bias": "model/lm_loss/",
    "discriminator": "model/binary_",
    "generator": "generator/",
    "race": f"{RACE_LOGITS}/",
    "token_classification": f"{TOKEN_LOGITS}/",
    "start_logits": "model/start_logits/",
    "end_logits": f"{END_LOGITS}/",
    "conditional_end_logits": f"{END_LOGITS}_",
    "answer_class": "model/answer_class/",
}
# Heads composed of several of the above.
_COMPOSED = {
    "mlm": ("mlm_projection", "mlm_bias"),
    "question_answering": ("start_logits", "end_logits"),
    "squad": ("start_logits", "conditional_end_logits"),
}
# Heads that compute nothing unless all their variables are trained together: prefixes of the names.
_INDIVISIBLE_HEADS = {
    "masked-LM head": ("model/lm_proj/", "model/lm_loss/"),
    "discriminator": ("model/binary_",),
    "generator": ("generator/",),
    "answer span head": ("model/start_logits/", "model/end_logits/"),
    "answerability head": ("model/answer_class/",),
    "RACE head": (f"{RACE_LOGITS}/",),
    "token classifier": (f"{TOKEN_LOGITS}/",),
}
# Parts of the names of task heads: classifiers, the summary layer below them, RACE and SQuAD.
_TASK_HEAD_PARTS = (
    *("/logit/", "/logits/", "/sequnece_summary/"),
    *("/start_logits/", "/end_logits/", "/answer_class/"),
)


def expected_shapes(
    config: ModelConfig,
    *,
    decoder: bool = True,
    heads: Iterable[str] = (),
    num_labels: int = 2,
    cls_scope: str = DEFAULT_CLS_SCOPE,
    generator: ModelConfig | None = None,
) -> dict[str, Shape]:
    """Return the shape of every variable of a model by canonical name.

    Args:
        config: sizes of the model.
        decoder: include the decoder, if the config has one.
        heads: any of summary, classification, mlm, discriminator, generator, race,
            token_classification, start_logits, end_logits, conditional_end_logits, answer_class,
            question_answering, squad, mlm_projection, mlm_bias.
        num_labels: outputs of the classification heads.
        cls_scope: SCOPE of ``model/SCOPE/logit``, the classification head.
        generator: sizes of the generator, by default :func:`generator_config` of ``config``.

    Raises:
        KeyError: an unknown head.
    """
    shapes = _input_shapes(config)
    shapes |= _stack_shapes("model", config, decoder)
    for head in _decomposed(heads):
        if head == "classification":
            shapes |= _linear(f"model/{cls_scope}/logit", config.d_model, num_labels)
        elif head == "generator":
            shapes |= _generator_shapes(generator or generator_config(config))
        else:
            shapes |= _head_shapes(config, num_labels)[head]
    return shapes


def shapes_for(config: ModelConfig, found: Mapping[str, Shape]) -> dict[str, Shape]:
    """Return the shapes expected in a checkpoint with the variables ``found``.

    The encoder is always expected, the decoder and each head only if one of its variables exists.
    """
    decoder = any(name.startswith("model/decoder/") for name in found)
    heads = [
        head for head, prefix in _HEAD_PREFIXES.items() if any(n.startswith(prefix) for n in found)
    ]
    generator = infer_generator(config, found) if "generator" in heads else None
    labels = (found.get(f"{TOKEN_LOGITS}/bias") or (2,))[-1]
    expected = expected_shapes(
        config, decoder=decoder, heads=heads, num_labels=labels, generator=generator
    )
    for scope, num_labels in find_classifiers(found).items():
        expected |= _linear(f"model/{scope}/logit", config.d_model, num_labels)
    return expected


def find_classifiers(found: Mapping[str, Shape]) -> dict[str, int]:
    """Return the number of labels of each classification head by SCOPE of ``model/SCOPE/logit``."""
    scopes: dict[str, int] = {}
    for name, shape in found.items():
        if match := _CLASSIFIER.fullmatch(name):
            # A shape may be unknown yet: ().
            labels = shape[-1] if shape else 0
            scopes[match.group(1)] = max(labels, scopes.get(match.group(1), 0))
    return scopes


def infer_generator(config: ModelConfig, found: Mapping[str, Shape]) -> ModelConfig:
    """Return the generator's config, read off the shapes of its first layer.

    No config file has its width.
    """
    attention = found.get("generator/encoder/layer_0/rel_attn/q/kernel", ())
    inner = found.get("generator/encoder/layer_0/ff/layer_1/bias", ())
    if len(attention) != 3 or len(inner) != 1:
        return generator_config(config)
    width, heads, size = attention
    return config.replace(d_model=width, n_head=heads, d_head=size, d_inner=inner[0])


def is_weight(name: str) -> bool:
    """Return whether a TensorFlow variable is a weight of the model and not training state."""
    return name.startswith(("model/", "generator/")) and not name.endswith(SLOTS)


def is_optimizer_state(name: str) -> bool:
    """Return whether a TensorFlow variable is an Adam slot or the step counter."""
    return name == GLOBAL_STEP or name.endswith(SLOTS)


def find_partial_heads(missing: Iterable[str], loaded: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the heads that would be partly loaded and partly random, as name to prefixes.

    A checkpoint whose head differs in kind causes this: transformers' masked-LM head has a bias but
    no projection. A summary layer without its classifier is no such case but the usual transfer to
    another task.

    Args:
        missing: a model's variables that a checkpoint lacks.
        loaded: those that it has.
    """
    lacks = [name for name in missing if not is_optimizer_state(name)]
    has = [name for name in loaded if not is_optimizer_state(name)]
    return {
        head: prefixes
        for head, prefixes in _INDIVISIBLE_HEADS.items()
        if any(name.startswith(prefixes) for name in lacks)
        and any(name.startswith(prefixes) for name in has)
    }


def is_task_head(name: str) -> bool:
    """Return whether a variable belongs to the head of a fine-tuned task."""
    return any(part in name for part in _TASK_HEAD_PARTS)


def encoder_layer(index: int) -> str:
    """Return the scope of the encoder's parameter layer ``index``."""
    return f"model/encoder/layer_{index}"


def decoder_layer(config: ModelConfig, index: int) -> str:
    """Return the scope of the decoder's parameter layer ``index``, numbered after the encoder's."""
    return f"model/decoder/layer_{config.num_encoder_params + index}"


def released_names(config: ModelConfig, cls_scope: str) -> dict[str, str]:
    """Map canonical names to those of a released PyTorch file, for all that such a file holds."""
    names = {
        WORD_TABLE: "input_layer.0.lookup_table",
        "model/input/layer_norm/gamma": "input_layer.1.weight",
        "model/input/layer_norm/beta": "input_layer.1.bias",
        # cls_head is a Sequential of linear, tanh, dropout, linear.
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


# These layers are not nn.Linear: their weights have the layout of canonical kernels. The released
# files therefore differ from the canonical form in names only.
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


def _linear(scope: str, size_in: int, size_out: int) -> dict[str, Shape]:
    return {f"{scope}/kernel": (size_in, size_out), f"{scope}/bias": (size_out,)}


def _norm(scope: str, size: int) -> dict[str, Shape]:
    return {f"{scope}/beta": (size,), f"{scope}/gamma": (size,)}


def _input_shapes(config: ModelConfig) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {WORD_TABLE: (config.vocab_size, config.d_embed)}
    shapes |= _norm("model/input/layer_norm", config.d_embed)
    # The baseline adds absolute positions and segments to the embedding, as BERT does.
    if config.rel_attn_type == "null":
        tables = {"position": MAX_ABSOLUTE_POSITIONS, "segment": 2}
        for name, rows in tables.items():
            shapes[f"model/input/{name}_embedding/lookup_table"] = (rows, config.d_embed)
    return shapes


def _stack_shapes(root: str, config: ModelConfig, decoder: bool) -> dict[str, Shape]:
    """Return the layers of encoder and decoder below ``root`` (``model`` or ``generator``)."""
    shapes: dict[str, Shape] = {}
    # In the encoder's scope, although it is applied to the embedding.
    if config.d_embed != config.d_model:
        shapes |= _linear(f"{root}/encoder/input_projection", config.d_embed, config.d_model)
    first = config.num_encoder_params
    scopes = [f"{root}/encoder/layer_{index}" for index in range(first)]
    if decoder:
        last = first + config.num_decoder_params
        scopes += [f"{root}/decoder/layer_{index}" for index in range(first, last)]
    layer = _layer_shapes(config)
    return shapes | {f"{scope}/{name}": shape for scope in scopes for name, shape in layer.items()}


def _layer_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Return the variables of one layer: attention kernels keep the head axis apart, [D, N, d]."""
    width, inner, heads, size = config.d_model, config.d_inner, config.n_head, config.d_head
    shapes: dict[str, Shape] = {"rel_attn/q/kernel": (width, heads, size)}
    for name in ("k", "v"):
        shapes[f"rel_attn/{name}/kernel"] = (width, heads, size)
        shapes[f"rel_attn/{name}/bias"] = (heads, size)
    # Query and distances have no biases: r_w_bias, r_r_bias and r_s_bias, added to the query in the
    # content, position and segment scores, take their place.
    shapes |= {"rel_attn/o/kernel": (heads, size, width), "rel_attn/o/bias": (width,)}
    shapes["rel_attn/r_w_bias"] = (heads, size)
    if config.rel_attn_type != "null":
        shapes["rel_attn/r_r_bias"] = (heads, size)
        shapes["rel_attn/r_s_bias"] = (heads, size)
        shapes["rel_attn/r/kernel"] = (width, heads, size)
        shapes["rel_attn/seg_embed"] = (2, heads, size)
    shapes |= _norm("rel_attn/layer_norm", width)
    shapes |= _linear("ff/layer_1", width, inner) | _linear("ff/layer_2", inner, width)
    return shapes | _norm("ff/layer_norm", width)


def _head_shapes(config: ModelConfig, num_labels: int) -> dict[str, dict[str, Shape]]:
    width, answer = config.d_model, "model/answer_class"
    return {
        "summary": _linear(SUMMARY, width, width),
        "mlm_projection": _projection_shapes("model", config),
        "mlm_bias": {LM_BIAS: (config.vocab_size,)},
        "discriminator": _linear(BINARY_PROJECTION, width, width)
        | {f"{BINARY_OUTPUT}/weight": (width,), f"{BINARY_OUTPUT}/bias": (1,)},
        "race": _linear(RACE_LOGITS, width, 1),
        "token_classification": _linear(TOKEN_LOGITS, width, num_labels),
        "start_logits": _linear(START_LOGITS, width, 1),
        "end_logits": _linear(END_LOGITS, width, 1),
        # Scores of ends given a start: a hidden layer on both states, [2 D] -> D -> 1.
        "conditional_end_logits": _linear(f"{END_LOGITS}_0", 2 * width, width)
        | _norm("model/end_logits/layer_norm", width)
        | _linear(f"{END_LOGITS}_1", width, 1),
        "answer_class": _linear(f"{answer}/dense_0", 2 * width, width)
        | {f"{answer}/dense_1/kernel": (width, 1)},
    }


def _projection_shapes(root: str, config: ModelConfig) -> dict[str, Shape]:
    linear = _linear(f"{root}/lm_proj/dense", config.d_model, config.d_embed)
    return linear | _norm(f"{root}/lm_proj/layer_norm", config.d_embed)


def _generator_shapes(generator: ModelConfig) -> dict[str, Shape]:
    """Return the generator's variables; it has no embedding table but uses the model's."""
    shapes = _stack_shapes("generator", generator, decoder=True)
    shapes |= _projection_shapes("generator", generator)
    return shapes | {"generator/lm_loss/bias": (generator.vocab_size,)}
