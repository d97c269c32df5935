"""Fine-tune, evaluate and predict the tags of words: named entities, parts of speech.

``python tensorflow/tagger.py --help`` shows examples and all flags.
"""

import _paths  # noqa: F401

from funnel_tf.cli.commands.tagger import command, main

__all__ = ["main"]

if __name__ == "__main__":
    command()
