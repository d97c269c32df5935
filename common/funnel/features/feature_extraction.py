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
from funnel.config.extraction import OutputSettings
from funnel.config.geometry import bucket_length, cut_length, encoder_geometry
from funnel.config.inputs import TokenizerRequest
from funnel.config.model import ModelConfig
from funnel.features.feature_inputs import IdSequences, ModelInputs, Sequences, TextSequences
from funnel.formats.npy_rows import atomic_npy
from funnel.formats.npz_rows import atomic_npz
from funnel.tokenization.choice import open_tokenizer, warn_of_length
from funnel.utils.errors import ConfigError, DataError
from funnel.utils.logging import progress
from funnel.utils.text import join_names

NPY = ".npy"
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
    warn_of_length(tokenizer, text.max_length)
    return TextSequences(text.path, tokenizer, text.max_length)


@dataclass(frozen=True)
class OutputSelection:
    """The outputs to write.

    Attributes:
        names: ``embedding``, ``hidden_0`` ..., ``decoder``, ``summary``, ``discriminator_logits``.
        pooling: ``cls``, ``mean`` or ``max`` over the real positions of a sequence; None keeps
            every position.
        exclude_special: leave [CLS] and [SEP] out of the pooling. A position of a later block
            counts if any of the positions it was pooled from does.
        normalize: scale the vectors [B, D] to length 1; a vector of zeros stays.
        dtype: type of the numbers.
    """

    names: tuple[str, ...]
    pooling: str | None = None
    exclude_special: bool = False
    normalize: bool = False
    dtype: str = "float32"


def select_outputs(
    config: ModelConfig, parts: ModelParts, settings: OutputSettings, path: str | Path = ""
) -> OutputSelection:
    """Return the outputs that the settings choose.

    Args:
        config: the model.
        parts: its parts.
        settings: ``layers`` is a comma list of names or numbers; a number is that of a hidden
            state, counted from the last one if negative. None is all outputs, except, with pooling,
            those per token.
        path: the file to write.

    Raises:
        ConfigError: the model has no such output, it cannot be pooled, or the file cannot hold it.
    """
    layers, pooling = settings.layers, settings.pooling
    form = (settings.exclude_special, settings.normalize, settings.dtype)
    hidden = [f"hidden_{i}" for i in range(sum(block.layers for block in config.blocks))]
    present = ["embedding", *hidden]
    present += ["decoder"] * parts.decoder + ["summary"] * parts.summary
    if parts.discriminator and not (pooling and layers is None):
        present.append(_PER_TOKEN)
    if layers is None:
        _check_file(path, present, pooling, present)
        return OutputSelection(tuple(present), pooling, *form)
    chosen = [_output_name(item.strip(), hidden) for item in layers.split(",")]
    for name in chosen:
        if name not in present:
            raise ConfigError(
                f"--layers: {name!r} is no output of this model: {join_names(present)}"
            )
        if pooling and name == _PER_TOKEN:
            raise ConfigError(f"--layers: {name} is one number per token; it has no --pooling")
    names = tuple(name for name in present if name in chosen)
    _check_file(path, names, pooling, present)
    return OutputSelection(names, pooling, *form)


def _check_file(
    path: str | Path, names: Sequence[str], pooling: str | None, present: Sequence[str]
) -> None:
    """Refuse a ``.npy`` for anything but one vector per sequence."""
    if not str(path).endswith(NPY):
        return
    if len(names) != 1:
        raise ConfigError(
            f"{path}: a .npy file holds one output: choose one with --layers, of "
            f"{join_names(present)}, or write an .npz"
        )
    if pooling is None and names[0] != "summary":
        raise ConfigError(
            f"{path}: a .npy file holds one vector per sequence: add --pooling=mean, cls or max, "
            "or write an .npz"
        )


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
    """Write the outputs of all sequences to a file, atomically; memory is that of a batch.

    A ``.npy`` is one array [sequences, D], any other name an ``.npz`` of all outputs. Without
    pooling every array is padded to the longest sequence, and the ids of a text are added.

    Args:
        extract: computes the outputs ``names`` [B, ...] of a batch.
        inputs: the sequences.
        config: the model.
        selection: what to write.
        batch_size: sequences computed at a time.
        path: the file.

    Raises:
        FunnelError: the file cannot be written, or the type cannot hold the numbers.
    """
    if selection.exclude_special and not inputs.is_text:
        raise ConfigError("--exclude_special goes with --text: ids do not say which are special")
    special = inputs.special_ids if selection.exclude_special else ()
    padded = partial(_pooled_batch_length, inputs.length, config) if selection.pooling else None
    total = -(-len(inputs) // batch_size)
    is_npy = str(path).endswith(NPY)
    with atomic_npy(path, len(inputs)) if is_npy else atomic_npz(path) as rows:
        for batch in progress(inputs.batches(batch_size, padded), "batches", total=total):
            arrays = extract(**batch.to_dict(), names=selection.names)
            if selection.pooling:
                arrays = pool_outputs(arrays, batch, config, selection.pooling, special)
            if selection.normalize:
                arrays = {name: scale_to_unit(array) for name, array in arrays.items()}
            arrays = {name: _cast(name, array, selection.dtype) for name, array in arrays.items()}
            if inputs.is_text and not selection.pooling and not is_npy:
                arrays |= batch.to_dict()
            rows.append(arrays)


def scale_to_unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors [B, D] with length 1; zeros stay."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def _cast(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    """Return an array in another type.

    Raises:
        DataError: the type cannot hold a number of it.
    """
    with np.errstate(over="ignore"):
        cast = array.astype(dtype, copy=False)
    if not np.isfinite(cast).all() and np.isfinite(array).all():
        raise DataError(
            f"{name}: holds {np.abs(array).max():.4g}, more than {dtype} can: --dtype=float32, or "
            "--normalize"
        )
    return cast


def _pooled_batch_length(most: int, config: ModelConfig, longest: int) -> int:
    """Return a length with the outputs of padding to ``most``.

    A multiple of 64, so that TensorFlow needs few graphs.
    """
    return min(most, -(-bucket_length(longest, most, config) // 64) * 64)


def pool_outputs(
    arrays: Mapping[str, np.ndarray],
    batch: ModelInputs,
    config: ModelConfig,
    pooling: str,
    excluded_ids: Sequence[int] = (),
) -> dict[str, np.ndarray]:
    """Return one vector per sequence, float32 [B, D], for every output [B, L, D].

    Outputs [B, D] are returned unchanged. A sequence without real positions has zeros. Tokens of
    ``excluded_ids`` count as padding.
    """
    mask = batch.attention_mask
    mask = np.ones_like(batch.input_ids) if mask is None else mask
    if len(excluded_ids):
        mask = np.where(np.isin(batch.input_ids, excluded_ids), 0, mask)
    masks = pool_masks(mask, config)
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
