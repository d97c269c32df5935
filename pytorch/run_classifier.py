"""``classifier.py`` by the name that the original's documentation uses.

python pytorch/run_classifier.py --dataset=CoLA ...
"""

import _paths  # noqa: F401

from classifier import main
from funnel.utils.main import run_main

if __name__ == "__main__":
    run_main(main, preemptible=True)
