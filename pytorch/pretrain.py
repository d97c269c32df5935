"""Pretrain a Funnel-Transformer on records: masked language modelling or ELECTRA.

``python pytorch/pretrain.py --help`` shows examples and all flags.
"""

import _paths  # noqa: F401

from funnel_torch.cli.commands.pretrain import command, main

__all__ = ["main"]

if __name__ == "__main__":
    command()
