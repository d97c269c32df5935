"""Checkpoints: TensorFlow, released PyTorch and Hugging Face files to and from one canonical form.

>>> from funnel.checkpoints import load_checkpoint, save_checkpoint
>>> checkpoint = load_checkpoint("B4-4-4H768-ELEC-TF")        # the kind is detected
>>> extra_names = save_checkpoint(checkpoint, "funnel-b4", "hf")
"""

from funnel.checkpoints.base import Checkpoint, check_shapes
from funnel.checkpoints.io import KINDS, load_checkpoint, save_checkpoint
from funnel.checkpoints.locate import detect
from funnel.checkpoints.names import expected_shapes

__all__ = [
    "KINDS",
    "Checkpoint",
    "check_shapes",
    "detect",
    "expected_shapes",
    "load_checkpoint",
    "save_checkpoint",
]
