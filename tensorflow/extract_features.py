"""Write hidden states, summary and logits of a model for texts or token ids.

``python tensorflow/extract_features.py --help`` shows examples and all flags.
"""

import _paths  # noqa: F401

from funnel_tf.cli.commands.extract_features import command, main

__all__ = ["main"]

if __name__ == "__main__":
    command()
