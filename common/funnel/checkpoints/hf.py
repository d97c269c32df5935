"""The Hugging Face layout, ``config.json`` and ``model.safetensors``: the native format here.

``transformers`` loads ``model.safetensors`` without missing or unexpected weights. Tensors that its
Funnel classes have no name for are in ``funnel_extra.safetensors``, under canonical names. A model
that they would compute wrongly gets a ``model_type`` that makes ``transformers`` refuse it.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from funnel.checkpoints import hf_names
from funnel.checkpoints.base import (
    Checkpoint,
    as_float32,
    check_facts,
    check_shapes,
    load_config,
    read_side_files,
    staged,
)
from funnel.checkpoints.hf_files import (
    EXTRA,
    EXTRA_KEY,
    INDEX_SUFFIX,
    METADATA_KEY,
    TORCH_WEIGHTS,
    WEIGHTS,
    read_extra,
    read_file,
    read_weights,
)
from funnel.checkpoints.hf_names import HFTensor
from funnel.checkpoints.model_card import is_model_card, model_card
from funnel.checkpoints.names import (
    BINARY_OUTPUT,
    DEFAULT_CLS_SCOPE,
    TOKEN_LOGITS,
    Shape,
    find_classifiers,
    is_optimizer_state,
    shapes_for,
)
from funnel.checkpoints.safetensors_file import write_safetensors
from funnel.checkpoints.state_dict import strip_wrappers
from funnel.checkpoints.vocabulary import TOKENIZER_FILES, write_tokenizer
from funnel.config.model import HF_CONFIG, NET_CONFIG, PYTORCH_NET_CONFIG, ModelConfig
from funnel.utils.errors import CheckpointError
from funnel.utils.files import is_file
from funnel.utils.json_files import read_json_object
from funnel.utils.text import join_names

logger = logging.getLogger(__name__)

CARD = "README.md"
_TIED = "lm_head.weight"
_SHOWN_LABELS = 5
# Metadata that config.json may set; never the vocabulary's path, which could name any file.
_OUR_FACTS = ("architecture", "cls_scope", "labels")


def load_hf(
    path: Path, config_path: str | Path | None = None, with_optimizer: bool = False
) -> Checkpoint:
    """Load a directory written by :func:`save_hf` or ``transformers``, or a single file of one."""
    if path.is_dir():
        theirs = strip_wrappers(read_weights(path), path)
        return convert_hf(theirs, path, config_path, with_optimizer)
    return convert_hf(strip_wrappers(read_file(path), path), path, config_path, with_optimizer)


def convert_hf(
    theirs: dict[str, np.ndarray],
    path: Path,
    config_path: str | Path | None = None,
    with_optimizer: bool = False,
) -> Checkpoint:
    """Bring weights under Hugging Face's names, read from ``path``, into canonical form."""
    directory = path if path.is_dir() else path.parent
    has_config = is_file(directory / HF_CONFIG, CheckpointError)
    values = read_json_object(directory / HF_CONFIG) if has_config else {}
    config = load_config(config_path, directory, (HF_CONFIG, NET_CONFIG, PYTORCH_NET_CONFIG))
    metadata = {"kind": "hf", "path": str(path)} | _read_metadata(values, directory)
    architecture = _infer_architecture(theirs, values, path.is_dir())
    if architecture not in hf_names.ENCODER_ONLY and not _skips_alike(config):
        logger.warning(
            "%s: transformers takes the decoder's skip connection of such a model (block_repeats "
            "of the first block, or a single block) from elsewhere and computes other outputs",
            path,
        )
    prefix = "funnel." if any(name.startswith("funnel.") for name in theirs) else ""
    has_decoder = any(name.startswith(f"{prefix}decoder.") for name in theirs)
    has_decoder |= architecture not in hf_names.ENCODER_ONLY
    scope = metadata.get("cls_scope", DEFAULT_CLS_SCOPE)
    entries = hf_names.core_names(config, has_decoder, prefix)
    entries |= hf_names.head_names(architecture, scope)
    _drop_tied(theirs, f"{prefix}embeddings.word_embeddings.weight", path)
    tensors = _unpack(theirs, entries, config, scope, path)
    if left_out := _drop_other_heads(tensors, config, path):
        metadata["left_out"] = left_out
    # Tensors outside transformers' architecture, and the optimizer state.
    extra_path = directory / EXTRA
    extra = read_extra(extra_path, values) if path.is_dir() else {}
    state = {name: extra.pop(name) for name in list(extra) if is_optimizer_state(name)}
    twice = sorted(extra.keys() & tensors.keys())
    if twice:
        raise CheckpointError(f"{extra_path}: {twice[0]} is in {path / WEIGHTS} too; delete one")
    tensors |= {name: as_float32(name, values, extra_path) for name, values in extra.items()}
    shapes = {name: values.shape for name, values in tensors.items()}
    check_shapes(shapes_for(config, shapes), shapes, path)
    metadata.setdefault("architecture", architecture)
    if scopes := list(find_classifiers(shapes)):
        metadata["cls_scope"] = scope if scope in scopes else scopes[0]
    return Checkpoint(config, tensors, metadata, state if with_optimizer else {})


