"""Keeps the repository's root off the module path, where ``python -m pytest`` puts it.

Where TensorFlow is not installed, ``import tensorflow`` (tensorboard tries it) would find the
folder of that name.

Triton, a part of PyTorch's CUDA build, is imported before any test imports TensorFlow: in the other
order the process ends with a segmentation fault (triton 3.7.1 and TensorFlow 2.21).
"""

import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest

# Without a GPU, Triton interprets its kernels on the CPU. It decides when it is imported.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

with suppress(ImportError):
    import triton  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]

sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]


@pytest.fixture(autouse=True)
def _same_kernels_everywhere():
    """Large products come from oneDNN in every process, short attention and GELU in parts.

    What noise decides is not tested.
    """
    kernels = sys.modules.get("funnel_torch.kernels.choices")
    if kernels is not None:
        settings = sys.modules["funnel_torch.kernels.config"].KernelSettings
        kernels.choices.clear()
        parts = {"short_attention": "parts", "gelu": "parts"}
        kernels.choices.configure(settings(linear_backend="onednn", **parts))
