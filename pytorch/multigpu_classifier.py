"""``classifier.py`` on every GPU of this machine: the same flags, one process per GPU.

    python pytorch/multigpu_classifier.py --dataset=MNLI --data_dir=GLUE/MNLI --model_dir=EXP \\
        --init_ckpt=CKPT --tokenizer_path=CKPT/vocab.uncased.txt --train_bsz=8
    python pytorch/multigpu_classifier.py --distributed_world_size=2 --device_id=-1 ...  # on CPU

--train_bsz counts examples per process, as under torchrun; the log states the global batch size.
"""

from __future__ import annotations

import sys
from pathlib import Path

import _paths  # noqa: F401

from funnel.cli.flags import parse_settings
from funnel.utils.main import run_main
from funnel_torch.cli.settings.classifier import ClassifierSettings

PROGRAM = Path(__file__).resolve().with_name("classifier.py")


def main() -> None:
    settings = parse_settings(ClassifierSettings, __doc__)
    from funnel_torch.cli.multigpu import run  # imports PyTorch, which --help does not need

    run(settings, PROGRAM, sys.argv[1:])


if __name__ == "__main__":
    run_main(main, preemptible=True)
