r"""Build a vocabulary from text files: WordPiece (a text file) or SentencePiece (a model).

The same input and settings give the same bytes, on any machine. Lines are counted, not kept, for
WordPiece; SentencePiece holds them all in memory: give it a sample of a large corpus.

    python data-scripts/build_vocab.py --input 'corpus/*.txt' --output vocab.uncased.txt
    python data-scripts/build_vocab.py --input corpus/a.txt corpus/b.txt --output spiece.model \
        --type sent_piece --vocab_size 32000 --cased
"""

import argparse
import glob
import logging

import _paths  # noqa: F401

from funnel.tokenization import TOKENIZER_KINDS
from funnel.tokenization.train_vocab import VocabularyConfig, build_vocabulary, read_lines
from funnel.utils.errors import DataError, TokenizerError
from funnel.utils.logging import configure_logging, progress
from funnel.utils.main import run_main

logger = logging.getLogger(__name__)

# Flags that only one type of vocabulary has.
OWNERS = {
    "min_frequency": "word_piece",
    "max_characters": "word_piece",
    "keep_accents": "sent_piece",
}


def parse_flags() -> argparse.Namespace:
    default = VocabularyConfig()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    files = parser.add_argument_group("files")
    files.add_argument(
        "--input", nargs="+", required=True, help="UTF-8 text files or quoted patterns of them"
    )
    files.add_argument("--output", required=True, help="vocabulary or model file to write")

    size = parser.add_argument_group("vocabulary")
    size.add_argument(
        "--type", choices=TOKENIZER_KINDS, default=default.kind, help="(default: %(default)s)"
    )
    size.add_argument(
        "--vocab_size",
        type=int,
        default=default.vocab_size,
        help="number of entries, special symbols included (default: %(default)s)",
    )
    size.add_argument(
        "--min_frequency",
        type=int,
        help=f"word_piece: rarest pair that is merged (default: {default.min_frequency})",
    )
    size.add_argument(
        "--max_characters",
        type=int,
        help="word_piece: number of most frequent characters that are covered "
        f"(default: {default.max_characters})",
    )

    text = parser.add_argument_group("text")
    case = text.add_mutually_exclusive_group()
    case.add_argument(
        "--uncased", dest="uncased", action="store_true", default=True, help="lower-case (default)"
    )
    case.add_argument("--cased", dest="uncased", action="store_false", help="keep case")
    text.add_argument(
        "--keep_accents",
        action="store_true",
        default=None,
        help="sent_piece: keep accents and compatibility characters",
    )
    return parser.parse_args()


def make_config(flags: argparse.Namespace) -> VocabularyConfig:
    """Turn flags into settings; a flag of the other type is refused, not ignored."""
    given = {name: getattr(flags, name) for name in OWNERS if getattr(flags, name) is not None}
    for name in given:
        if OWNERS[name] != flags.type:
            raise TokenizerError(f"--{name} is for --type {OWNERS[name]}, not {flags.type}")
    return VocabularyConfig(
        kind=flags.type, vocab_size=flags.vocab_size, uncased=flags.uncased, **given
    )


def find_files(patterns: list[str]) -> list[str]:
    """Return the files that names and patterns stand for, sorted and each once."""
    found: set[str] = set()
    for pattern in patterns:
        matches = glob.glob(pattern, recursive=True)
        if not matches:
            raise DataError(f"--input {pattern}: no such file")
        found.update(matches)
    return sorted(found)


def main() -> None:
    configure_logging()
    flags = parse_flags()
    config = make_config(flags)
    files = find_files(flags.input)
    lines = progress(read_lines(files), desc="reading")
    size = build_vocabulary(lines, flags.output, config)
    logger.info("%s: %d entries from %d files", flags.output, size, len(files))


if __name__ == "__main__":
    run_main(main)
