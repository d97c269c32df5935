"""Fine-tune, evaluate and predict on GLUE, text classification and your own data.

``python tensorflow/classifier.py --help`` shows examples and all flags.
"""

import _paths  # noqa: F401

from funnel_tf.cli.commands.classifier import command, main

__all__ = ["main"]

if __name__ == "__main__":
    command()
