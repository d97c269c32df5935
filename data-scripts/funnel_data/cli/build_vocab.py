r"""Build a vocabulary from text files: WordPiece (a text file) or SentencePiece (a model).

The same input and settings give the same bytes on every machine. WordPiece keeps counts of words;
SentencePiece holds all lines in memory, so give it a sample of a large corpus.

    {program} --input 'corpus/*.txt' --output vocab.uncased.txt
    {program} --input corpus/a.txt corpus/b.txt --output spiece.model \
        --type sent_piece --vocab_size 32000 --cased
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from funnel.cli.command import entry_point, fill_in
from funnel.tokenization import TOKENIZER_KINDS
from funnel.tokenization.train_vocab import VocabularyConfig, build_vocabulary, read_lines
from funnel.utils.errors import DataError, TokenizerError
from funnel.utils.logging import configure_logging, progress
from funnel_data.corpora.text_files import find_files

logger = logging.getLogger(__name__)

# Flags that apply to one type of vocabulary only.
_TYPE_OF_FLAG = {
    "min_frequency": "word_piece",
    "max_characters": "word_piece",
    "max_words": "word_piece",
    "keep_accents": "sent_piece",
    "sample_characters": "sent_piece",
}


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return the parser; defaults are those of :class:`VocabularyConfig`."""
    default = VocabularyConfig()
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flag = parser.add_argument_group("files").add_argument
    flag("--input", nargs="+", required=True, help="UTF-8 text files or quoted patterns of them")
    flag("--output", required=True, help="vocabulary or model file to write")
    flag = parser.add_argument_group("vocabulary").add_argument
    flag("--type", choices=TOKENIZER_KINDS, default=default.kind, help="(default: %(default)s)")
    flag(
        "--vocab_size",
        type=int,
        default=default.vocab_size,
        help="number of entries, special tokens included (default: %(default)s)",
    )
    flag(
        "--min_frequency",
        type=int,
        help="word_piece: least frequency of a pair that is merged "
        f"(default: {default.min_frequency})",
    )
    flag(
        "--max_characters",
        type=int,
        help="word_piece: number of characters covered, the most frequent ones "
        f"(default: {default.max_characters})",
    )
    flag(
        "--max_words",
        type=int,
        help="word_piece: distinct words held in memory; the rarest are dropped beyond that "
        f"(default: {default.max_words})",
    )
    flag(
        "--sample_characters",
        type=int,
        help="sent_piece: characters to train on, 20 bytes of memory each; of longer text, every "
        f"2nd, 4th, ... line is used (default: {default.sample_characters})",
    )
    text = parser.add_argument_group("text")
    flag = text.add_mutually_exclusive_group().add_argument
    flag("--uncased", action="store_true", default=default.uncased, help="lower-case (default)")
    flag("--cased", dest="uncased", action="store_false", help="keep case")
    text.add_argument(
        "--keep_accents",
        action="store_true",
        default=None,
        help="sent_piece: keep accents and compatibility characters",
    )
    return parser


def make_config(flags: argparse.Namespace) -> VocabularyConfig:
    """Return the settings.

    Raises:
        TokenizerError: a flag of the other type was given.
    """
    names = [name for name in _TYPE_OF_FLAG if getattr(flags, name) is not None]
    for name in names:
        if _TYPE_OF_FLAG[name] != flags.type:
            raise TokenizerError(f"--{name} is for --type {_TYPE_OF_FLAG[name]}, not {flags.type}")
    return VocabularyConfig(
        kind=flags.type,
        vocab_size=flags.vocab_size,
        uncased=flags.uncased,
        **{name: getattr(flags, name) for name in names},
    )


def _inputs(patterns: Sequence[str], output: str) -> list[str]:
    """Return the input files without the output of an earlier run, which patterns match, too.

    Raises:
        DataError: there is no file for a pattern, or the only file is the output.
    """
    files = find_files(patterns)
    others = [path for path in files if Path(path).resolve() != Path(output).resolve()]
    if not others:
        raise DataError(f"--output={output}: is the only --input; name the texts")
    if len(others) < len(files):
        logger.info("%s: is the output, so it is not read", output)
    return others


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program with a command line, by default that of this process."""
    flags = make_parser(fill_in(__doc__)).parse_args(argv)
    configure_logging()
    config, files = make_config(flags), _inputs(flags.input, flags.output)
    lines = progress(read_lines(files), desc="reading")
    size = build_vocabulary(lines, flags.output, config)
    logger.info("%s: %d entries from %d files", flags.output, size, len(files))


command = entry_point(main)
