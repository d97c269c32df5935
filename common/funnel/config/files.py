"""Where the configuration of a model is: a file, the file of a directory, or a published size."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from funnel.utils.errors import ConfigError
from funnel.utils.files import is_file

NET_CONFIG = "net_config.json"
PYTORCH_NET_CONFIG = "net_config.pytorch.json"
HF_CONFIG = "config.json"

# A wheel holds the configs as package data; in a clone they are three levels up, at the top.
_PACKAGED = (
    Path(__file__).resolve().parents[1] / "configs",
    Path(__file__).resolve().parents[3] / "configs",
)


def find_packaged_config(name: str) -> Path:
    """Return the path of a config that comes with the packages, ``configs/NAME.json`` in a clone.

    Raises:
        ConfigError: there is none.
    """
    for directory in _PACKAGED:
        path = directory / f"{name}.json"
        if path.is_file():
            return path
    raise ConfigError(f"model config {name} does not exist: neither a file nor a published size")


def find_config(path: Path) -> Path:
    """Return ``path`` if it is a file, else the config file in that directory.

    Where nothing is there, ``NAME``, ``NAME.json`` and ``configs/NAME.json`` are the config that
    comes with the packages.

    Raises:
        ConfigError: there is none.
    """
    if is_file(path, ConfigError):
        return path
    names = (HF_CONFIG, NET_CONFIG, PYTORCH_NET_CONFIG)
    for name in names:
        if is_file(path / name, ConfigError):
            return path / name
    if os.path.isdir(path):
        raise ConfigError(f"model config {path} holds none of {', '.join(names)}")
    if path.parent in (Path(), Path("configs")):
        with contextlib.suppress(ConfigError):
            return find_packaged_config(path.name.removesuffix(".json"))
    raise ConfigError(f"model config {path} does not exist")
