"""Fine-tune and evaluate on RACE: four options per question, one of them correct.

``python tensorflow/race.py --help`` shows examples and all flags.
"""

import _paths  # noqa: F401

from funnel_tf.cli.commands.race import command, main

__all__ = ["main"]

if __name__ == "__main__":
    command()
