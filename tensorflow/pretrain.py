"""Pretrain a Funnel-Transformer with masked language modelling or ELECTRA, and evaluate it.

``python tensorflow/pretrain.py --help`` shows examples and all flags.
"""

import _paths  # noqa: F401

from funnel_tf.cli.commands.pretrain import command, main

__all__ = ["main"]

if __name__ == "__main__":
    command()
