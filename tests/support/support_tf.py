"""Import TensorFlow without its log messages, or skip the tests that need it."""

from __future__ import annotations

import importlib.util
import os
from types import ModuleType
from typing import Any

import pytest


def import_tensorflow() -> ModuleType:
    """Import TensorFlow; skip the calling test module if it is not installed."""
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or spec.origin is None:  # the repository's own folder: no __init__.py
        pytest.skip("TensorFlow is not installed", allow_module_level=True)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow

    return tensorflow


def rename_features(batch: dict[str, Any]) -> dict[str, Any]:
    """Rename the fields of a masked batch as the TensorFlow pipeline does and invert its masks."""
    features = dict(batch)
    features["token_type_ids"] = features.pop("seg_id")
    features["attention_mask"] = ~features.pop("pad_mask")
    features["mlm_attention_mask"] = ~features.pop("input_mask")
    return features
