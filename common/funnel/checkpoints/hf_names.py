"""Mapping between Hugging Face's names and layouts of a Funnel model's weights and the canonical.

In ``transformers``, q, k, v, output and feed-forward projections are ``torch.nn.Linear`` weights,
[out, in] with heads flattened. Canonical kernels are applied as ``x @ kernel`` and keep heads
apart: [D, N, d] and [N, d, D]. All conversions are views, except for stacking and negation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from funnel.checkpoints.names import (
    BINARY_OUTPUT,
    BINARY_PROJECTION,
    END_LOGITS,
    LM_BIAS,
    RACE_LOGITS,
    START_LOGITS,
    SUMMARY,
    TOKEN_LOGITS,
    WORD_TABLE,
    Shape,
    decoder_layer,
    encoder_layer,
)
from funnel.config.model import ModelConfig

BASE, FULL = "FunnelBaseModel", "FunnelModel"
PRETRAINING, MASKED_LM = "FunnelForPreTraining", "FunnelForMaskedLM"
SEQUENCE, CHOICE = "FunnelForSequenceClassification", "FunnelForMultipleChoice"
TOKEN, ANSWERING = "FunnelForTokenClassification", "FunnelForQuestionAnswering"
ARCHITECTURES = (BASE, FULL, PRETRAINING, MASKED_LM, SEQUENCE, CHOICE, TOKEN, ANSWERING)
# Architectures without a decoder.
ENCODER_ONLY = (BASE, SEQUENCE, CHOICE)


@dataclass(frozen=True)
class Layout:
    """How a canonical array is stored in their file.

    Attributes:
        shape: maps the canonical shape to theirs.
        pack: maps the canonical array to theirs.
        unpack: maps their array, and the canonical shape, to the canonical array.
    """

    shape: Callable[[Shape], Shape]
    pack: Callable[[np.ndarray], np.ndarray]
    unpack: Callable[[np.ndarray, Shape], np.ndarray]


SAME = Layout(lambda shape: shape, lambda x: x, lambda x, shape: x)
# [D, N, d] to [N*d, D]; also any two-dimensional kernel
INPUT_FIRST = Layout(
    lambda shape: (int(np.prod(shape[1:])), shape[0]),
    lambda x: x.reshape(x.shape[0], -1).T,
    lambda x, shape: x.T.reshape(shape),
)
# [N, d, D] to [D, N*d]
OUTPUT_LAST = Layout(
    lambda shape: (shape[-1], int(np.prod(shape[:-1]))),
    lambda x: x.reshape(-1, x.shape[-1]).T,
    lambda x, shape: x.T.reshape(shape),
)
# [N, d] to [N*d]
FLAT = Layout(
    lambda shape: (int(np.prod(shape)),),
    lambda x: x.reshape(-1),
    lambda x, shape: x.reshape(shape),
)
# Their discriminator predicts "replaced" where the canonical one predicts "original", so the logit
# has the opposite sign.
NEGATED = Layout(lambda shape: shape, np.negative, lambda x, shape: np.negative(x))
NEGATED_ROW = Layout(
    lambda shape: (1, *shape),
    lambda x: np.negative(x)[None],
    lambda x, shape: np.negative(x).reshape(shape),
)


@dataclass(frozen=True)
class HFTensor:
    """One tensor of their file: canonical variables ``parts``, stacked along the first axis."""

    parts: tuple[str, ...]
    layout: Layout = SAME

    def shape(self, shapes: Mapping[str, Shape]) -> Shape:
        """Return its shape, given those of the canonical variables."""
        first, *rest = (self.layout.shape(shapes[part]) for part in self.parts)
        return (first[0] + sum(shape[0] for shape in rest), *first[1:])

    def pack(self, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return their array, given the canonical ones."""
        arrays = [self.layout.pack(tensors[part]) for part in self.parts]
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)

    def unpack(self, array: np.ndarray, shapes: Mapping[str, Shape]) -> dict[str, np.ndarray]:
        """Split their array into the canonical ones, each with an equal share of the rows."""
        pieces = np.split(array, len(self.parts)) if len(self.parts) > 1 else [array]
        return {
            part: self.layout.unpack(piece, shapes[part])
            for part, piece in zip(self.parts, pieces, strict=True)
        }


