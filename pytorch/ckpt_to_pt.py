"""Convert a TensorFlow checkpoint to the released PyTorch layout; TensorFlow is not needed.

The released layout holds the encoder and a classifier. Decoder, generator and other heads are kept
in a file beside it (model.extra.safetensors), which this repository's programs read.

    python pytorch/ckpt_to_pt.py --input_ckpt_path=TF/model.ckpt \
        --input_config_path=TF/net_config.json --output_pt_path=PT/model.pt \
        --output_config_path=PT/net_config.pytorch.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

import _paths  # noqa: F401

from funnel.checkpoints.released_pt import save_pt
from funnel.checkpoints.tf import load_tf
from funnel.utils.errors import FunnelError
from funnel.utils.main import run_main


def parse_flags() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--input_ckpt_path", default="", help="TensorFlow checkpoint prefix")
    parser.add_argument(
        "--input_config_path", default="", help="its net_config.json; default: beside it"
    )
    parser.add_argument("--output_pt_path", default="", help=".pt file to write")
    parser.add_argument(
        "--output_config_path",
        default="",
        help="PyTorch config to write; default: net_config.pytorch.json beside the .pt file",
    )
    return parser.parse_args()


def main() -> None:
    flags = parse_flags()
    for name in ("input_ckpt_path", "output_pt_path"):
        if not getattr(flags, name):
            raise FunnelError(f"--{name} is missing")
    checkpoint = load_tf(Path(flags.input_ckpt_path), flags.input_config_path or None)
    output = Path(flags.output_pt_path)
    beside = save_pt(checkpoint, output, flags.output_config_path or None)
    print(f"{flags.input_ckpt_path} -> {output}: {len(checkpoint.tensors)} variables")
    if beside:
        print(f"{len(beside)} have no name there; kept in {output.stem}.extra.safetensors")


if __name__ == "__main__":
    run_main(main)
