"""Run a training command with several seeds and flag values, and tabulate the dev scores.

``python pytorch/sweep.py --help`` shows examples and all flags.
"""

import _paths  # noqa: F401

from funnel.cli.sweep import command, main

__all__ = ["main"]

if __name__ == "__main__":
    command()
