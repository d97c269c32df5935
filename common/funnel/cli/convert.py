"""Convert a checkpoint between TensorFlow, released PyTorch and Hugging Face layouts.

The source's kind is detected. Nothing is dropped: weights without a name in the target layout are
kept in an extra file in its directory and listed.

    {program} --src B4-4-4H768-ELEC-TF --dst funnel-b4 --to hf
    {program} --src funnel-b4 --dst TF/model.ckpt --to tf
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass

from funnel.cli.command import entry_point
from funnel.cli.flags import parse_settings
from funnel.config.settings import setting

_SHOWN = 20


@dataclass(frozen=True)
class ConvertSettings:
    """Source, target and layout."""

    src: str = setting(MISSING, "checkpoint directory, file or TensorFlow prefix")
    dst: str = setting(MISSING, "directory, *.pt file (pt) or *.ckpt prefix (tf) to write")
    to: str = setting(MISSING, "layout to write", choices=("hf", "pt", "tf"))
    config: str | None = setting(
        None, "model config of the source, if not in the directory of its weights"
    )
    cased: bool = setting(
        False, "the source's text keeps its case, where its directory does not say so"
    )
    with_optimizer: bool = setting(False, "also convert TensorFlow's Adam slots and step")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program with a command line, by default that of this process."""
    settings = parse_settings(ConvertSettings, __doc__, argv)
    from funnel.checkpoints import load_checkpoint, save_checkpoint  # NumPy: after the flags

    source = load_checkpoint(
        settings.src, config_path=settings.config, with_optimizer=settings.with_optimizer
    )
    if settings.cased:
        source.metadata["uncased"] = False
    path, kind = source.metadata["path"], source.metadata["kind"]
    extra = save_checkpoint(source, settings.dst, settings.to)
    number = sum(values.size for values in source.tensors.values())
    print(f"{path} ({kind}) -> {settings.dst} ({settings.to}): {number:,} weights")
    if extra:
        print(f"kept in *extra.safetensors, for lack of a name ({len(extra)}):")
        for name in extra[:_SHOWN]:
            print(f"  {name}")
        if len(extra) > _SHOWN:
            print(f"  … and {len(extra) - _SHOWN} more")


command = entry_point(main)
