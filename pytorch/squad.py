"""Fine-tune a Funnel-Transformer on SQuAD 1.1 or 2.0, predict answers, combine several models.

``python pytorch/squad.py --help`` shows examples and all flags.
"""

import _paths  # noqa: F401

from funnel_torch.cli.commands.squad import command, main

__all__ = ["main"]

if __name__ == "__main__":
    command()
