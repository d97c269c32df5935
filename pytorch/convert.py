"""Convert a checkpoint between TensorFlow, released PyTorch and Hugging Face layouts.

The source's layout is detected. Nothing is dropped: weights that the target layout has no name for
are saved in a separate file (*extra.safetensors) in the same directory, and listed.

    python pytorch/convert.py --src B4-4-4H768-ELEC-TF --dst funnel-b4 --to hf
    python pytorch/convert.py --src funnel-b4 --dst TF/model.ckpt --to tf
"""

from __future__ import annotations

import argparse

import _paths  # noqa: F401

from funnel.checkpoints import KINDS, load_checkpoint, save_checkpoint
from funnel.utils.main import run_main

_MAX_LISTED = 20


def parse_flags() -> argparse.Namespace:
    """Parse the command line."""
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
        "--config", default=None, help="model config of the source, if not in its directory"
    )
    parser.add_argument(
        "--with_optimizer",
        action="store_true",
        help="also copy TensorFlow's Adam slots and step",
    )
    return parser.parse_args()


def main() -> None:
    flags = parse_flags()
    checkpoint = load_checkpoint(
        flags.src, config_path=flags.config, with_optimizer=flags.with_optimizer
    )
    source, kind = checkpoint.metadata["path"], checkpoint.metadata["kind"]
    extra = save_checkpoint(checkpoint, flags.dst, flags.to)
    number = sum(values.size for values in checkpoint.tensors.values())
    print(f"{source} ({kind}) -> {flags.dst} ({flags.to}): {number:,} weights")
    if extra:
        print(f"no name in this layout, saved in *extra.safetensors ({len(extra)}):")
        for name in extra[:_MAX_LISTED]:
            print(f"  {name}")
        if len(extra) > _MAX_LISTED:
            print(f"  … and {len(extra) - _MAX_LISTED} more")


if __name__ == "__main__":
    run_main(main)
