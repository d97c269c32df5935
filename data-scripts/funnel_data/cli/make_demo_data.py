"""Command line of ``make_demo_data.py``."""

from __future__ import annotations

import argparse
import sysconfig
from pathlib import Path

from funnel_data.corpora.python_docs import make_demo_data


def main(description: str | None) -> None:
    """Run the program; ``description`` is the text of ``--help``."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flag = parser.add_argument
    flag("--output_dir", type=Path, required=True, help="directory for the files")
    flag("--vocab_size", type=int, default=6000, help="entries of the vocabulary (%(default)s)")
    flag(
        "--library",
        type=Path,
        default=Path(sysconfig.get_paths()["stdlib"]),
        help="root of a standard library (default: that of the running Python)",
    )
    flags = parser.parse_args()
    sizes = make_demo_data(flags.output_dir, flags.vocab_size, flags.library)
    print(f"{flags.output_dir}: " + ", ".join(f"{n} {split}" for split, n in sizes.items()))
