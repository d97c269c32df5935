"""Convert a TensorFlow checkpoint to the released PyTorch layout; TensorFlow is not needed.

The released layout holds the encoder and a classifier. Decoder, generator and other heads are kept
in model.extra.safetensors in the same directory, which this repository's programs read.

    {program} --input_ckpt_path=TF/model.ckpt \
        --input_config_path=TF/net_config.json --output_pt_path=PT/model.pt \
        --output_config_path=PT/net_config.pytorch.json
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from funnel.cli.absl_logging import AbslLogging
from funnel.cli.command import entry_point
from funnel.cli.flags import parse_settings
from funnel.config.settings import group, setting
from funnel.utils.errors import ConfigError


@dataclass(frozen=True)
class CheckpointPaths:
    """Source and target, by the flags of the original."""

    input_ckpt_path: str = setting("", "TensorFlow checkpoint prefix")
    input_config_path: str = setting(
        "", "its net_config.json; default: in the directory of the checkpoint"
    )
    output_pt_path: str = setting("", ".pt file to write")
    output_config_path: str = setting(
        "",
        "PyTorch config to write; default: net_config.pytorch.json next to the .pt file",
    )
    absl: AbslLogging = group("messages", AbslLogging)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program with a command line, by default that of this process."""
    paths = parse_settings(CheckpointPaths, __doc__, argv, absl_booleans=True)
    for name in ("input_ckpt_path", "output_pt_path"):
        if not getattr(paths, name):
            raise ConfigError(f"--{name} is missing")
    # These import NumPy, which --help does not need.
    from funnel.checkpoints.locate import require_checkpoint
    from funnel.checkpoints.released_pt import save_pt
    from funnel.checkpoints.tf import load_tf

    require_checkpoint(paths.input_ckpt_path, paths.input_config_path)
    checkpoint = load_tf(Path(paths.input_ckpt_path), paths.input_config_path or None)
    output = Path(paths.output_pt_path)
    extra = save_pt(checkpoint, output, paths.output_config_path or None)
    print(f"{paths.input_ckpt_path} -> {output}: {len(checkpoint.tensors)} variables")
    if extra:
        print(f"{len(extra)} have no name there; kept in {output.stem}.extra.safetensors")


command = entry_point(main)
