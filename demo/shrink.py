"""Write the encoder of a pretrained checkpoint in float16, with its vocabulary and the manifest.

    python demo/shrink.py runs/mlm/last data/manifest.json demo/pretrained

The last step of demo/pretrain.sh.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import _paths  # noqa: F401

from funnel.utils.files import atomic_write_json
from funnel.utils.main import run_main


def shrink(checkpoint: Path, manifest: Path, output: Path) -> None:
    """Write ``config.json``, ``model.safetensors`` (float16), ``vocab.txt``, ``manifest.json``.

    The masked language model's head (``funnel_extra.safetensors``) and the optimizer's state are
    left out. Of the manifest of the corpus, versions and counts are kept and the steps added.
    """
    import numpy as np
    from safetensors.numpy import load_file, save_file

    output.mkdir(parents=True, exist_ok=True)
    weights = load_file(checkpoint / "model.safetensors")
    half = {name: value.astype(np.float16) for name, value in weights.items()}
    save_file(half, output / "model.safetensors", metadata={"format": "pt"})
    shutil.copyfile(checkpoint / "vocab.txt", output / "vocab.txt")
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    config.pop("funnel_checkpoint", None)  # names the file of the head
    atomic_write_json(output / "config.json", config)
    progress = json.loads((checkpoint / "progress.json").read_text(encoding="utf-8"))
    facts = json.loads(manifest.read_text(encoding="utf-8"))
    atomic_write_json(output / "manifest.json", facts | {"steps": progress["step"]})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="directory that pretrain.py wrote")
    parser.add_argument("manifest", type=Path, help="manifest.json of the corpus")
    parser.add_argument("output", type=Path, help="directory to write")
    flags = parser.parse_args()
    shrink(flags.checkpoint, flags.manifest, flags.output)


if __name__ == "__main__":
    run_main(main)