def save_hf(checkpoint: Checkpoint, path: Path) -> list[str]:
    """Write the directory ``path``; files of other purpose in it stay.

    Returns:
        Names of the tensors that ``transformers`` has no place for; they are in
        ``funnel_extra.safetensors``.
    """
    config, metadata = checkpoint.config, checkpoint.metadata
    architecture = _choose_architecture(checkpoint)
    entries = _entries_for(checkpoint, architecture)
    held = {part for entry in entries.values() for part in entry.parts}
    others = {name: values for name, values in checkpoint.tensors.items() if name not in held}
    others |= checkpoint.optimizer
    # Weights of an earlier model here, in any form that weight_files would find.
    stale = (EXTRA, WEIGHTS + INDEX_SUFFIX, TORCH_WEIGHTS, TORCH_WEIGHTS + INDEX_SUFFIX)
    # A README.md that a user wrote is kept.
    keep_card = (path / CARD).is_file() and not is_model_card(path / CARD)
    with staged(path, (*stale, *TOKENIZER_FILES)) as directory:
        packed = {name: entry.pack(checkpoint.tensors) for name, entry in entries.items()}
        # transformers refuses a file without this metadata.
        write_safetensors(directory / WEIGHTS, packed, {"format": "pt"})
        if others:
            write_safetensors(directory / EXTRA, others)
        written = _config_json(checkpoint, architecture)
        if others:
            written.setdefault(METADATA_KEY, {})[EXTRA_KEY] = EXTRA
        _write_json(directory / HF_CONFIG, written)
        config.save_net_config(directory / NET_CONFIG)
        write_tokenizer(metadata, directory, for_transformers=True)
        if not keep_card:
            card = model_card(checkpoint, architecture, sorted(others))
            (directory / CARD).write_text(card, encoding="utf-8")
    return sorted(others)


def _drop_other_heads(
    tensors: dict[str, np.ndarray], config: ModelConfig, path: Path
) -> dict[str, str]:
    """Remove heads that compute something else here; return the reason by prefix of the names."""
    reasons: dict[str, str] = {}
    if config.ff_activation != "gelu" and f"{BINARY_OUTPUT}/bias" in tensors:
        reasons["model/binary_"] = (
            f"its discriminator uses {config.ff_activation} where the one here always uses gelu"
        )
    for prefix, reason in reasons.items():
        for name in [name for name in tensors if name.startswith(prefix)]:
            del tensors[name]
        logger.warning("%s: %s; that head is left out", path, reason)
    return reasons


