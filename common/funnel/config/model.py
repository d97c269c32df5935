"""The model configuration: one frozen dataclass, converted from and to every config file format.

``net_config.json`` (TensorFlow), ``net_config.pytorch.json`` (the released PyTorch files) and
``config.json`` (Hugging Face's ``FunnelConfig``) are all read as a :class:`ModelConfig`.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from funnel.config.files import HF_CONFIG, NET_CONFIG, PYTORCH_NET_CONFIG, find_config
from funnel.config.limits import MAX_DEPTH_LENGTH, MAX_LAYERS, MAX_SIZE, check_extent, describe
from funnel.utils.errors import ConfigError
from funnel.utils.files import atomic_write_json
from funnel.utils.json_files import read_json_object
from funnel.utils.text import join_names

__all__ = ["HF_CONFIG", "NET_CONFIG", "PYTORCH_NET_CONFIG", "ModelConfig", "find_config"]

logger = logging.getLogger(__name__)

MAX_ABSOLUTE_POSITIONS = 512  # rows of the position table of rel_attn_type null, as in BERT

_CHOICES = {
    "ff_activation": ("gelu", "relu", "tanh"),
    "pooling_type": ("mean", "max"),
    "rel_attn_type": ("factorized", "rel_shift", "null"),
    "init": ("truncated_normal", "normal", "uniform", "pytorch"),
}
_SIZES = ("vocab_size", "d_model", "d_embed", "n_head", "d_head", "d_inner", "pooling_size")
_PROBABILITIES = ("dropout", "dropatt", "dropact")
_SWITCHES = ("pool_q_only", "separate_cls", "truncate_seq")
_POSITIVE = ("init_std", "init_range", "layer_norm_eps")
# The keys of net_config.pytorch.json. Every file must have them; all others have a default.
_REQUIRED = (
    *("vocab_size", "d_embed", "d_model", "n_head", "d_head", "d_inner"),
    *("dropout", "dropatt", "dropact", "block_size"),
    *("pooling_type", "pooling_size", "separate_cls", "pool_q_only"),
)
# Set by flags in the original, so net_config.json has no keys for them; config.json does.
_RUN_TIME = ("truncate_seq", "layer_norm_eps")
_DEPTH = re.compile(r"[1-9]\d*(x[1-9]\d*)?")

_HF_MODEL_TYPE = "funnel"
# Written for architectures that transformers cannot compute: an unknown model_type makes it refuse
# the directory, where "funnel" would make it compute something else.
_HF_EXTENDED_MODEL_TYPE = "funnel-extended"
_HF_SAME = (
    *("vocab_size", "d_model", "n_head", "d_head", "d_inner", "layer_norm_eps"),
    *("pooling_type", "pool_q_only", "separate_cls", "truncate_seq"),
)
_HF_RENAMED = {
    "dropout": "hidden_dropout",
    "dropatt": "attention_dropout",
    "dropact": "activation_dropout",
}
_HF_ACTIVATIONS = {"gelu": "gelu_new", "relu": "relu", "tanh": "tanh"}
# Two forms of one function. The second is written: the port's relative_shift fails on short texts.
_HF_ATTENTION = {"rel_shift": "relative_shift", "factorized": "factorized", "null": "null"}
# FunnelConfig has no keys for these settings; config.json has them in an object of this name.
_HF_EXTRA_KEY = "funnel"
_HF_EXTRA = (
    *("d_embed", "decoder_size", "pooling_size", "rel_attn_type"),
    *("init", "init_std", "init_range"),
)


@dataclass(frozen=True)
class BlockSpec:
    """``PxR``: ``params`` layers with weights of their own, each applied ``repeats`` times."""

    params: int
    repeats: int = 1

    @property
    def layers(self) -> int:
        """Number of executed layers."""
        return self.params * self.repeats


def parse_depth(text: str, key: str) -> BlockSpec:
    """Parse ``"6"`` or ``"3x2"``.

    Raises:
        ConfigError: it is neither; the message names ``key``.
    """
    if len(text) > MAX_DEPTH_LENGTH or not _DEPTH.fullmatch(text):
        raise ConfigError(f"{key}: {describe(text)} is no depth; write P or PxR, e.g. 6 or 3x2")
    params, _, repeats = text.partition("x")
    return BlockSpec(int(params), int(repeats or 1))


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and switches of a Funnel-Transformer (Dai et al. 2020, section 2 and appendix A).

    Attributes:
        block_size: layout of the encoder: blocks joined by ``_``, each ``P`` or ``PxR`` as in
            :class:`BlockSpec` (``"6_3x2_3x2"``).
        decoder_size: layout of the decoder, ``"0"`` without one.
        pool_q_only: the first layer of a block pools its query, but not key and value.
        separate_cls: [CLS] is kept out of the pooling windows.
        rel_attn_type: ``factorized`` and ``rel_shift`` compute the same relative attention in two
            ways; ``null`` is the Transformer baseline with absolute positions.
        init_std, init_range: standard deviation of normal, bound of uniform initialization.
        truncate_seq: with ``separate_cls``, drop the last position before pooling, which keeps
            lengths powers of two.

    Raises:
        ConfigError: a value of the wrong type or range, or values that contradict each other.
    """

    vocab_size: int
    d_model: int = 768
    d_embed: int = 768
    n_head: int = 12
    d_head: int = 64
    d_inner: int = 3072
    block_size: str = "4_4_4"
    decoder_size: str = "0"
    dropout: float = 0.1
    dropatt: float = 0.1
    dropact: float = 0.0
    ff_activation: str = "gelu"
    pooling_type: str = "mean"
    pooling_size: int = 2
    pool_q_only: bool = True
    separate_cls: bool = True
    rel_attn_type: str = "rel_shift"
    init: str = "truncated_normal"
    init_std: float = 0.02
    init_range: float = 0.1
    truncate_seq: bool = True
    layer_norm_eps: float = 1e-9

    def __post_init__(self) -> None:
        for key in _SIZES:
            wanted = f"a positive whole number up to {MAX_SIZE}"
            self._check(key, int, lambda v: 0 < v <= MAX_SIZE, wanted)
        for key in _PROBABILITIES:
            self._check(key, float, lambda v: 0 <= v < 1, "a number from 0 up to, not with, 1")
        for key in _SWITCHES:
            self._check(key, bool, lambda v: True, "true or false")
        for key in _POSITIVE:
            self._check(key, float, lambda v: 0 < v < math.inf, "a positive number")
        for key, choices in _CHOICES.items():
            self._check(key, str, choices.__contains__, "one of " + ", ".join(choices))
        for key in ("block_size", "decoder_size"):
            self._check(key, str, bool, "a depth such as 6_3x2_3x2")
        self._check_consistency()

    def _check(self, key: str, kind: type, is_valid: Callable[[Any], bool], wanted: str) -> None:
        value = getattr(self, key)
        # In Python a bool is an int, and JSON writes 1.0 as 1: refuse the first, accept the second.
        if kind is float and type(value) is int and abs(value) <= MAX_SIZE:
            value = float(value)
            object.__setattr__(self, key, value)
        fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        if not fits or not is_valid(value):
            raise ConfigError(f"{key}: {describe(value)} should be {wanted}")

    def _check_consistency(self) -> None:
        if self.d_model % 2:
            raise ConfigError(f"d_model: {self.d_model} must be even (half sines, half cosines)")
        if self.d_model % self.n_head:
            raise ConfigError(
                f"n_head: {self.n_head} does not divide d_model {self.d_model}; choose a divisor"
            )
        if self.block_size.count("_") >= MAX_LAYERS:
            raise ConfigError(f"block_size: more than {MAX_LAYERS} blocks")
        blocks, decoder = self.blocks, self.decoder
        if len(blocks) == 1 and decoder is not None:
            raise ConfigError(
                f"decoder_size: {self.decoder_size!r} must be '0' for a one-block model"
            )
        layers = sum(block.layers for block in (*blocks, *([decoder] if decoder else [])))
        check_extent({key: getattr(self, key) for key in _SIZES}, layers, len(blocks))

    @property
    def blocks(self) -> tuple[BlockSpec, ...]:
        """The encoder's blocks, first to last."""
        return tuple(parse_depth(part, "block_size") for part in self.block_size.split("_"))

    @property
    def decoder(self) -> BlockSpec | None:
        """The decoder's layout, None without one."""
        if self.decoder_size == "0":
            return None
        return parse_depth(self.decoder_size, "decoder_size")

    @property
    def num_encoder_params(self) -> int:
        """Encoder layers that own weights (a repeated layer counts once)."""
        return sum(block.params for block in self.blocks)

    @property
    def num_decoder_params(self) -> int:
        """Decoder layers that own weights."""
        return self.decoder.params if self.decoder else 0

    @property
    def upsample_factor(self) -> int:
        """Input positions per position of the last block (separate [CLS] apart)."""
        return self.pooling_size ** (len(self.blocks) - 1)

    @property
    def is_hf_compatible(self) -> bool:
        """Whether the Funnel classes of ``transformers`` can compute this architecture."""
        return (
            self.rel_attn_type != "null"
            and self.d_embed == self.d_model
            and self.pooling_size == 2
            and (self.decoder is None or self.decoder.repeats == 1)
        )

    def replace(self, **changes: Any) -> ModelConfig:
        """Return a copy with ``changes``.

        Raises:
            ConfigError: an unknown setting or a wrong value.
        """
        unknown = sorted(set(changes) - {field.name for field in dataclasses.fields(self)})
        if unknown:
            raise ConfigError(f"unknown model setting {', '.join(unknown)}")
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return every setting by name."""
        return dataclasses.asdict(self)

    def to_net_config(self) -> dict[str, Any]:
        """Return the content of ``net_config.json``: all settings but the run-time switches."""
        return {key: value for key, value in self.to_dict().items() if key not in _RUN_TIME}

    def to_pytorch_net_config(self) -> dict[str, Any]:
        """Return the content of ``net_config.pytorch.json``: the encoder's settings only."""
        return {key: getattr(self, key) for key in _REQUIRED}

    def to_hf(self) -> dict[str, Any]:
        """Return ``config.json`` without the keys that depend on a head.

        Settings that ``FunnelConfig`` has no key for are in an object of their own.
        """
        values: dict[str, Any] = {
            "model_type": _HF_MODEL_TYPE if self.is_hf_compatible else _HF_EXTENDED_MODEL_TYPE,
            "block_sizes": [block.params for block in self.blocks],
            "block_repeats": [block.repeats for block in self.blocks],
            "num_decoder_layers": self.num_decoder_params,
            "hidden_act": _HF_ACTIVATIONS[self.ff_activation],
            "attention_type": "null" if self.rel_attn_type == "null" else "factorized",
        }
        values |= {key: getattr(self, key) for key in _HF_SAME}
        values |= {theirs: getattr(self, ours) for ours, theirs in _HF_RENAMED.items()}
        values["initializer_range"] = self.init_range
        values["initializer_std"] = self.init_std
        values[_HF_EXTRA_KEY] = {key: getattr(self, key) for key in _HF_EXTRA}
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "model config") -> ModelConfig:
        """Build a config from settings by name, as in ``net_config.json``.

        Unknown keys are logged and ignored. Without ``decoder_size`` there is no decoder, as in
        the released PyTorch files.

        Raises:
            ConfigError: a key is missing or its value is wrong; the message starts with ``source``.
        """
        missing = [key for key in _REQUIRED if key not in values]
        if missing:
            raise ConfigError(f"{source}: key {', '.join(missing)} is missing")
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = [describe(key)[1:-1] for key in sorted(set(values) - known)]
        if unknown:
            logger.warning("%s: unknown key %s ignored", source, join_names(unknown))
        try:
            return cls(**{key: value for key, value in values.items() if key in known})
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None

    @classmethod
    def from_hf(cls, values: Mapping[str, Any], source: str = HF_CONFIG) -> ModelConfig:
        """Build a config from the content of a Hugging Face ``config.json`` of a Funnel model.

        Raises:
            ConfigError: it is the config of another model, or not computable by this one.
        """
        return cls.from_dict(_settings_from_hf(values, source), source)

    @classmethod
    def load(cls, path: str | Path) -> ModelConfig:
        """Read any of the three files, or the first that a directory holds.

        In a directory ``config.json`` comes first, since it has the run-time switches, then
        ``net_config.json``, then ``net_config.pytorch.json``.
        """
        path = find_config(Path(path))
        values = read_json_object(path)
        if "block_size" not in values and ("block_sizes" in values or "model_type" in values):
            return cls.from_hf(values, str(path))
        return cls.from_dict(values, str(path))

    def save_net_config(self, path: str | Path) -> None:
        """Write ``net_config.json``."""
        atomic_write_json(path, self.to_net_config())

    def save_pytorch_net_config(self, path: str | Path) -> None:
        """Write ``net_config.pytorch.json``."""
        atomic_write_json(path, self.to_pytorch_net_config())


