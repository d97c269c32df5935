"""The PyTorch files released with the paper: an encoder and, if fine-tuned, a classifier.

Tensors without a name in that format (decoder, generator, other heads) and settings that its config
file lacks are kept in ``NAME.extra.safetensors`` next to ``NAME.pt``, under canonical names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from funnel.checkpoints.base import (
    Checkpoint,
    as_float32,
    check_shapes,
    encode_config,
    load_config,
    read_side_files,
    write_side_files,
)
from funnel.checkpoints.hf import convert_hf
from funnel.checkpoints.hf_files import read_file
from funnel.checkpoints.names import (
    DEFAULT_CLS_SCOPE,
    Shape,
    find_classifiers,
    is_optimizer_state,
    released_names,
    shapes_for,
)
from funnel.checkpoints.safetensors_file import read_safetensors, write_safetensors
from funnel.checkpoints.state_dict import RELEASED_MARK, find_layout, strip_wrappers
from funnel.checkpoints.torch_file import save_torch_file
from funnel.config.model import (
    HF_CONFIG,
    NET_CONFIG,
    PYTORCH_NET_CONFIG,
    ModelConfig,
    find_config,
)
from funnel.utils.errors import CheckpointError
from funnel.utils.files import is_file
from funnel.utils.json_files import parse_json, read_json_object

FILE = "model.pt"
SUFFIXES = (".pt", ".pth", ".bin")
_CONFIG_KEY = "config"


def load_pt(
    path: Path, config_path: str | Path | None = None, with_optimizer: bool = False
) -> Checkpoint:
    """Load a released file, one fine-tuned from it, or one written by :func:`save_pt`.

    A file with Hugging Face's names is read as such.
    """
    tensors = strip_wrappers(read_file(path), path)
    layout = find_layout(tensors)
    if layout == "hf":
        return convert_hf(tensors, path, config_path, with_optimizer)
    if layout is None:
        first = ", ".join(list(tensors)[:3])
        raise CheckpointError(f"{path}: no Funnel file: {RELEASED_MARK} is missing (found {first})")
    extra, kept = _read_extra(path)
    config = _choose_config(path, config_path, kept)
    metadata = read_side_files(path.parent) | {"kind": "pt", "path": str(path)}
    scope = metadata.get("cls_scope", DEFAULT_CLS_SCOPE)
    names = {theirs: ours for ours, theirs in released_names(config, scope).items()}
    # Unknown names are kept, so that the check below reports them.
    found = {names.get(theirs, theirs): values for theirs, values in _in_kernel_layout(tensors)}
    if twice := sorted(extra.keys() & found.keys()):
        raise CheckpointError(f"{_extra_path(path)}: {twice[0]} is in {path} too; delete one")
    found |= {name: values for name, values in extra.items() if not is_optimizer_state(name)}
    shapes = {name: values.shape for name, values in found.items()}
    check_shapes(shapes_for(config, shapes), shapes, path)
    if scopes := list(find_classifiers(shapes)):
        metadata["cls_scope"] = scope if scope in scopes else scopes[0]
    weights = {name: as_float32(name, values, path) for name, values in found.items()}
    checkpoint = Checkpoint(config, weights, metadata)
    if with_optimizer:
        checkpoint.optimizer = {n: values for n, values in extra.items() if is_optimizer_state(n)}
    return checkpoint


def save_pt(checkpoint: Checkpoint, path: Path, config_path: str | Path | None = None) -> list[str]:
    """Write the file ``path``, or ``model.pt`` in the directory ``path``.

    Labels and vocabulary are written to the same directory, and the config too unless
    ``config_path`` is given.

    Returns:
        Names of the tensors that the format has no place for; they are in the extra file.
    """
    path = path if path.suffix in SUFFIXES else path / FILE
    config = checkpoint.config
    scope = checkpoint.metadata.get("cls_scope", DEFAULT_CLS_SCOPE)
    names = released_names(config, scope)
    held = {name: theirs for name, theirs in names.items() if name in checkpoint.tensors}
    others = {name: values for name, values in checkpoint.tensors.items() if name not in held}
    others |= checkpoint.optimizer
    extra_path = _extra_path(path)
    save_torch_file(path, {theirs: checkpoint.tensors[name] for name, theirs in held.items()})
    # The config is in the extra file's metadata, so both are read from one place.
    if others or _loses_settings(config):
        write_safetensors(extra_path, others, {_CONFIG_KEY: encode_config(config)})
    else:
        extra_path.unlink(missing_ok=True)
    config.save_pytorch_net_config(config_path or path.parent / PYTORCH_NET_CONFIG)
    write_side_files(checkpoint.metadata, path.parent)
    return sorted(others)


def _extra_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}.extra.safetensors")


def _read_extra(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """Return the tensors in the extra file and the settings of the model; None without one."""
    extra_path = _extra_path(path)
    if not is_file(extra_path, CheckpointError):
        return {}, None
    tensors, metadata = read_safetensors(extra_path)
    raw = metadata.get(_CONFIG_KEY, "").encode("utf-8", "replace")
    values = parse_json(raw, extra_path, CheckpointError) if raw else None
    if not isinstance(values, dict):
        raise CheckpointError(f"{extra_path}: its metadata should hold the model config")
    return tensors, values


def _choose_config(
    path: Path, config_path: str | Path | None, kept: Mapping[str, Any] | None
) -> ModelConfig:
    """Return the config of ``config_path``, else of the extra file, else next to the weights.

    The released config files describe the encoder only, so a given file that leaves settings out
    takes them from the extra file, which has the decoder that they are for.
    """
    if kept is None:
        return load_config(config_path, path.parent, (PYTORCH_NET_CONFIG, NET_CONFIG, HF_CONFIG))
    if not config_path:
        return ModelConfig.from_dict(kept, str(_extra_path(path)))
    source = find_config(Path(config_path))
    given = read_json_object(source)
    if "block_size" in given:
        return ModelConfig.from_dict({**kept, **given}, str(source))
    return ModelConfig.load(source)


def _loses_settings(config: ModelConfig) -> bool:
    """Return whether the released config file would describe another model."""
    reread = ModelConfig.from_dict(config.to_pytorch_net_config())
    if config.rel_attn_type == "factorized":  # computes the same as the default
        config = config.replace(rel_attn_type="rel_shift")
    return config != reread


def _in_kernel_layout(tensors: Mapping[str, np.ndarray]) -> list[tuple[str, np.ndarray]]:
    """Transpose a classifier saved from ``nn.Linear``, [labels, D], to a kernel, [D, labels].

    Released files hold kernels; some fine-tuned ones hold ``nn.Linear`` weights. The shape of the
    output layer tells them apart. The summary layer below it is square, so it is assumed to be
    stored the same way.
    """
    weight, bias = tensors.get("cls_head.3.weight"), tensors.get("cls_head.3.bias")
    width: Shape = tensors[RELEASED_MARK].shape[-1:]
    is_transposed = (
        weight is not None
        and bias is not None
        and weight.shape == (*bias.shape, *width)
        and weight.shape[0] != weight.shape[-1]
    )
    transposed = ("cls_head.0.weight", "cls_head.3.weight") if is_transposed else ()
    return [(name, values.T if name in transposed else values) for name, values in tensors.items()]
