"""``pretrain.py`` by the name that the original's documentation uses.

python pytorch/train.py --config=configs/B4-4-4H768.json --record_dir=records ...
"""

import _paths  # noqa: F401

from funnel.utils.main import run_main
from pretrain import main

if __name__ == "__main__":
    run_main(main, preemptible=True)
