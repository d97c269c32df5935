"""Turn a Wikipedia dump into text: one sentence per line, an empty line after each article.

``python data-scripts/prepare_wikipedia.py --help`` shows examples and all flags.
"""

import _paths  # noqa: F401

from funnel_data.cli.prepare_wikipedia import command

if __name__ == "__main__":
    command()
