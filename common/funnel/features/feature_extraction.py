"""Hidden states of texts or ids as a file: ``extract_features.py`` of both backends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from funnel.checkpoints import Checkpoint
from funnel.checkpoints.names import BINARY_OUTPUT, SUMMARY
from funnel.config.geometry import bucket_length, cut_length, encoder_geometry
from funnel.config.inputs import TokenizerRequest
from funnel.config.model import ModelConfig
from funnel.features.feature_inputs import IdSequences, ModelInputs, Sequences, TextSequences
from funnel.formats.npz_rows import atomic_npz
from funnel.tokenization.choice import open_tokenizer
from funnel.utils.errors import ConfigError
from funnel.utils.logging import progress
from funnel.utils.text import join_names

_PER_TOKEN = "discriminator_logits"


class ModelParts(NamedTuple):
    """Outputs that a checkpoint has weights for, apart from the encoder's hidden states."""

    decoder: bool
    summary: bool
    discriminator: bool


@dataclass(frozen=True)
class TextSource:
    """A text file and its tokenizer, by default the one next to the weights."""

    path: str
    tokenizer: TokenizerRequest = field(default_factory=TokenizerRequest)
    max_length: int = 512


def detect_parts(checkpoint: Checkpoint) -> ModelParts:
    """Return which parts a checkpoint has weights for."""
    tensors, config = checkpoint.tensors, checkpoint.config
    layers = any(name.startswith("model/decoder/") for name in tensors)
    # Without decoder layers, several blocks still have the up-sampled residual sum.
    only_sum = config.decoder is None and len(config.blocks) > 1
    summary = f"{SUMMARY}/kernel" in tensors
    return ModelParts(layers or only_sum, summary, f"{BINARY_OUTPUT}/weight" in tensors)


def config_changes(
    checkpoint: Checkpoint, attn_type: str | None, truncate_seq: bool | None
) -> dict[str, Any]:
    """Return the changes of a checkpoint's config by run-time flags; ``None`` keeps a value.

    Raises:
        ConfigError: an attention form is given for a model without relative attention.
    """
    if checkpoint.config.rel_attn_type == "null" and attn_type:
        raise ConfigError("--attn_type: this model has no relative attention (rel_attn_type null)")
    changes = {"rel_attn_type": attn_type, "truncate_seq": truncate_seq}
    return {key: value for key, value in changes.items() if value is not None}


def load_inputs(checkpoint: Checkpoint, ids: str | None, text: TextSource) -> Sequences:
    """Return the sequences of the file ``ids`` or, without one, of a text.

    Raises:
        ConfigError: no vocabulary, or one that does not fit the model.
        DataError: the file is missing or malformed.
    """
    if ids:
        return IdSequences(ids, checkpoint.config.vocab_size)
    path, known = checkpoint.metadata.get("path", ""), checkpoint.metadata.get("vocab_path")
    if not (text.tokenizer.path or known):
        raise ConfigError(f"{path}: no vocabulary next to the weights; set --tokenizer_path")
    tokenizer = open_tokenizer(text.tokenizer, [Path(known).parent] if known else [])
    if tokenizer.vocab_size > checkpoint.config.vocab_size:
        raise ConfigError(
            f"{tokenizer.path}: {tokenizer.vocab_size} tokens do not fit the model's vocab_size "
            f"{checkpoint.config.vocab_size}"
        )
    return TextSequences(text.path, tokenizer, text.max_length)


@dataclass(frozen=True)
class OutputSelection:
    """The outputs to write.

    Attributes:
        names: ``embedding``, ``hidden_0`` ..., ``decoder``, ``summary``, ``discriminator_logits``.
        pooling: ``cls``, ``mean`` or ``max`` over the real positions of a sequence, special tokens
            included; None keeps every position.
    """

    names: tuple[str, ...]
    pooling: str | None = None


def select_outputs(
    config: ModelConfig, parts: ModelParts, layers: str | None, pooling: str | None
) -> OutputSelection:
    """Return the outputs that ``--layers`` and ``--pooling`` choose.

    Args:
        config: the model.
        parts: its parts.
        layers: comma list of names or numbers; a number is that of a hidden state, counted from the
            last one if negative. None is all outputs, except, with pooling, those per token.
        pooling: as in :class:`OutputSelection`.

    Raises:
        ConfigError: the model has no such output, or it cannot be pooled.
    """
    hidden = [f"hidden_{i}" for i in range(sum(block.layers for block in config.blocks))]
    present = ["embedding", *hidden]
    present += ["decoder"] * parts.decoder + ["summary"] * parts.summary
    if parts.discriminator and not (pooling and layers is None):
        present.append(_PER_TOKEN)
    if layers is None:
        return OutputSelection(tuple(present), pooling)
    chosen = [_output_name(item.strip(), hidden) for item in layers.split(",")]
    for name in chosen:
        if name not in present:
            raise ConfigError(
                f"--layers: {name!r} is no output of this model: {join_names(present)}"
            )
        if pooling and name == _PER_TOKEN:
            raise ConfigError(f"--layers: {name} is one number per token; it has no --pooling")
    return OutputSelection(tuple(name for name in present if name in chosen), pooling)


