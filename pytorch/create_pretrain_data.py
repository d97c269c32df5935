r"""Cut text into pretraining records: TFRecord files that PyTorch and TensorFlow programs read.

Text files hold one sentence per line and an empty line between documents. One task takes every
num_task-th file and writes one record file and its description. Another --pass_id pairs the same
text differently. Equal flags and text give equal bytes.

    python pytorch/create_pretrain_data.py --input_glob='corpus/*.txt' --save_dir=records \
        --tokenizer_path=vocab.txt --seq_len=512 --num_task=8 --num_proc=4
    python pytorch/create_pretrain_data.py --input_glob='corpus/*.txt' --save_dir=records \
        --tokenizer_path=vocab.txt --seq_len=512 --num_task=8 --task=0    # one task of eight
"""

from __future__ import annotations

import _paths  # noqa: F401

from funnel.cli import create_pretrain_data
from funnel.utils.main import run_main


def main() -> None:
    create_pretrain_data.main(__doc__)


if __name__ == "__main__":
    run_main(main)