def _read_metadata(values: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """Return our metadata from ``config.json`` and the other files of the directory."""
    metadata = read_side_files(directory)
    ours = values.get(METADATA_KEY, {})
    if isinstance(ours, Mapping):
        metadata |= {key: ours[key] for key in _OUR_FACTS if key in ours}
    if isinstance(values.get("id2label"), Mapping):
        try:
            named = {int(key): str(name) for key, name in values["id2label"].items()}
            labels = [named[index] for index in range(len(named))]
        except (KeyError, ValueError, RecursionError):
            raise CheckpointError(
                f"{directory / HF_CONFIG}: id2label: should name the labels 0, 1, …"
            ) from None
        if labels != _default_labels(len(labels)):
            metadata["labels"] = labels
        _check_label_ids(values.get("label2id"), labels, str(directory / HF_CONFIG))
    if values.get("problem_type"):
        metadata["problem_type"] = values["problem_type"]
    check_facts(metadata, directory / HF_CONFIG)
    return metadata


def _check_label_ids(label_ids: Any, labels: list[str], path: str) -> None:
    """Warn if ``label2id`` of a ``config.json`` gives labels other ids than ``id2label`` does."""
    if not isinstance(label_ids, Mapping):
        return
    numbered = dict(enumerate(labels))
    # Names that transformers makes up where a config gives id2label alone say nothing.
    unnamed = set(_default_labels(len(labels)))
    wrong = [
        f"{name} {number}"
        for name, number in label_ids.items()
        if numbered.get(number if isinstance(number, int) else -1) != name and name not in unnamed
    ]
    if wrong:
        named = [f"{name} {number}" for number, name in numbered.items()]
        _say_labels_differ(path, join_names(wrong, _SHOWN_LABELS), join_names(named, _SHOWN_LABELS))


@functools.lru_cache(maxsize=1024)  # once for each file
def _say_labels_differ(path: str, label_ids: str, labels: str) -> None:
    logger.warning(
        "%s: label2id (%s) contradicts id2label (%s); the outputs are named as id2label says",
        *(path, label_ids, labels),
    )


def _infer_architecture(
    names: Collection[str], values: Mapping[str, Any], is_complete: bool
) -> str:
    """Return their class for these weights; ``config.json`` decides where the weights do not.

    Args:
        names: of the tensors.
        values: content of ``config.json``.
        is_complete: these are the weights that the file describes, not a single file next to it.
    """
    listed = values.get("architectures")
    stated = listed[0] if isinstance(listed, list) and listed else None
    by_weight = {
        "discriminator_predictions.dense.weight": hf_names.PRETRAINING,
        "lm_head.bias": hf_names.MASKED_LM,
        "qa_outputs.weight": hf_names.ANSWERING,
        "classifier.weight": hf_names.TOKEN,
        "classifier.linear_out.weight": hf_names.SEQUENCE,
    }
    for name, architecture in by_weight.items():
        if name in names:
            is_choice = stated == hf_names.CHOICE and architecture == hf_names.SEQUENCE
            return hf_names.CHOICE if is_choice else architecture
    if is_complete and isinstance(stated, str) and stated in hf_names.ARCHITECTURES:
        return stated
    return hf_names.FULL if any("decoder.layers." in name for name in names) else hf_names.BASE


def _drop_tied(theirs: dict[str, np.ndarray], table_name: str, path: Path) -> None:
    """Remove the output weights of a language model, which must equal the tied word table."""
    output, table = theirs.pop(_TIED, None), theirs.get(table_name)
    if output is not None and table is not None and not np.array_equal(output, table):
        raise CheckpointError(f"{path}: {_TIED} differs from the word table it should be tied to")


def _unpack(
    theirs: Mapping[str, np.ndarray],
    entries: Mapping[str, HFTensor],
    config: ModelConfig,
    scope: str,
    path: Path,
) -> dict[str, np.ndarray]:
    """Return their weights under canonical names, after a check of every name and shape."""
    # The number of labels follows from their bias, all other shapes from the config.
    wanted = {part for entry in entries.values() for part in entry.parts}
    parts: dict[str, Shape] = dict.fromkeys(wanted, ())
    for name in ("classifier.linear_out.bias", "classifier.bias"):
        if name in theirs and name in entries:
            parts[entries[name].parts[0]] = theirs[name].shape
    shapes = shapes_for(config, parts)
    expected = {name: entry.shape(shapes) for name, entry in entries.items()}
    check_shapes(expected, {name: values.shape for name, values in theirs.items()}, path)
    tensors: dict[str, np.ndarray] = {}
    for name, entry in entries.items():
        tensors |= entry.unpack(as_float32(name, theirs[name], path), shapes)
    return tensors


def _choose_architecture(checkpoint: Checkpoint) -> str:
    """Return the class of ``transformers`` that computes most of this checkpoint, correctly."""
    config, tensors = checkpoint.config, checkpoint.tensors
    full = config.decoder is None or any(name.startswith("model/decoder/") for name in tensors)
    full = full and _skips_alike(config)
    scope = checkpoint.metadata.get("cls_scope", DEFAULT_CLS_SCOPE)
    possible = [
        architecture
        for architecture in hf_names.ARCHITECTURES
        if (full or architecture in hf_names.ENCODER_ONLY)
        and _has_head(architecture, scope, checkpoint)
    ]
    requested = checkpoint.metadata.get("architecture")
    if requested in possible:
        return requested
    # ARCHITECTURES begins with the two models without a head, of which FULL comes last.
    wants_base = possible[-1] == hf_names.FULL and config.decoder is None
    return hf_names.BASE if wants_base else possible[-1]


def _skips_alike(config: ModelConfig) -> bool:
    """Return whether the decoder of transformers has the skip connection of this one.

    Theirs adds it even to a single block, and takes it from the hidden state with the index of the
    first block's number of parameter layers, ignoring repeats.
    """
    return len(config.blocks) > 1 and config.blocks[0].repeats == 1


def _has_head(architecture: str, scope: str, checkpoint: Checkpoint) -> bool:
    tensors = checkpoint.tensors
    names = hf_names.head_names(architecture, scope)
    parts = [part for entry in names.values() for part in entry.parts]
    if not all(part in tensors for part in parts):
        return False
    if architecture == hf_names.PRETRAINING:  # theirs uses ff_activation, the original always gelu
        return checkpoint.config.ff_activation == "gelu"
    # Theirs has no dense layer before the output.
    return architecture != hf_names.MASKED_LM or "model/lm_proj/dense/kernel" not in tensors


def _entries_for(checkpoint: Checkpoint, architecture: str) -> dict[str, HFTensor]:
    is_full = architecture not in hf_names.ENCODER_ONLY
    prefix = "" if architecture in (hf_names.BASE, hf_names.FULL) else "funnel."
    scope = checkpoint.metadata.get("cls_scope", DEFAULT_CLS_SCOPE)
    entries = hf_names.core_names(checkpoint.config, is_full, prefix)
    return entries | hf_names.head_names(architecture, scope)


def _config_json(checkpoint: Checkpoint, architecture: str) -> dict[str, Any]:
    metadata = checkpoint.metadata
    values = {"architectures": [architecture]} | checkpoint.config.to_hf()
    values |= {"dtype": "float32", "tie_word_embeddings": True}
    ours = {key: metadata[key] for key in ("architecture", "cls_scope") if metadata.get(key)}
    if count := _num_labels(checkpoint, architecture):
        labels = metadata.get("labels") or _default_labels(count)
        if len(labels) != count:
            raise CheckpointError(
                f"{len(labels)} label names ({', '.join(labels[:_SHOWN_LABELS])} …) "
                f"for a head of {count} labels"
            )
        values["id2label"] = {str(index): name for index, name in enumerate(labels)}
        values["label2id"] = {name: index for index, name in enumerate(labels)}
    elif metadata.get("labels"):
        ours["labels"] = list(metadata["labels"])
    if metadata.get("problem_type"):
        values["problem_type"] = metadata["problem_type"]
    return values | ({METADATA_KEY: ours} if ours else {})


def _default_labels(count: int) -> list[str]:
    """Return the names that ``transformers`` gives to unnamed labels."""
    return [f"LABEL_{index}" for index in range(count)]


def _num_labels(checkpoint: Checkpoint, architecture: str) -> int:
    """Return the outputs of a head whose number ``config.json`` must give; 0 for other heads."""
    if architecture == hf_names.TOKEN:
        return len(checkpoint.tensors[f"{TOKEN_LOGITS}/bias"])
    if architecture == hf_names.SEQUENCE:
        scope = checkpoint.metadata.get("cls_scope", DEFAULT_CLS_SCOPE)
        return len(checkpoint.tensors[f"model/{scope}/logit/bias"])
    return 0


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
