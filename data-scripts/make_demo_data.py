"""Make a corpus, a vocabulary and a labelled task from the documentation that comes with Python.

The docstrings of the standard library (read as source, never imported) and the language reference
in ``pydoc_data`` are about 2 MB of English. The task is to tell which part of the library
(networking, files, concurrency, ...) a paragraph of a docstring describes. Labels do not leak: all
paragraphs of a source file are in one split, no paragraph occurs twice, and the words of a file's
own path are replaced in its text. Nothing is downloaded; the same Python version gives the same
bytes.

    python data-scripts/make_demo_data.py --output_dir=demo_output/data

Writes ``corpus.txt`` (one sentence per line, an empty line between documents; training files only),
``vocab.txt`` (WordPiece), and ``train.tsv``, ``dev.tsv``, ``test.tsv`` (columns ``label``,
``text``).
"""

import _paths  # noqa: F401

from funnel.utils.main import run_main
from funnel_data.cli.make_demo_data import main

if __name__ == "__main__":
    run_main(lambda: main(__doc__))
