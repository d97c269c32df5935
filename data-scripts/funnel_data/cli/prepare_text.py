r"""Turn a folder of text into a corpus: one sentence per line, an empty line after each document.

    {program} --input books/ --output_dir corpus/books \
        --documents=file --lines=wrapped
    {program} --input 'crawl/*.jsonl.gz' --output_dir corpus/crawl \
        --text_key=text --unique_lines

Reads .txt, .jsonl, Common Crawl's .warc.wet and Gigaword's SGML (--format=gigaword), plain or
compressed with gzip, bzip2 or xz. Run again, the same command writes only the missing files.

Except for Wikipedia, the paper's corpora cannot be downloaded freely. With a copy of your own:

  BookCorpus     11,000 novels (5 GB). The authors no longer give it out; ask them, at
                 https://yknzhu.wixsite.com/mbweb, or collect free books yourself.
                 --documents=file --lines=wrapped
  Gigaword 5     English newswire (16 GB): LDC2011T07 of the Linguistic Data Consortium, for a
                 fee, at https://catalog.ldc.upenn.edu.  --format=gigaword
  ClueWeb12-B    50 million web pages, on disks from Carnegie Mellon University, under a signed
                 licence: https://lemurproject.org/clueweb12. It is HTML: take the text out first
                 with a tool such as trafilatura or resiliparse and write JSON lines.
                 --text_key=text --unique_lines
  Common Crawl   free at https://commoncrawl.org, terms of use apply. The WET files hold the text
                 of pages in all languages, menus included: filter them first, or use a filtered
                 set (C4, FineWeb).  .warc.wet.gz as it is, or JSON lines
"""

from __future__ import annotations

import argparse
import codecs
from collections.abc import Sequence
from dataclasses import asdict, fields

from funnel.cli.command import entry_point, fill_in
from funnel.utils.errors import ConfigError
from funnel.utils.logging import configure_logging
from funnel_data.cli.sharding import add_sharding_flags, run_shards, shard_bytes
from funnel_data.corpora.sharding import plan_shards
from funnel_data.corpora.text_files import (
    DOCUMENTS,
    FORMATS,
    LINES,
    TextOptions,
    TextReader,
    find_text_files,
)


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return the parser; defaults are those of :class:`TextOptions`."""
    default = TextOptions()
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flag = parser.add_argument_group("files").add_argument
    flag("--input", nargs="+", required=True, help="folders, files, or quoted patterns of files")
    flag("--output_dir", required=True, help="folder for text.00000-of-00123.txt and so on")
    flag("--format", choices=FORMATS, default=default.format, help="auto: by file name suffix")
    flag("--text_key", default=default.text_key, help="jsonl: key of the text (%(default)s)")
    flag("--encoding", default=default.encoding, help="of the files (%(default)s)")
    flag(
        "--errors",
        choices=("strict", "replace", "ignore"),
        default=default.errors,
        help="invalid bytes: stop with an error, replace by U+FFFD, leave out (%(default)s)",
    )
    flag = parser.add_argument_group("text").add_argument
    flag(
        "--documents",
        choices=DOCUMENTS,
        default=default.documents,
        help="txt: a document ends at an empty line, a line end, the file's end (%(default)s)",
    )
    flag(
        "--lines",
        choices=LINES,
        default=default.lines,
        help="a line is a paragraph, wrapped (paragraphs end at empty lines), or one sentence",
    )
    flag("--min_characters", type=int, default=1, help="leave out shorter documents (%(default)s)")
    flag("--unique_lines", action="store_true", help="leave out repeated lines of an output file")
    add_sharding_flags(parser)
    return parser


def make_options(flags: argparse.Namespace) -> TextOptions:
    """Return the settings of the reader.

    Raises:
        ConfigError: Python does not have the encoding.
    """
    try:
        codecs.lookup(flags.encoding)
    except LookupError as error:
        raise ConfigError(
            f"--encoding={flags.encoding}: unknown; examples are utf-8 and latin-1"
        ) from error
    return TextOptions(**{field.name: getattr(flags, field.name) for field in fields(TextOptions)})


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program with a command line, by default that of this process."""
    flags = make_parser(fill_in(__doc__)).parse_args(argv)
    configure_logging()
    size, options = shard_bytes(flags), make_options(flags)
    files = find_text_files(flags.input, options)
    shards = plan_shards(files, "text", size, options.is_splittable)
    settings = {"program": "prepare_text.py", **asdict(options)}
    run_shards(shards, TextReader(options), settings, flags)


command = entry_point(main)
