"""Cut text into pretraining records: TFRecord files that PyTorch and TensorFlow programs read.

``python pytorch/create_pretrain_data.py --help`` shows examples and all flags.
"""

import _paths  # noqa: F401

from funnel.cli.create_pretrain_data import command, main

__all__ = ["main"]

if __name__ == "__main__":
    command()
