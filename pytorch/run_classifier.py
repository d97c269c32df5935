"""``classifier.py`` under the name that the original's documentation gave it.

    python pytorch/run_classifier.py --dataset=CoLA ...
"""

import _paths  # noqa: F401

from classifier import main
from funnel.cli import run

if __name__ == "__main__":
    run(main)