def _settings_from_hf(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Translate ``FunnelConfig`` keys; keys of other purpose (labels, versions) are left out."""
    if values.get("model_type") not in (_HF_MODEL_TYPE, _HF_EXTENDED_MODEL_TYPE):
        raise ConfigError(
            f"{source}: model_type {describe(values.get('model_type'))} should be "
            f"{_HF_MODEL_TYPE!r}"
        )
    settings = {key: values[key] for key in _HF_SAME if key in values}
    settings |= {ours: values[theirs] for ours, theirs in _HF_RENAMED.items() if theirs in values}
    settings["block_size"] = _block_size_from_hf(values, source)
    settings["decoder_size"] = _depth_from_hf(values.get("num_decoder_layers", 2), source)
    settings["pooling_size"] = 2
    settings["d_embed"] = values.get("d_model")
    settings["ff_activation"] = _choice_from_hf(
        _HF_ACTIVATIONS, "hidden_act", _given(values, "hidden_act", "gelu_new"), source
    )
    settings["rel_attn_type"] = _choice_from_hf(
        _HF_ATTENTION, "attention_type", _given(values, "attention_type", "relative_shift"), source
    )
    extra = values.get(_HF_EXTRA_KEY, {})
    if not isinstance(extra, Mapping):
        raise ConfigError(f"{source}: {_HF_EXTRA_KEY}: should be an object of settings")
    decoder, theirs = extra.get("decoder_size"), settings["decoder_size"]
    is_other = isinstance(decoder, str) and decoder.partition("x")[0] != theirs
    if is_other and "num_decoder_layers" in values:
        raise ConfigError(
            f"{source}: num_decoder_layers: {theirs} contradicts decoder_size {describe(decoder)} "
            f"in {_HF_EXTRA_KEY}"
        )
    form = extra.get("rel_attn_type", settings["rel_attn_type"])
    if (form == "null") != (settings["rel_attn_type"] == "null"):
        raise ConfigError(
            f"{source}: attention_type: {describe(values.get('attention_type'))} contradicts "
            f"rel_attn_type {describe(form)} in {_HF_EXTRA_KEY}"
        )
    # Other keys of ours cannot replace theirs; they are reported as unknown.
    return settings | {k if k in _HF_EXTRA else f"{_HF_EXTRA_KEY}.{k}": extra[k] for k in extra}


def _block_size_from_hf(values: Mapping[str, Any], source: str) -> str:
    sizes = values.get("block_sizes")
    if not isinstance(sizes, list) or not sizes:
        raise ConfigError(f"{source}: block_sizes: {describe(sizes)} should be a list of depths")
    repeats = _given(values, "block_repeats", [1] * len(sizes))
    if not isinstance(repeats, list) or len(repeats) != len(sizes):
        raise ConfigError(
            f"{source}: block_repeats: {describe(repeats)} should have {len(sizes)} entries"
        )
    pairs = [tuple(_depth_from_hf(v, source) for v in p) for p in zip(sizes, repeats, strict=True)]
    return "_".join(size if times == "1" else f"{size}x{times}" for size, times in pairs)


def _depth_from_hf(value: Any, source: str) -> str:
    """Return a number of layers as text; anything else is refused."""
    if type(value) is not int or not 0 <= value <= MAX_LAYERS:
        raise ConfigError(
            f"{source}: block_sizes, block_repeats, num_decoder_layers: {describe(value)} is no "
            f"depth: a number up to {MAX_LAYERS}"
        )
    return str(value)


def _given(values: Mapping[str, Any], key: str, default: Any) -> Any:
    """Return the value of a key; the default if it is missing or null."""
    value = values.get(key)
    return default if value is None else value


def _choice_from_hf(choices: Mapping[str, str], key: str, value: Any, source: str) -> str:
    for ours, theirs in choices.items():
        if theirs == value:
            return ours
    names = ", ".join(choices.values())
    raise ConfigError(f"{source}: {key}: {describe(value)} should be one of {names}")
