"""Make a corpus, a vocabulary and a labelled task from the documentation that comes with Python.

The docstrings of the standard library (read as source, never imported) and the language reference
in ``pydoc_data`` are about 2 MB of English. The task is to tell which part of the library
(networking, files, concurrency, ...) a paragraph of a docstring describes. Labels do not leak: all
paragraphs of a source file are in one split, no paragraph occurs twice, and the words of a file's
own path are replaced in its text. Nothing is downloaded; the same Python version gives the same
bytes.

    {program} --output_dir=demo_output/data

Writes ``corpus.txt`` (one sentence per line, an empty line between documents; training files only),
``vocab.txt`` (WordPiece), and ``train.tsv``, ``dev.tsv``, ``test.tsv`` (columns ``label``,
``text``).
"""

from __future__ import annotations

import argparse
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from funnel.cli.command import entry_point, fill_in
from funnel_data.corpora.python_docs import make_demo_data


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program with a command line, by default that of this process."""
    parser = argparse.ArgumentParser(
        description=fill_in(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter
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
    flags = parser.parse_args(argv)
    sizes = make_demo_data(flags.output_dir, flags.vocab_size, flags.library)
    print(f"{flags.output_dir}: " + ", ".join(f"{n} {split}" for split, n in sizes.items()))


command = entry_point(main)
