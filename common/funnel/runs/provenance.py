"""Facts about a run for ``run_config.json``: true sizes, and the version of the code."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from funnel.config.model import ModelConfig

UNKNOWN = "unknown"
_GIT_SECONDS = 10.0


def git_commit(file: str | Path = __file__) -> str:
    """Return the commit of the clone that a file belongs to, with ``-dirty`` if it was changed.

    Returns ``unknown`` if the file is not tracked by git, as in an installed package, or git cannot
    be asked.
    """
    path = Path(file).resolve()
    # A package installed below a clone of something else is not part of it.
    if _git(path.parent, "ls-files", "--error-unmatch", path.name) is None:
        return UNKNOWN
    command = ("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    return _git(path.parent, *command) or UNKNOWN


def _git(folder: Path, *arguments: str) -> str | None:
    """Return the output of a git command, None if it fails."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=False,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def describe_run(
    model: ModelConfig,
    parameters: Mapping[str, int],
    tokenizer: Any,
    max_length: int,
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """Return the part of ``run_config.json`` that says what was trained, and with what.

    Args:
        model: configuration of the model, as built: flags that a configuration file overrides are
            in ``settings`` all the same.
        parameters: numbers of parameters by kind.
        tokenizer: a :class:`~funnel.tokenization.Tokenizer`; None without one.
        max_length: tokens per sequence.
        versions: of the framework, by name.
    """
    read = {}
    if tokenizer is not None:
        read = {
            "kind": type(tokenizer).__name__,
            "path": str(tokenizer.path),
            "vocab_size": tokenizer.vocab_size,
            "uncased": tokenizer.uncased,
        }
    resolved = {
        "block_size": model.block_size,
        "d_model": model.d_model,
        "vocab_size": model.vocab_size,
        "parameters": dict(parameters),
        "max_length": max_length,
        "tokenizer": read,
    }
    return {
        "resolved": resolved,
        "model": model.to_dict(),
        "git_commit": git_commit(),
        **versions,
    }
