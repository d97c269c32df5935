r"""Turn a folder of text into a corpus: one sentence per line, an empty line after each document.

    python data-scripts/prepare_text.py --input books/ --output_dir corpus/books \
        --documents=file --lines=wrapped
    python data-scripts/prepare_text.py --input 'crawl/*.jsonl.gz' --output_dir corpus/crawl \
        --text_key=text --unique_lines

Reads .txt and .jsonl, Common Crawl's .warc.wet and Gigaword's SGML (--format=gigaword), packed with
gzip, bzip2 or xz or not at all. The same command again does only what is missing.

The paper's corpora beside Wikipedia cannot be downloaded freely. With a copy of your own:

  BookCorpus     11,000 novels (5 GB). The authors no longer give it out; ask them, at
                 https://yknzhu.wixsite.com/mbweb, or collect free books yourself.
                 --documents=file --lines=wrapped
  Gigaword 5     English newswire (16 GB): LDC2011T07 of the Linguistic Data Consortium, for a
                 fee, at https://catalog.ldc.upenn.edu.  --format=gigaword
  ClueWeb12-B    50 million web pages, on disks from Carnegie Mellon University, under a signed
                 licence: https://lemurproject.org/clueweb12. It is HTML: take the text out first
                 with a tool for that (trafilatura, resiliparse) and write JSON lines.
                 --text_key=text --unique_lines
  Common Crawl   free at https://commoncrawl.org, terms of use apply. The WET files hold the text
                 of pages in all languages, menus included: filter them first, or take a set that
                 is filtered (C4, FineWeb).  .warc.wet.gz as it is, or JSON lines
"""

from __future__ import annotations

import argparse
import codecs
from dataclasses import asdict
from pathlib import Path

import _paths  # noqa: F401

from funnel.utils.errors import ConfigError
from funnel.utils.logging import configure_logging
from funnel.utils.main import run_main
from funnel_data.cli.prepare import add_work_flags, run_shards, shard_bytes
from funnel_data.corpora.sharding import plan_shards
from funnel_data.corpora.text_files import (
    DOCUMENTS,
    FORMATS,
    LINES,
    TextOptions,
    TextReader,
    find_text,
)


def parse_flags() -> argparse.Namespace:
    default = TextOptions()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flag = parser.add_argument_group("files").add_argument
    flag("--input", nargs="+", required=True, help="folders, files, or quoted patterns of files")
    flag("--output_dir", required=True, help="folder for text.00000-of-00123.txt and so on")
    flag("--format", choices=FORMATS, default=default.format, help="auto: by the names' ends")
    flag("--text_key", default=default.text_key, help="jsonl: key of the text (%(default)s)")
    flag("--encoding", default=default.encoding, help="of the files (%(default)s)")
    flag(
        "--errors",
        choices=("strict", "replace", "ignore"),
        default=default.errors,
        help="bytes that are no text: stop there, put U+FFFD, leave them out (%(default)s)",
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
    flag("--unique_lines", action="store_true", help="leave out what a file of text has already")
    add_work_flags(parser)
    return parser.parse_args()


def read_options(flags: argparse.Namespace) -> TextOptions:
    """Settings of the reader; an encoding that Python does not know is refused at once."""
    try:
        codecs.lookup(flags.encoding)
    except LookupError as error:
        raise ConfigError(f"--encoding={flags.encoding}: unknown; utf-8 and latin-1 are") from error
    names = ("format", "documents", "lines", "text_key", "encoding", "errors")
    return TextOptions(**{name: getattr(flags, name) for name in names})


def main() -> None:
    configure_logging()
    flags = parse_flags()
    size, options = shard_bytes(flags), read_options(flags)
    files = find_text(flags.input, options)
    shards = plan_shards(files, "text", size, options.can_cut)
    settings = {"program": Path(__file__).name, **asdict(options)}
    run_shards(shards, TextReader(options), settings, flags)


if __name__ == "__main__":
    run_main(main)
