"""Build a vocabulary from text files: WordPiece (a text file) or SentencePiece (a model).

``python data-scripts/build_vocab.py --help`` shows examples and all flags.
"""

import _paths  # noqa: F401

from funnel_data.cli.build_vocab import command

if __name__ == "__main__":
    command()
