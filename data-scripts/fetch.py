"""Download data sets and released checkpoints, with resuming and checks, and unpack them.

``python data-scripts/fetch.py --help`` shows examples and all flags.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - a system's own python3 may be older
    sys.exit("error: Python 3.11 or newer is needed: PYTHON=python3.11 bash ...")

import _paths  # noqa: F401

from funnel_data.cli.fetch import command

if __name__ == "__main__":
    command()
