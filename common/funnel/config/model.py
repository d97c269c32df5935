"""The model configuration: one frozen object, read from and written to every format's file.

``net_config.json`` (TensorFlow), ``net_config.pytorch.json`` (the released PyTorch files) and
``config.json`` (the Hugging Face layout) all become a :class:`ModelConfig`. Nothing here knows a
framework.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from funnel.utils.errors import ConfigError
from funnel.utils.files import atomic_write_json

logger = logging.getLogger(__name__)

NET_CONFIG = "net_config.json"
PYTORCH_NET_CONFIG = "net_config.pytorch.json"
HF_CONFIG = "config.json"

_CHOICES = {
    "ff_activation": ("gelu", "relu", "tanh"),
    "pooling_type": ("mean", "max"),
    "rel_attn_type": ("factorized", "rel_shift", "null"),
    "init": ("truncated_normal", "normal", "uniform", "pytorch"),
}
_SIZES = ("vocab_size", "d_model", "d_embed", "n_head", "d_head", "d_inner", "pooling_size")
_PROBABILITIES = ("dropout", "dropatt", "dropact")
_SWITCHES = ("pool_q_only", "separate_cls", "truncate_seq")
# The keys of net_config.pytorch.json; every format must have them, all others have a default.
_REQUIRED = (
    *("vocab_size", "d_embed", "d_model", "n_head", "d_head", "d_inner"),
    *("dropout", "dropatt", "dropact", "block_size"),
    *("pooling_type", "pooling_size", "separate_cls", "pool_q_only"),
)
# Run-time switches: no key of net_config.json, yet kept in config.json.
_RUN_TIME = ("truncate_seq", "layer_norm_eps")
_DEPTH = re.compile(r"[1-9]\d*(x[1-9]\d*)?")


@dataclass(frozen=True)
class BlockSpec:
    """``PxR``: ``params`` sets of weights, each applied ``repeats`` times in a row."""

    params: int
    repeats: int = 1

    @property
    def layers(self) -> int:
        """Executed layers."""
        return self.params * self.repeats


def parse_depth(text: str, key: str) -> BlockSpec:
    """``"6"`` or ``"3x2"`` as a :class:`BlockSpec`; ``key`` names the culprit in the error."""
    if not _DEPTH.fullmatch(text):
        raise ConfigError(f"{key}: {text!r} is no depth; write P or PxR, e.g. 6 or 3x2")
    params, _, repeats = text.partition("x")
    return BlockSpec(int(params), int(repeats or 1))


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and switches of a Funnel-Transformer (Dai et al. 2020, section 2 and appendix A).

    ``block_size`` is the encoder's layout (``"6_3x2_3x2"``: blocks joined by ``_``, each ``P`` or
    ``PxR``), ``decoder_size`` the decoder's (``"0"``: none). ``rel_attn_type`` chooses how the
    relative attention is computed, not what: ``factorized`` and ``rel_shift`` agree; ``null`` is
    the Transformer baseline with absolute positions. ``truncate_seq`` drops the last position
    before pooling, so that a power of two stays one.
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
            self._check(key, int, lambda v: v > 0, "a positive whole number")
        for key in _PROBABILITIES:
            self._check(key, float, lambda v: 0 <= v < 1, "a number from 0 up to, not with, 1")
        for key in _SWITCHES:
            self._check(key, bool, lambda v: True, "true or false")
        for key in ("init_std", "init_range", "layer_norm_eps"):
            self._check(key, float, lambda v: v > 0, "a positive number")
        for key, choices in _CHOICES.items():
            self._check(key, str, choices.__contains__, "one of " + ", ".join(choices))
        for key in ("block_size", "decoder_size"):
            self._check(key, str, bool, "a depth such as 6_3x2_3x2")
        self._check_consistency()

    def _check(self, key: str, kind: type, valid: Any, wanted: str) -> None:
        value = getattr(self, key)
        # bool is an int to Python, and an int is a fine float; a config file means neither.
        fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            fits = True
            object.__setattr__(self, key, float(value))
        if not fits or not valid(value):
            raise ConfigError(f"{key}: {value!r} should be {wanted}")

    def _check_consistency(self) -> None:
        if self.d_model % 2:
            raise ConfigError(f"d_model: {self.d_model} must be even (half sines, half cosines)")
        if self.d_model % self.n_head:
            raise ConfigError(
                f"n_head: {self.n_head} does not divide d_model {self.d_model}; choose a divisor"
            )
        blocks, decoder = self.blocks, self.decoder
        if len(blocks) == 1 and decoder is not None:
            raise ConfigError(
                f"decoder_size: {self.decoder_size!r} must be '0' for a one-block model"
            )

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
        """Original positions per position of the last block (separate [CLS] apart)."""
        return self.pooling_size ** (len(self.blocks) - 1)

    def replace(self, **changes: Any) -> ModelConfig:
        """A copy with ``changes``; an unknown key is a :class:`ConfigError`."""
        unknown = sorted(set(changes) - {field.name for field in dataclasses.fields(self)})
        if unknown:
            raise ConfigError(f"unknown model setting {', '.join(unknown)}")
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Every setting by name."""
        return dataclasses.asdict(self)

    def to_net_config(self) -> dict[str, Any]:
        """The content of ``net_config.json``: all settings but the run-time switches."""
        return {key: value for key, value in self.to_dict().items() if key not in _RUN_TIME}

    def to_pytorch_net_config(self) -> dict[str, Any]:
        """The content of ``net_config.pytorch.json``: the encoder's settings alone."""
        return {key: getattr(self, key) for key in _REQUIRED}

    def to_hf(self) -> dict[str, Any]:
        """The keys of Hugging Face's ``FunnelConfig``, and under ``funnel`` what it lacks."""
        from funnel.config.hf_keys import to_hf

        return to_hf(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "model config") -> ModelConfig:
        """Settings by name, as ``net_config.json`` has them.

        Unknown keys are reported and ignored; a missing or wrong one is a :class:`ConfigError`
        that names ``source`` and the key. Without ``decoder_size`` there is no decoder: that is
        what the released PyTorch files hold.
        """
        missing = [key for key in _REQUIRED if key not in values]
        if missing:
            raise ConfigError(f"{source}: key {', '.join(missing)} is missing")
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            logger.warning("%s: unknown key %s ignored", source, ", ".join(unknown))
        try:
            return cls(**{key: value for key, value in values.items() if key in known})
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None

    @classmethod
    def from_hf(cls, values: Mapping[str, Any], source: str = HF_CONFIG) -> ModelConfig:
        """The config that a Hugging Face ``config.json`` of a Funnel model describes."""
        from funnel.config.hf_keys import from_hf

        return cls.from_dict(from_hf(values, source), source)

    @classmethod
    def load(cls, path: str | Path) -> ModelConfig:
        """Read any of the three files, or the directory that holds one.

        In a directory ``config.json`` comes first (it knows the run-time switches too), then
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


def find_config(path: Path) -> Path:
    """``path`` itself if it is a file, else the config file in that directory."""
    if path.is_file():
        return path
    names = (HF_CONFIG, NET_CONFIG, PYTORCH_NET_CONFIG)
    for name in names:
        if (path / name).is_file():
            return path / name
    what = f"holds none of {', '.join(names)}" if path.is_dir() else "does not exist"
    raise ConfigError(f"model config {path} {what}")


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; anything else is a :class:`ConfigError` naming file and line."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}: not valid JSON ({error.msg})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: should hold a JSON object of settings")
    return values
