"""Make a corpus, a vocabulary and two labelled tasks from the docstrings of installed packages.

torch, scipy, sympy, scikit-learn, networkx, numpy and matplotlib, which the PyTorch half installs,
contain 12 MB of English docstrings (read as source, never imported). The tasks, on the same texts:

    topic    which of their sub-packages does a docstring come from (34 classes)?
    order    are the words in their order, or did pairs of neighbours change places?

Labels do not leak: all texts of a source file are in one split, no text occurs twice, and the names
of the packages and the words of a file's own path are replaced in its text. Nothing is downloaded;
the same versions give the same bytes.

    {program} --output_dir=demo_output/data --task_only
    {program} --output_dir=demo_output/corpus

Writes ``train.tsv``, ``dev.tsv``, ``test.tsv`` (columns ``label``, ``text``) in the folders
``topic`` and ``order``, ``manifest.json`` (versions and counts) and, without --task_only,
``corpus.txt`` (one sentence per line, an empty line between docstrings; without the files of dev
and test) and ``vocab.txt`` (WordPiece).
"""

from __future__ import annotations

import argparse
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from funnel.cli.command import entry_point, fill_in
from funnel_data.corpora.python_docs import DISTRIBUTIONS, TaskConfig, make_demo_data


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program with a command line, by default that of this process."""
    parser = argparse.ArgumentParser(
        description=fill_in(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flag, task = parser.add_argument, TaskConfig()
    flag("--output_dir", type=Path, required=True, help="directory for the files")
    flag("--task_only", action="store_true", help="no corpus and no vocabulary")
    flag("--vocab_size", type=int, default=8192, help="entries of the vocabulary (%(default)s)")
    flag("--train", type=int, default=task.train, help="training texts for topic (%(default)s)")
    flag("--order_train", type=int, default=task.order_train, help="for order (%(default)s)")
    flag("--min_words", type=int, default=task.min_words, help="of a text (%(default)s)")
    flag("--max_words", type=int, default=task.max_words, help="longer texts are cut (%(default)s)")
    paths = sysconfig.get_paths()
    flag(
        "--library",
        type=Path,
        action="append",
        help="folder that holds the packages (default: those of the running Python)",
    )
    flags = parser.parse_args(argv)
    roots = flags.library or list(dict.fromkeys(Path(paths[x]) for x in ("purelib", "platlib")))
    counts = make_demo_data(
        flags.output_dir,
        roots,
        TaskConfig(
            train=flags.train,
            order_train=flags.order_train,
            min_words=flags.min_words,
            max_words=flags.max_words,
        ),
        None if flags.task_only else flags.vocab_size,
    )
    print(f"{flags.output_dir}: " + ", ".join(f"{n:,} {name}" for name, n in counts.items()))
    missing = [name for name in DISTRIBUTIONS if not any((root / name).is_dir() for root in roots)]
    if missing:
        print(f"not installed, and left out: {', '.join(missing)}")


command = entry_point(main)
