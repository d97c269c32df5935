"""Convert a TensorFlow checkpoint to the released PyTorch layout; TensorFlow is not needed.

``python pytorch/ckpt_to_pt.py --help`` shows examples and all flags.
"""

import _paths  # noqa: F401

from funnel.cli.ckpt_to_pt import command, main

__all__ = ["main"]

if __name__ == "__main__":
    command()
