"""Alias of ``race.py``: its name in the original's documentation.

python tensorflow/run_race.py --do_train=True --data_dir=RACE ...
"""

import _paths  # noqa: F401

from funnel.utils.main import run_main
from race import main

if __name__ == "__main__":
    run_main(main, preemptible=True)
