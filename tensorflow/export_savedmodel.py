"""Export a model with its head to a TensorFlow SavedModel, checked before it is kept.

``python tensorflow/export_savedmodel.py --help`` shows examples and all flags.
"""

import _paths  # noqa: F401

from funnel_tf.cli.commands.export_savedmodel import command, main

__all__ = ["main"]

if __name__ == "__main__":
    command()