def _output_name(item: str, hidden: Sequence[str]) -> str:
    """Return the name of an output that is given by name or by number."""
    try:
        return hidden[int(item)]
    except (ValueError, IndexError):
        return item


def extract_to_file(
    extract: Callable[..., dict[str, np.ndarray]],
    inputs: Sequences,
    config: ModelConfig,
    selection: OutputSelection,
    batch_size: int,
    path: str | Path,
) -> None:
    """Write the outputs of all sequences to an ``.npz``, atomically; memory is that of a batch.

    Without pooling every array is padded to the longest sequence, and the ids of a text are added.

    Args:
        extract: computes the outputs ``names`` [B, ...] of a batch.
        inputs: the sequences.
        config: the model.
        selection: what to write.
        batch_size: sequences computed at a time.
        path: the file.

    Raises:
        FunnelError: the file cannot be written.
    """
    padded = partial(_pooled_batch_length, inputs.length, config) if selection.pooling else None
    total = -(-len(inputs) // batch_size)
    with atomic_npz(path) as rows:
        for batch in progress(inputs.batches(batch_size, padded), "batches", total=total):
            arrays = extract(**batch.to_dict(), names=selection.names)
            if selection.pooling:
                rows.append(pool_outputs(arrays, batch, config, selection.pooling))
            else:
                rows.append(arrays | (batch.to_dict() if inputs.is_text else {}))


def _pooled_batch_length(most: int, config: ModelConfig, longest: int) -> int:
    """Return a length with the outputs of padding to ``most``.

    A multiple of 64, so that TensorFlow needs few graphs.
    """
    return min(most, -(-bucket_length(longest, most, config) // 64) * 64)


def pool_outputs(
    arrays: Mapping[str, np.ndarray], batch: ModelInputs, config: ModelConfig, pooling: str
) -> dict[str, np.ndarray]:
    """Return one vector per sequence, float32 [B, D], for every output [B, L, D].

    Outputs [B, D] are returned unchanged. A sequence without real positions has zeros.
    """
    mask = batch.attention_mask
    masks = pool_masks(np.ones_like(batch.input_ids) if mask is None else mask, config)
    blocks = [index for index, block in enumerate(config.blocks) for _ in range(block.layers)]
    result = {}
    for name, array in arrays.items():
        layer = name.removeprefix("hidden_")
        real = masks[blocks[int(layer)]] if layer.isdecimal() else masks[0]
        result[name] = array if array.ndim == 2 else _pool(array, real, pooling)
    return result


def _pool(states: np.ndarray, mask: np.ndarray, pooling: str) -> np.ndarray:
    if pooling == "cls":
        return np.ascontiguousarray(states[:, 0])
    is_real = mask[:, :, None] > 0
    if pooling == "mean":
        total = np.where(is_real, states, 0).sum(axis=1)
        return (total / np.maximum(is_real.sum(axis=1), 1)).astype(states.dtype)
    highest = np.where(is_real, states, -np.inf).max(axis=1)
    return np.where(is_real.any(axis=1), highest, 0).astype(states.dtype)


def pool_masks(mask: np.ndarray, config: ModelConfig) -> list[np.ndarray]:
    """Return the attention mask [B, L] of every block; the first one is ``mask``.

    A pooled position is padding only if all its sources are.
    """
    masks = [mask]
    for geometry in encoder_geometry(config, mask.shape[1])[1:]:
        if not geometry.pooled:
            masks.append(masks[-1])
            continue
        kept = masks[-1][:, : cut_length(masks[-1].shape[1], config)]
        first, rest = (kept[:, :1], kept[:, 1:]) if config.separate_cls else (kept[:, :0], kept)
        fill = -rest.shape[1] % config.pooling_size
        windows = np.pad(rest, ((0, 0), (0, fill))).reshape(len(mask), -1, config.pooling_size)
        masks.append(np.concatenate([first, windows.max(axis=2)], axis=1))
    return masks
