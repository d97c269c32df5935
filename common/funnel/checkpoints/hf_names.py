"""Hugging Face's names and layouts of a Funnel model's weights, beside the canonical ones.

Their q, k, v, output and feed-forward projections are ``torch.nn.Linear`` weights, [out, in] with
heads flattened; ours are kernels ``x @ kernel`` with heads apart. All conversions here are views.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from funnel.checkpoints.names import (
    SUMMARY,
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
# These two stand on the encoder alone, as do their counterparts here.
ENCODER_ONLY = (BASE, SEQUENCE, CHOICE)


@dataclass(frozen=True)
class Layout:
    """How a canonical array is stored: its shape there, and the way there and back."""

    shape: Callable[[Shape], Shape]
    pack: Callable[[np.ndarray], np.ndarray]
    unpack: Callable[[np.ndarray, Shape], np.ndarray]


SAME = Layout(lambda shape: shape, lambda x: x, lambda x, shape: x)
# [D, N, d] to [N*d, D], and any two-dimensional kernel
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
# Their discriminator says "replaced" where ours says "original".
NEGATED = Layout(lambda shape: shape, np.negative, lambda x, shape: np.negative(x))
NEGATED_ROW = Layout(
    lambda shape: (1, *shape),
    lambda x: np.negative(x)[None],
    lambda x, shape: np.negative(x).reshape(shape),
)


@dataclass(frozen=True)
class Entry:
    """One tensor of their file: the canonical variables it holds, stacked along its first axis."""

    parts: tuple[str, ...]
    layout: Layout = SAME

    def shape(self, shapes: Mapping[str, Shape]) -> Shape:
        """Its shape, given those of the canonical variables."""
        first, *rest = (self.layout.shape(shapes[part]) for part in self.parts)
        return (first[0] + sum(shape[0] for shape in rest), *first[1:])

    def pack(self, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
        """Their array."""
        arrays = [self.layout.pack(tensors[part]) for part in self.parts]
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)

    def unpack(self, array: np.ndarray, shapes: Mapping[str, Shape]) -> dict[str, np.ndarray]:
        """The canonical arrays in theirs; each part has the same share of the rows."""
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


def core_names(config: ModelConfig, decoder: bool, prefix: str) -> dict[str, Entry]:
    """Their names of the embedding, encoder and decoder. ``prefix``: "" or "funnel."."""
    names = {
        "embeddings.word_embeddings.weight": Entry((WORD_TABLE,)),
        "embeddings.layer_norm.weight": Entry(("model/input/layer_norm/gamma",)),
        "embeddings.layer_norm.bias": Entry(("model/input/layer_norm/beta",)),
    }
    index = 0
    for block, spec in enumerate(config.blocks):
        for layer in range(spec.params):
            names |= _layer_names(config, f"encoder.blocks.{block}.{layer}", encoder_layer(index))
            index += 1
    for layer in range(config.num_decoder_params if decoder else 0):
        names |= _layer_names(config, f"decoder.layers.{layer}", decoder_layer(config, layer))
    return {f"{prefix}{theirs}": entry for theirs, entry in names.items()}


def head_names(architecture: str, cls_scope: str) -> dict[str, Entry]:
    """Their names of an architecture's head, without the word table an LM head is tied to."""
    if architecture == PRETRAINING:
        scope, theirs = "model/binary_proj/dense", "discriminator_predictions"
        return _linear(f"{theirs}.dense", scope) | {
            f"{theirs}.dense_prediction.weight": Entry(("model/binary_loss/weight",), NEGATED_ROW),
            f"{theirs}.dense_prediction.bias": Entry(("model/binary_loss/bias",), NEGATED),
        }
    if architecture == MASKED_LM:
        return {"lm_head.bias": Entry(("model/lm_loss/bias",))}
    if architecture in (SEQUENCE, CHOICE):
        output = "model/race/logits" if architecture == CHOICE else f"model/{cls_scope}/logit"
        return _linear("classifier.linear_hidden", SUMMARY) | _linear(
            "classifier.linear_out", output
        )
    if architecture == TOKEN:
        return _linear("classifier", "model/token_classification/logits")
    if architecture == ANSWERING:
        return _linear("qa_outputs", "model/start_logits/dense", "model/end_logits/dense")
    return {}


def _layer_names(config: ModelConfig, theirs: str, ours: str) -> dict[str, Entry]:
    names = {
        f"{theirs}.attention.{name}": Entry((f"{ours}/rel_attn/{canonical}",), layout)
        for name, (canonical, layout) in _ATTENTION.items()
        if config.rel_attn_type != "null" or name not in _RELATIVE_ONLY
    }
    return names | {
        f"{theirs}.ffn.{name}": Entry((f"{ours}/ff/{canonical}",), layout)
        for name, (canonical, layout) in _FFN.items()
    }


def _linear(theirs: str, *scopes: str) -> dict[str, Entry]:
    return {
        f"{theirs}.weight": Entry(tuple(f"{scope}/kernel" for scope in scopes), INPUT_FIRST),
        f"{theirs}.bias": Entry(tuple(f"{scope}/bias" for scope in scopes)),
    }
