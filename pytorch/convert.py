"""Convert a checkpoint between TensorFlow, released PyTorch and Hugging Face layouts.

The source's kind is detected. Nothing is dropped: what the target has no name for is kept in a
file beside it and listed.

    python pytorch/convert.py --src B4-4-4H768-ELEC-TF --dst funnel-b4 --to hf
    python pytorch/convert.py --src funnel-b4 --dst TF/model.ckpt --to tf
"""

from __future__ import annotations

import argparse

import _paths  # noqa: F401

from funnel.checkpoints import KINDS, load_checkpoint, save_checkpoint
from funnel.utils.main import run_main

_SHOWN = 20


def parse_flags() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--src", required=True, help="checkpoint directory, file or TensorFlow prefix"
    )
    parser.add_argument(
        "--dst", required=True, help="directory, *.pt file (pt) or *.ckpt prefix (tf) to write"
    )
    parser.add_argument("--to", required=True, choices=KINDS, help="layout to write")
    parser.add_argument(
        "--config", default=None, help="model config of the source, if not beside its weights"
    )
    parser.add_argument(
        "--with_optimizer",
        action="store_true",
        help="carry TensorFlow's Adam slots and step along",
    )
    return parser.parse_args()


def main() -> None:
    flags = parse_flags()
    checkpoint = load_checkpoint(
        flags.src, config_path=flags.config, with_optimizer=flags.with_optimizer
    )
    source, kind = checkpoint.metadata["path"], checkpoint.metadata["kind"]
    beside = save_checkpoint(checkpoint, flags.dst, flags.to)
    number = sum(values.size for values in checkpoint.tensors.values())
    print(f"{source} ({kind}) -> {flags.dst} ({flags.to}): {number:,} weights")
    if beside:
        print(f"kept beside, in *extra.safetensors, for lack of a name ({len(beside)}):")
        for name in beside[:_SHOWN]:
            print(f"  {name}")
        if len(beside) > _SHOWN:
            print(f"  … and {len(beside) - _SHOWN} more")


if __name__ == "__main__":
    run_main(main)
