"""Convert a checkpoint between TensorFlow, released PyTorch and Hugging Face layouts.

``python pytorch/convert.py --help`` shows examples and all flags.
"""

import _paths  # noqa: F401

from funnel.cli.convert import command, main

__all__ = ["main"]

if __name__ == "__main__":
    command()
