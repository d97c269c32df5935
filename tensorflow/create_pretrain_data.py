r"""Cut text into pretraining records: TFRecord files that PyTorch and TensorFlow programs read.

Text files hold one sentence per line and an empty line between documents. One task takes every
num_task-th file and writes one record file and its description. Another --pass_id pairs the same
text anew. Equal flags and text give equal bytes, here and in pytorch/create_pretrain_data.py, which
is the same program for those who have no TensorFlow; neither needs it.

    python tensorflow/create_pretrain_data.py --input_glob='corpus/*.txt' --save_dir=records \
        --seq_len=512 --tokenizer_path=vocab.txt --num_task=8 --num_proc=4
    python tensorflow/create_pretrain_data.py --input_glob='corpus/*.txt' --save_dir=records \
        --seq_len=512 --tokenizer_path=vocab.txt --num_task=8 --task=0    # one task of eight
"""

from __future__ import annotations

import _paths  # noqa: F401

from funnel.cli.create_pretrain_data import choose_tasks, write_corpus
from funnel.pretraining.create_records import CorpusConfig
from funnel.utils.errors import ConfigError
from funnel.utils.logging import configure_logging
from funnel.utils.main import run_main
from funnel_tf.cli import flags as tf_flags


def main() -> None:
    """Write the records that the command line asks for."""
    flags = tf_flags.parse("create_pretrain_data", __doc__)
    configure_logging(flags.verbose)
    names = ("input_glob", "save_dir", "seq_len", "split", "pass_id", "num_task", "min_doc_len")
    config = CorpusConfig(
        **{name: getattr(flags, name) for name in names}, segments=tf_flags.segment_ids(flags)
    )
    tasks = choose_tasks(flags.task, flags.num_task, flags.num_proc)
    tokenizer = tf_flags.load_tokenizer(flags)
    if flags.vocab_size not in (None, tokenizer.vocab_size):
        size = tokenizer.vocab_size
        raise ConfigError(f"--vocab_size={flags.vocab_size}: it is {size} in {tokenizer.path}")
    print(write_corpus(config, tasks, tokenizer, flags.num_proc or 1))


if __name__ == "__main__":
    run_main(main)
