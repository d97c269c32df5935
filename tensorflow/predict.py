"""Predict a file of inputs with a finished model.

``python tensorflow/predict.py --help`` shows examples and all flags.
"""

import _paths  # noqa: F401

from funnel_tf.cli.commands.predict import command, main

__all__ = ["main"]

if __name__ == "__main__":
    command()
