"""Settings of the files that ``extract_features.py`` writes; imports no NumPy, for ``--help``."""

from __future__ import annotations

from dataclasses import dataclass

from funnel.config.settings import setting
from funnel.utils.errors import ConfigError

POOLINGS = ("cls", "mean", "max")
DTYPES = ("float32", "float16")


@dataclass(frozen=True)
class OutputSettings:
    """The outputs to write, and in which form."""

    layers: str | None = setting(
        None,
        "comma list of outputs: names, or numbers of hidden states, -1 the last (default: all)",
    )
    pooling: str | None = setting(
        None,
        "one vector per sequence: its first position, or mean or maximum of all real ones",
        choices=POOLINGS,
    )
    exclude_special: bool = setting(
        False,
        "leave [CLS] and [SEP] out of mean and maximum, where blocks have not merged them",
    )
    normalize: bool = setting(False, "scale these vectors to length 1")
    dtype: str = setting("float32", "number format of the file", choices=DTYPES)

    def __post_init__(self) -> None:
        if self.exclude_special and self.pooling not in ("mean", "max"):
            raise ConfigError("--exclude_special goes with --pooling=mean or --pooling=max")
        if self.normalize and self.pooling is None:
            raise ConfigError("--normalize scales one vector per sequence: it goes with --pooling")
