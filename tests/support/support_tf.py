"""Import TensorFlow quietly, or skip: this repository's own folder of that name does not count."""

from __future__ import annotations

import importlib.util
import os
from types import ModuleType

import pytest


def import_tensorflow() -> ModuleType:
    """The real TensorFlow; skips the calling test module where it is not installed."""
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or spec.origin is None:  # a folder without __init__.py has no origin
        pytest.skip("TensorFlow is not installed", allow_module_level=True)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow

    return tensorflow
