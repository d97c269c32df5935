"""Cut a full pretraining checkpoint down to what fine-tuning needs; TensorFlow is not needed.

Drops the step counter, the Adam slots and the ELECTRA generator: a file of a quarter of the size.

    python tensorflow/modify_ckpt.py --src_ckpt=FULL/model.ckpt --tgt_ckpt=CORE/model.ckpt
    python tensorflow/modify_ckpt.py --src_ckpt=EXP/latest --tgt_ckpt=COPY/model.ckpt \
        --finetune_only=False
"""

from __future__ import annotations

import argparse

import _paths  # noqa: F401

from funnel.checkpoints.tf import drop_pretraining
from funnel.formats.tensor_bundle import TFCheckpoint, write_tf_checkpoint
from funnel.utils.errors import FunnelError
from funnel.utils.main import run_main

_BOOLEANS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


def parse_bool(text: str) -> bool:
    """A flag's value as absl spells it."""
    if text.lower() not in _BOOLEANS:
        raise argparse.ArgumentTypeError(f"{text!r} should be True or False")
    return _BOOLEANS[text.lower()]


def parse_flags() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--src_ckpt", default="", help="input checkpoint prefix")
    parser.add_argument("--tgt_ckpt", default="", help="output checkpoint prefix")
    parser.add_argument(
        "--finetune_only",
        type=parse_bool,
        nargs="?",
        const=True,
        default=True,
        help="drop global_step, Adam slots and generator variables (default: True)",
    )
    parser.add_argument("--nofinetune_only", dest="finetune_only", action="store_false")
    return parser.parse_args()


def main() -> None:
    """Copy the variables that are wanted."""
    flags = parse_flags()
    for name in ("src_ckpt", "tgt_ckpt"):
        if not getattr(flags, name):
            raise FunnelError(f"--{name} is missing")
    source = TFCheckpoint(flags.src_ckpt)
    names = drop_pretraining(source) if flags.finetune_only else list(source)
    # Views of the mapped source: no more than one variable is in memory at a time.
    write_tf_checkpoint(flags.tgt_ckpt, {name: source[name] for name in names})
    print(f"{source.prefix} -> {flags.tgt_ckpt}: {len(names)} of {len(source)} variables")


if __name__ == "__main__":
    run_main(main)
