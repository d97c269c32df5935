"""Fine-tune and evaluate a Funnel-Transformer on RACE: four options a question, one of them right.

``python pytorch/race.py --help`` shows examples and all flags.
"""

import _paths  # noqa: F401

from funnel_torch.cli.commands.race import command, main

__all__ = ["main"]

if __name__ == "__main__":
    command()
