"""Fine-tune, evaluate and predict with a Funnel-Transformer on GLUE, text classification, own data.

``python pytorch/classifier.py --help`` shows examples and all flags.
"""

import _paths  # noqa: F401

from funnel_torch.cli.commands.classifier import command, main

__all__ = ["main"]

if __name__ == "__main__":
    command()
