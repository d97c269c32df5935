"""Alias of ``classifier.py``: its name in the original's documentation.

python tensorflow/run_classifier.py --do_train=True --task_name=rte ...
"""

import _paths  # noqa: F401

from classifier import main
from funnel.utils.main import run_main

if __name__ == "__main__":
    run_main(main, preemptible=True)
