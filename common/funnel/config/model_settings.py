"""Model sizes as settings: used without a config file, and for keys named in --overwrite_keys."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from funnel.config.model import ModelConfig
from funnel.config.settings import setting
from funnel.utils.errors import ConfigError

_HEAD_WIDTH = 64  # of the sizes that `model_size` names
# How attention layers compute their scores on a GPU; the first one is the default.
ATTENTION_KERNELS = ("auto", "fused", "sdpa")
# Flags that decide which weights a model has.
ARCHITECTURE_FLAGS = (
    *("model_size", "block_size", "decoder_size", "d_model", "d_embed", "n_head", "d_head"),
    "d_inner",
)


@dataclass(frozen=True)
class ModelSettings:
    """The sizes of :class:`funnel.config.model.ModelConfig` by the same names, with its defaults.

    ``vocab_size`` is a flag of the original programs; the tokenizer's size counts.
    """

    model_size: str = setting("", "H<d>: d_model=d_embed=d, heads of 64, d_inner=4d")
    block_size: str = setting(ModelConfig.block_size, "encoder layout, e.g. 6_3x2_3x2")
    decoder_size: str = setting(ModelConfig.decoder_size, "decoder layout, e.g. 2 or 1x2; 0: none")
    d_model: int = setting(ModelConfig.d_model, "hidden width")
    d_embed: int = setting(ModelConfig.d_embed, "embedding width")
    n_head: int = setting(ModelConfig.n_head, "attention heads")
    d_head: int = setting(ModelConfig.d_head, "width of a head")
    d_inner: int = setting(ModelConfig.d_inner, "feed-forward width")
    vocab_size: int | None = setting(None, "replaced by the size of the tokenizer")
    dropout: float = setting(ModelConfig.dropout, "hidden dropout")
    dropatt: float = setting(ModelConfig.dropatt, "attention dropout")
    dropact: float = setting(ModelConfig.dropact, "activation dropout")
    ff_activation: str = setting(ModelConfig.ff_activation, "relu, gelu or tanh")
    pooling_type: str = setting(
        ModelConfig.pooling_type, "pooling between blocks", choices=("mean", "max")
    )
    pooling_size: int = setting(ModelConfig.pooling_size, "pooling window and stride")
    pool_q_only: bool = setting(
        ModelConfig.pool_q_only, "the first layer of a block pools only its query", negatable=True
    )
    separate_cls: bool = setting(ModelConfig.separate_cls, "never pool [CLS]", negatable=True)
    init: str = setting(
        ModelConfig.init,
        "distribution of new weights",
        choices=("normal", "uniform", "truncated_normal"),
    )
    init_std: float = setting(ModelConfig.init_std, "standard deviation of the normal ones")
    init_range: float = setting(ModelConfig.init_range, "half range of the uniform one")

    def sizes(self) -> dict[str, Any]:
        """Return the keys of a model configuration, all but ``vocab_size``.

        Raises:
            ConfigError: ``model_size`` is malformed.
        """
        values = dataclasses.asdict(self)
        name, _ = values.pop("model_size"), values.pop("vocab_size")
        return values | _named_size(name) if name else values


def _named_size(name: str) -> dict[str, int]:
    width = name.removeprefix("H")
    if not (name.startswith("H") and width.isdigit() and int(width) >= _HEAD_WIDTH):
        raise ConfigError(f"model_size={name!r}: should be H<width> with a width >= 64, as in H768")
    d_model = int(width)
    n_head = d_model // _HEAD_WIDTH
    sizes = {"d_model": d_model, "d_embed": d_model, "n_head": n_head}
    return sizes | {"d_head": d_model // n_head, "d_inner": 4 * d_model}
