r"""Turn a Wikipedia dump into text: one sentence per line, an empty line after each article.

    python data-scripts/fetch.py wikipedia
    {program} \
        --input data/wikipedia/enwiki-latest-pages-articles.xml.bz2 \
        --output_dir corpus/wikipedia
    {program} --input 'enwiki-*-pages-articles*.xml-p*.bz2' \
        --output_dir corpus/wikipedia --num_task=8 --task=0        # one machine of eight

Dumps come from dumps.wikimedia.org, in any language, as .xml or .xml.bz2, "multistream" or not.
Every process reads its own part of the file, and a compressed dump is never decompressed on disk.
Running text is kept; templates, tables, references, formulas, pictures, headings, lists, redirects
and pages that are not articles are left out. Run again, the same command writes only the missing
files. The English dump (25 GB, 100 GB decompressed) takes about 5 hours of one core, divided by the
number of processes, and gives an estimated 16 GB of text.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from funnel.cli.command import entry_point, fill_in
from funnel.utils.logging import configure_logging
from funnel_data.cli.sharding import add_sharding_flags, run_shards, shard_bytes
from funnel_data.corpora.sharding import plan_shards
from funnel_data.corpora.text_files import find_files
from funnel_data.corpora.wikipedia import WikipediaReader, check_dump
from funnel_data.corpora.wikitext import NO_TEXT, WikitextOptions


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flag = parser.add_argument_group("files").add_argument
    flag("--input", nargs="+", required=True, help="dumps, or quoted patterns of them")
    flag("--output_dir", required=True, help="folder for wikipedia.00000-of-00123.txt and so on")
    flag = parser.add_argument_group("text").add_argument
    flag(
        "--min_characters",
        type=int,
        default=100,
        help="leave out articles with less text, e.g. those that only list others (%(default)s)",
    )
    flag("--keep_lists", action="store_true", help="keep list items, each as a paragraph")
    flag("--unique_lines", action="store_true", help="leave out repeated lines of an output file")
    add_sharding_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program with a command line, by default that of this process."""
    flags = make_parser(fill_in(__doc__)).parse_args(argv)
    configure_logging()
    size = shard_bytes(flags)
    dumps = find_files(flags.input)
    names = frozenset(NO_TEXT.union(*(check_dump(Path(dump)) for dump in dumps)))
    reader = WikipediaReader(WikitextOptions(flags.keep_lists, names))
    # A dump can be read from any byte, compressed or not.
    shards = plan_shards(dumps, "wikipedia", size, is_splittable=lambda _: True)
    settings = {"program": "prepare_wikipedia.py", "keep_lists": flags.keep_lists}
    run_shards(shards, reader, settings, flags)


command = entry_point(main)
