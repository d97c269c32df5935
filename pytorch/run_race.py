"""``race.py`` by the name that the original's documentation uses.

python pytorch/run_race.py --do_train --data_dir=RACE ...
"""

import _paths  # noqa: F401

from funnel.utils.main import run_main
from race import main

if __name__ == "__main__":
    run_main(main, preemptible=True)
