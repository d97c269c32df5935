r"""Cut text into pretraining records: TFRecord files that PyTorch and TensorFlow programs read.

Text files hold one sentence per line and an empty line between documents. One task takes every
num_task-th file and writes one record file and its description. Another --pass_id pairs the same
text differently. Equal flags and text give equal bytes, here and in
pytorch/create_pretrain_data.py, the same program for those who have no TensorFlow; neither needs
it.

    {program} --input_glob='corpus/*.txt' --save_dir=records \
        --seq_len=512 --tokenizer_path=vocab.txt --num_task=8 --num_proc=4
    {program} --input_glob='corpus/*.txt' --save_dir=records \
        --seq_len=512 --tokenizer_path=vocab.txt --num_task=8 --task=0    # one task of eight
"""

import _paths  # noqa: F401

from funnel.utils.main import run_main
from funnel_tf.cli.start import run_program


def main() -> None:
    """Run the program with the command line of this process."""
    run_program("create_pretrain_data", __doc__, needs_tensorflow=False)


if __name__ == "__main__":
    run_main(main)
