"""Hugging Face's ``FunnelConfig`` keys to and from the settings of a ``ModelConfig``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from funnel.utils.errors import ConfigError

if TYPE_CHECKING:
    from funnel.config.model import ModelConfig

MODEL_TYPE = "funnel"
# Architectures that transformers' port cannot compute: it must refuse the directory, not misread.
EXTENDED_MODEL_TYPE = "funnel-extended"
EXTRA_KEY = "funnel"

_SAME = ("vocab_size", "d_model", "n_head", "d_head", "d_inner", "layer_norm_eps")
_SAME_SWITCHES = ("pooling_type", "pool_q_only", "separate_cls", "truncate_seq")
_RENAMED = {
    "dropout": "hidden_dropout",
    "dropatt": "attention_dropout",
    "dropact": "activation_dropout",
}
_ACTIVATIONS = {"gelu": "gelu_new", "relu": "relu", "tanh": "tanh"}
_ATTENTION = {"rel_shift": "relative_shift", "factorized": "factorized", "null": "null"}
# FunnelConfig has no key for these; they are kept under EXTRA_KEY.
_EXTRA = ("d_embed", "decoder_size", "pooling_size", "init", "init_std", "init_range")


def expressible(config: ModelConfig) -> bool:
    """Whether transformers' Funnel computes this architecture."""
    decoder_repeats = config.decoder.repeats if config.decoder else 1
    return (
        config.rel_attn_type != "null"
        and config.d_embed == config.d_model
        and config.pooling_size == 2
        and decoder_repeats == 1
    )


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """``config.json`` of ``config``, without the keys that depend on a head."""
    values: dict[str, Any] = {
        "model_type": MODEL_TYPE if expressible(config) else EXTENDED_MODEL_TYPE,
        "block_sizes": [block.params for block in config.blocks],
        "block_repeats": [block.repeats for block in config.blocks],
        "num_decoder_layers": config.num_decoder_params,
        "hidden_act": _ACTIVATIONS[config.ff_activation],
        "attention_type": _ATTENTION[config.rel_attn_type],
    }
    values |= {key: getattr(config, key) for key in _SAME + _SAME_SWITCHES}
    values |= {theirs: getattr(config, ours) for ours, theirs in _RENAMED.items()}
    values["initializer_range"] = config.init_range
    values["initializer_std"] = config.init_std
    values[EXTRA_KEY] = {key: getattr(config, key) for key in _EXTRA}
    return values


def from_hf(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Settings by our names; keys of other purpose (labels, versions) are left aside.

    Raises:
        ConfigError: another model's config, or one that this model cannot compute.
    """
    if values.get("model_type") not in (MODEL_TYPE, EXTENDED_MODEL_TYPE):
        raise ConfigError(
            f"{source}: model_type {values.get('model_type')!r} should be {MODEL_TYPE!r}"
        )
    settings = {key: values[key] for key in _SAME + _SAME_SWITCHES if key in values}
    settings |= {ours: values[theirs] for ours, theirs in _RENAMED.items() if theirs in values}
    settings["block_size"] = _block_string(values, source)
    settings["decoder_size"] = str(values.get("num_decoder_layers", 2))
    settings["pooling_size"] = 2
    settings["d_embed"] = values.get("d_model")
    settings["ff_activation"] = _invert(_ACTIVATIONS, values, "hidden_act", source)
    settings["rel_attn_type"] = _invert(_ATTENTION, values, "attention_type", source)
    extra = values.get(EXTRA_KEY, {})
    if not isinstance(extra, Mapping):
        raise ConfigError(f"{source}: {EXTRA_KEY}: should be an object of settings")
    return settings | dict(extra)


def _block_string(values: Mapping[str, Any], source: str) -> str:
    sizes = values.get("block_sizes")
    if not isinstance(sizes, list) or not sizes:
        raise ConfigError(f"{source}: block_sizes: {sizes!r} should be a list of depths")
    repeats = values.get("block_repeats") or [1] * len(sizes)
    if not isinstance(repeats, list) or len(repeats) != len(sizes):
        raise ConfigError(f"{source}: block_repeats: {repeats!r} should have {len(sizes)} entries")
    pairs = zip(sizes, repeats, strict=True)
    return "_".join(str(size) if times == 1 else f"{size}x{times}" for size, times in pairs)


def _invert(table: Mapping[str, str], values: Mapping[str, Any], key: str, source: str) -> str:
    default = "gelu_new" if key == "hidden_act" else "relative_shift"
    value = values.get(key) or default
    for ours, theirs in table.items():
        if theirs == value:
            return ours
    raise ConfigError(f"{source}: {key}: {value!r} should be one of {', '.join(table.values())}")
