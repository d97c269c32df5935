"""Import TensorFlow without its log messages, or skip the tests that need it."""

from __future__ import annotations

import importlib.util
import os
from types import ModuleType

import pytest


def import_tensorflow() -> ModuleType:
    """Import TensorFlow; skip the calling test module if it is not installed."""
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or spec.origin is None:  # the repository's own folder: no __init__.py
        pytest.skip("TensorFlow is not installed", allow_module_level=True)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from funnel_tf.cli.start import keras_left_out

    with keras_left_out():
        import tensorflow

    return tensorflow
