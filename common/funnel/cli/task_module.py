"""A user's Python file that adds a task: ``--task_module``."""

from __future__ import annotations

import importlib.util
import logging
import sys
import traceback
from pathlib import Path

from funnel.utils.errors import ConfigError, FunnelError
from funnel.utils.files import sha256_file

logger = logging.getLogger(__name__)


def load_task_module(path: str | None) -> dict[str, str]:
    """Run the Python file ``path``, which calls :func:`funnel.tasks.register_task`.

    Returns:
        What a run records about it: its content decides the result. Empty without a file.

    Raises:
        ConfigError: there is no such file, or it fails; names its line.
    """
    if not path:
        return {}
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"--task_module={path}: no such file")
    name = f"funnel_task_module_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--task_module={path}: should be a Python file (.py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except FunnelError as error:
        raise ConfigError(f"--task_module={path}: {error}") from None
    except Exception as error:
        del sys.modules[name]
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == str(file)
        ]
        line = getattr(error, "lineno", None) or (lines[-1] if lines else "?")
        raise ConfigError(f"{path}:{line}: {type(error).__name__}: {error}") from error
    logger.info("%s: task module", path)
    return {"task_module_sha256": sha256_file(file)}
