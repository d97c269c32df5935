"""Turn a folder of text into a corpus: one sentence per line, an empty line after each document.

``python data-scripts/prepare_text.py --help`` shows examples and all flags.
"""

import _paths  # noqa: F401

from funnel_data.cli.prepare_text import command

if __name__ == "__main__":
    command()
