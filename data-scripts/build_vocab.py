r"""Build a vocabulary from text files: WordPiece (a text file) or SentencePiece (a model).

The same input and settings give the same bytes on every machine. WordPiece keeps counts of words;
SentencePiece holds all lines in memory, so give it a sample of a large corpus.

    python data-scripts/build_vocab.py --input 'corpus/*.txt' --output vocab.uncased.txt
    python data-scripts/build_vocab.py --input corpus/a.txt corpus/b.txt --output spiece.model \
        --type sent_piece --vocab_size 32000 --cased
"""

import _paths  # noqa: F401

from funnel.utils.main import run_main
from funnel_data.cli.build_vocab import main

if __name__ == "__main__":
    run_main(lambda: main(__doc__))
