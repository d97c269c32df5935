"""Alias of ``pretrain.py``: its name in the original's documentation.

python tensorflow/train.py --loss_type=electra --record_dir=DIR ...
"""

import _paths  # noqa: F401

from funnel.utils.main import run_main
from pretrain import main

if __name__ == "__main__":
    run_main(main, preemptible=True)