_ATTENTION = {
    "q_head.weight": ("q/kernel", INPUT_FIRST),
    "k_head.weight": ("k/kernel", INPUT_FIRST),
    "k_head.bias": ("k/bias", FLAT),
    "v_head.weight": ("v/kernel", INPUT_FIRST),
    "v_head.bias": ("v/bias", FLAT),
    "post_proj.weight": ("o/kernel", OUTPUT_LAST),
    "post_proj.bias": ("o/bias", SAME),
    "r_w_bias": ("r_w_bias", SAME),
    "r_r_bias": ("r_r_bias", SAME),
    "r_s_bias": ("r_s_bias", SAME),
    "r_kernel": ("r/kernel", SAME),
    "seg_embed": ("seg_embed", SAME),
    "layer_norm.weight": ("layer_norm/gamma", SAME),
    "layer_norm.bias": ("layer_norm/beta", SAME),
}
_RELATIVE_ONLY = ("r_r_bias", "r_s_bias", "r_kernel", "seg_embed")
_FFN = {
    "linear_1.weight": ("layer_1/kernel", INPUT_FIRST),
    "linear_1.bias": ("layer_1/bias", SAME),
    "linear_2.weight": ("layer_2/kernel", INPUT_FIRST),
    "linear_2.bias": ("layer_2/bias", SAME),
    "layer_norm.weight": ("layer_norm/gamma", SAME),
    "layer_norm.bias": ("layer_norm/beta", SAME),
}


def core_names(config: ModelConfig, decoder: bool, prefix: str) -> dict[str, HFTensor]:
    """Map their names of embedding, encoder and decoder; ``prefix`` is "" or "funnel."."""
    names = {
        "embeddings.word_embeddings.weight": HFTensor((WORD_TABLE,)),
        "embeddings.layer_norm.weight": HFTensor(("model/input/layer_norm/gamma",)),
        "embeddings.layer_norm.bias": HFTensor(("model/input/layer_norm/beta",)),
    }
    index = 0
    for block, spec in enumerate(config.blocks):
        for layer in range(spec.params):
            names |= _layer_names(config, f"encoder.blocks.{block}.{layer}", encoder_layer(index))
            index += 1
    for layer in range(config.num_decoder_params if decoder else 0):
        names |= _layer_names(config, f"decoder.layers.{layer}", decoder_layer(config, layer))
    return {f"{prefix}{theirs}": entry for theirs, entry in names.items()}


def head_names(architecture: str, cls_scope: str) -> dict[str, HFTensor]:
    """Map their names of an architecture's head, without the word table that an LM head shares."""
    if architecture == PRETRAINING:
        output = "discriminator_predictions.dense_prediction"
        return _linear("discriminator_predictions.dense", BINARY_PROJECTION) | {
            f"{output}.weight": HFTensor((f"{BINARY_OUTPUT}/weight",), NEGATED_ROW),
            f"{output}.bias": HFTensor((f"{BINARY_OUTPUT}/bias",), NEGATED),
        }
    if architecture == MASKED_LM:
        return {"lm_head.bias": HFTensor((LM_BIAS,))}
    if architecture in (SEQUENCE, CHOICE):
        output = RACE_LOGITS if architecture == CHOICE else f"model/{cls_scope}/logit"
        return _linear("classifier.linear_hidden", SUMMARY) | _linear(
            "classifier.linear_out", output
        )
    if architecture == TOKEN:
        return _linear("classifier", TOKEN_LOGITS)
    if architecture == ANSWERING:
        return _linear("qa_outputs", START_LOGITS, END_LOGITS)
    return {}


def _layer_names(config: ModelConfig, theirs: str, ours: str) -> dict[str, HFTensor]:
    names = {
        f"{theirs}.attention.{name}": HFTensor((f"{ours}/rel_attn/{canonical}",), layout)
        for name, (canonical, layout) in _ATTENTION.items()
        if config.rel_attn_type != "null" or name not in _RELATIVE_ONLY
    }
    return names | {
        f"{theirs}.ffn.{name}": HFTensor((f"{ours}/ff/{canonical}",), layout)
        for name, (canonical, layout) in _FFN.items()
    }


def _linear(theirs: str, *scopes: str) -> dict[str, HFTensor]:
    """Map their linear layer, whose outputs are those of ``scopes`` one after another."""
    return {
        f"{theirs}.weight": HFTensor(tuple(f"{scope}/kernel" for scope in scopes), INPUT_FIRST),
        f"{theirs}.bias": HFTensor(tuple(f"{scope}/bias" for scope in scopes)),
    }
