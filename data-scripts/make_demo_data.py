"""Make a corpus, a vocabulary and a labelled task from the documentation that comes with Python.

``python data-scripts/make_demo_data.py --help`` shows examples and all flags.
"""

import _paths  # noqa: F401

from funnel_data.cli.make_demo_data import command

if __name__ == "__main__":
    command()
