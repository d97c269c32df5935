"""Run a training command with several seeds and flag values, and tabulate the dev scores.

Flags before ``--`` that are not listed below are those of the command, with the values to try:

    python pytorch/sweep.py --seeds=1,2,3,4,5 --lr=1e-5,2e-5 --devices=0,1 -- \\
        python pytorch/classifier.py --dataset=RTE --data_dir=GLUE/RTE --model_dir=runs/rte ...

The runs are in model_dir/lr=1e-5,seed=1 and so on; model_dir/sweep.md and sweep.json have mean,
standard deviation, median and the best run. Given again, the command leaves out finished runs and
resumes interrupted ones. It starts any program with --model_dir, --seed and a best_result.json:
those of pytorch/ and tensorflow/, and torchrun.
"""

from __future__ import annotations

import sys

import _paths  # noqa: F401

from funnel.cli import sweep
from funnel.utils.main import run_main


def main() -> None:
    sweep.main(__doc__, sys.argv[1:])


if __name__ == "__main__":
    run_main(main, preemptible=True)
