r"""Cut text into pretraining records: TFRecord files that PyTorch and TensorFlow programs read.

Text files hold one sentence per line and an empty line between documents. One task takes every
num_task-th file and writes one record file and its description. Another --pass_id pairs the same
text anew. Equal flags and text give equal bytes.

    python pytorch/create_pretrain_data.py --input_glob='corpus/*.txt' --save_dir=records \
        --tokenizer_path=vocab.txt --seq_len=512 --num_task=8 --num_proc=4
    python pytorch/create_pretrain_data.py --input_glob='corpus/*.txt' --save_dir=records \
        --tokenizer_path=vocab.txt --seq_len=512 --num_task=8 --task=0    # one task of eight
"""

from __future__ import annotations

import argparse

import _paths  # noqa: F401

from funnel.cli.create_pretrain_data import choose_tasks, write_corpus
from funnel.features.classification import SegmentIds
from funnel.pretraining.create_records import CorpusConfig
from funnel.tokenization import TOKENIZER_KINDS, Tokenizer, get_tokenizer
from funnel.utils.errors import ConfigError
from funnel.utils.logging import configure_logging
from funnel.utils.main import run_main

SYMBOLS = ("unk", "bos", "eos", "cls", "sep", "pad", "mask", "eod", "eop")


def parse_flags() -> argparse.Namespace:
    """The command line; names and defaults are those of the TensorFlow program."""
    parser = argparse.ArgumentParser(
        usage="%(prog)s [--flag=value ...]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_data_flags(parser)
    add_text_flags(parser)
    add_id_flags(parser)
    return parser.parse_args()


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    flag = parser.add_argument_group("text to records").add_argument
    flag("--input_glob", default="data/example/*.txt", help="pattern of files (%(default)s)")
    flag("--save_dir", default="proc_data/example", help="folder to write to (%(default)s)")
    flag("--seq_len", type=int, default=512, help="tokens per example (%(default)s)")
    splits = ("train", "dev", "test")
    flag("--split", default="train", choices=splits, help="part of the file names (%(default)s)")
    flag("--pass_id", type=int, default=0, help="pass over the text: names, seed (%(default)s)")
    flag("--min_doc_len", type=int, default=1, help="leave out shorter documents (%(default)s)")
    flag("--num_task", type=int, default=1, help="tasks the files are shared out to (%(default)s)")
    flag("--task", type=int, default=0, help="the one to run (%(default)s)")
    flag("--num_proc", type=int, help="run all tasks instead, this many at a time")


def add_text_flags(parser: argparse.ArgumentParser) -> None:
    flag = parser.add_argument_group("tokenizer").add_argument
    flag("--tokenizer_path", default="", help="vocab.txt or SentencePiece model")
    flag("--tokenizer_type", default="word_piece", choices=TOKENIZER_KINDS, help="(%(default)s)")
    flag(
        "--uncased", type=truth, nargs="?", const=True, default=True, metavar="BOOL",
        help="lower-case, strip accents (True)",
    )  # fmt: skip
    flag("--nouncased", dest="uncased", action="store_false", help="the same as --uncased=False")


def add_id_flags(parser: argparse.ArgumentParser) -> None:
    flag = parser.add_argument_group("ids").add_argument
    flag("--seg_id_a", type=int, default=0, help="segment id of A and its [SEP] (%(default)s)")
    flag("--seg_id_b", type=int, default=1, help="segment id of B and its [SEP] (%(default)s)")
    flag("--seg_id_cls", type=int, default=2, help="segment id of [CLS] (%(default)s)")
    flag("--seg_id_pad", type=int, default=0, help="unused: records have no padding")
    for name in SYMBOLS:
        flag(f"--{name}_id", type=int, help="if given, must be the tokenizer's")
    flag("--vocab_size", type=int, help="if given, must be the tokenizer's")


def truth(text: str) -> bool:
    """A flag's value as true or false."""
    values = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} should be True or False")
    return values[text.lower()]


def open_tokenizer(flags: argparse.Namespace) -> Tokenizer:
    """The tokenizer, after comparing it with the ids that flags may name."""
    if not flags.tokenizer_path:
        raise ConfigError("--tokenizer_path is needed: a vocab.txt or SentencePiece model")
    tokenizer = get_tokenizer(flags.tokenizer_type, flags.tokenizer_path, flags.uncased)
    actual = {f"{name}_id": getattr(tokenizer.special, f"{name}_id") for name in SYMBOLS}
    actual["vocab_size"] = tokenizer.vocab_size
    for name, value in actual.items():
        given = getattr(flags, name)
        if given is not None and given != value:
            raise ConfigError(f"--{name}={given}: it is {value} in {flags.tokenizer_path}")
    return tokenizer


def main() -> None:
    flags = parse_flags()
    configure_logging()
    config = CorpusConfig(
        input_glob=flags.input_glob,
        save_dir=flags.save_dir,
        seq_len=flags.seq_len,
        split=flags.split,
        pass_id=flags.pass_id,
        num_task=flags.num_task,
        min_doc_len=flags.min_doc_len,
        segments=SegmentIds(flags.seg_id_cls, flags.seg_id_a, flags.seg_id_b, flags.seg_id_pad),
    )
    tasks = choose_tasks(flags.task, flags.num_task, flags.num_proc)
    print(write_corpus(config, tasks, open_tokenizer(flags), flags.num_proc or 1))


if __name__ == "__main__":
    run_main(main)
