"""Keeps the repository's root off the module path, where ``python -m pytest`` puts it.

Where TensorFlow is not installed, ``import tensorflow`` (tensorboard tries it) would find the
folder of that name.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]

# Without a GPU, Triton interprets its kernels on the CPU. It decides when it is imported.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")
